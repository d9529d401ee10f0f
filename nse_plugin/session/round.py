"""The two steps of a round: plan it without changing the model, then write it. The caller commits or reverts it."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nse_plugin.facts import Fact, FactError
from nse_plugin.facts.conflicts import check_round
from nse_plugin.facts.names import warn_of_left_out_names
from nse_plugin.method.multilayer import FAILED, edit_layers
from nse_plugin.method.protected_keys import ProtectedKeys
from nse_plugin.method.rewind import OriginalWeights
from nse_plugin.method.subjects import Form, by_fact, same_subject
from nse_plugin.method.targets import TargetPredictions, predictions
from nse_plugin.patch.columns import difference
from nse_plugin.session.edited import EditedModel, prompts_of
from nse_plugin.session.history import History, Request
from nse_plugin.session.masters import Masters, changed_masters
from nse_plugin.session.report import MOMENTS, RoundReport, Targets
from nse_plugin.session.state import EditState
from nse_plugin.session.value_source import ValueSource
from nse_plugin.support.suggestions import number_of
from nse_plugin.support.timing import timed

log = logging.getLogger(__name__)

ON_CONFLICT = ("replace", "keep", "error")


@dataclass
class Plan:
    """Everything that is computed for a round before it changes the model.

    facts: the facts to write. written: their indices in the request's facts. again: facts of earlier rounds that are
    written again with them. earlier: all facts of earlier rounds about the same subjects. asked: the forms of `facts`
    and `again`, used for predictions. forms: the same with attention sinks avoided, used for writing. values: z [m, d]
    of the forms. moments: {layer: [f, f]}. said: the target predictions by the index of the form. from_store: how many
    values were read from the store. started: start of the round on the clock of `time.monotonic`. seconds: wall time by
    part.
    """

    request: Request
    facts: list[Fact]
    written: list[int]
    again: list[Fact]
    earlier: list[Fact]
    asked: list[Form]
    forms: list[Form]
    values: Tensor
    moments: dict[int, Tensor]
    said: dict[int, TargetPredictions]
    from_store: int
    started: float
    seconds: dict[str, float] = field(default_factory=dict)


def conflicts(history: History, facts: Sequence[Fact]) -> dict[int, Fact]:
    """Return {index of a fact: the active fact that it conflicts with}, with the same question and another target."""
    standing = {fact.question: fact for fact in history.standing_facts(facts)}
    found = {place: standing[fact.question] for place, fact in enumerate(facts) if fact.question in standing}
    return {place: fact for place, fact in found.items() if fact.signature != facts[place].signature}


def plan_round(
    edited: EditedModel,
    source: ValueSource,
    state: EditState,
    history: History,
    request: Request,
    values: Tensor | None = None,
) -> Plan | RoundReport:
    """Compute what a round needs, without changing the model. Returns a report if there is nothing to write.

    values: z [m, d] as returned by `EditSession.values`; None to compute them. Raises FactError, HyperParamsError,
    LayoutError, MomentsError, ValueError.
    """
    started, read_before, seconds = time.monotonic(), source.from_store, dict[str, float]()
    check_round(request.facts)
    warn_of_left_out_names(request.facts)
    edited.check(state)
    written = _to_write(history, request)
    if not written:
        return RoundReport.of_kept(request.facts)
    facts = [request.facts[place] for place in written]
    earlier = history.standing_facts(facts)
    again = again_with(earlier, facts) if edited.hparams.accumulate else []
    if values is not None and again:
        log.warning(
            "%s of earlier rounds: about a subject of this one, and the values given for it do not serve what was "
            "written before; it is overwritten.", number_of(len(again), "fact"),
        )  # fmt: skip
        again = []
    every = [*facts, *again]
    asked = edited.forms(state, every)
    if values is not None:
        _check_values(values, (len(asked), edited.layout.hidden_size))
    forms = edited.behind_words(state, every, asked)
    with timed(seconds, MOMENTS):
        moments = edited.moments(state)
    said: dict[int, TargetPredictions] = {}
    with timed(seconds, "values"):
        values = source.values(state, forms, same_subject(every, forms), said) if values is None else values
    with timed(seconds, "update"):
        source.say(state, forms, values, said)
    read = source.from_store - read_before
    return Plan(
        request, facts, written, again, earlier, asked, forms, values, moments, said, read, started, seconds
    )  # fmt: skip


def write_round(
    edited: EditedModel,
    state: EditState,
    history: History,
    plan: Plan,
    before: OriginalWeights | None,
    masters: Masters,
) -> History:
    """Write a planned round into the model and return the history with it. The caller must restore the weights after an
    error.

    before: the current edited matrices, to record which columns change; None to record nothing. masters: the current
    master copies; they are not modified. Raises UpdateError.
    """
    written_to = {layer: master.clone() for layer, master in masters.items()}
    hparams, layout = edited.hparams, edited.layout_of(state)
    with timed(plan.seconds, "update"):
        protected = history.knowledge if hparams.accumulate else ProtectedKeys()
        result = edit_layers(layout, prompts_of(plan.forms), plan.values, plan.moments, protected, hparams, written_to)
        after = predictions(edited.layout, prompts_of(plan.asked))
    targets = [Targets(*plan.said[place], one) for place, one in enumerate(after)]
    total = time.monotonic() - plan.started
    report = RoundReport.of(
        plan.facts, plan.again, by_fact(plan.asked), result, targets, plan.earlier, total, plan.seconds, plan.from_store
    ).with_kept(plan.request.facts, plan.written)
    sound = {form.owner for form, status in zip(plan.asked, result.status, strict=True) if status != FAILED}
    written = [fact for place, fact in enumerate([*plan.facts, *plan.again]) if place in sound]
    keys = result.keys if hparams.accumulate else {}
    changed: dict[str, Any] = {"request": plan.request}
    if before is not None:
        changed["columns"] = difference(edited.matrices, before.tensors)
        changed["master_columns"] = changed_masters(edited.matrices, masters, written_to)
    return history.extended(edited.weights(), keys, report, written, written_to or None, **changed)


def again_with(earlier: Sequence[Fact], facts: Sequence[Fact]) -> list[Fact]:
    """Return the earlier facts to write again together with `facts`: those that no fact in `facts` replaces."""
    replaced = {fact.question for fact in facts}
    return [fact for fact in earlier if fact.question not in replaced]


def _to_write(history: History, request: Request) -> list[int]:
    """Return the indices of the facts to write. Raises FactError for conflicts if `on_conflict` is "error", ValueError
    for an unknown `on_conflict`."""
    if request.on_conflict not in ON_CONFLICT:
        raise ValueError(f"on_conflict = {request.on_conflict!r} cannot be used: use one of {', '.join(ON_CONFLICT)}.")
    against = {} if request.on_conflict == "replace" else conflicts(history, request.facts)
    if against and request.on_conflict == "error":
        place, stands = next(iter(against.items()))
        fact = request.facts[place]
        raise FactError(
            f"{number_of(len(against), 'fact')} of this round would replace what an earlier one wrote, the first: "
            f"{fact.text!r} would be {fact.target_new!r} where {stands.target_new!r} stands; leave it out, or use "
            "on_conflict='replace' or 'keep'."
        )
    return [place for place in range(len(request.facts)) if place not in against]


def _check_values(values: Tensor, needed: tuple[int, int]) -> None:
    """Raise ValueError unless values is a tensor of the shape `needed`, [n, d]."""
    if not isinstance(values, torch.Tensor):
        raise ValueError(
            f"values is a {type(values).__name__}, and these facts need a tensor {needed}, as `values` returns it."
        )
    if tuple(values.shape) != needed:
        raise ValueError(f"values has shape {tuple(values.shape)}, and these facts need {needed}: a row for each.")
