"""Metrics of the model as a whole, independent of the edited facts: general ability and drift.

An instrument measures the unedited model once, and compares every edited model with it. Chosen with
`metrics=[...,ability,drift]`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pandas as pd
import torch
from torch import Tensor, nn

from nse_plugin.evaluation.ability.multiple_choice import ALL, kept
from nse_plugin.evaluation.drift.hidden import Plane, hidden_drift, hidden_states
from nse_plugin.evaluation.drift.next_token import NextTokenReference, next_token_drift, next_token_reference
from nse_plugin.evaluation.drift.weights import weight_change
from nse_plugin.evaluation.sampling import evenly_spaced
from nse_plugin.experiments.plan import ABILITY, DRIFT, ModelChoice, PlanError, known, positive
from nse_plugin.experiments.run.ability import SHARES, AbilityTasks
from nse_plugin.facts import Fact
from nse_plugin.models.loading import load

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROMPTS = 300  # prompts whose hidden states are compared
POSITIONS, TOKENS = 256, 4096  # of the held-out text: how many positions are compared, after how many tokens it is cut
_RIGHT = ("accuracy", "acc")  # main metric of question files, of tasks
_LOGITS, _STATES = "next_token.", "states"


@dataclass(frozen=True)
class Measurement:
    """Measurement of one model. overall: one number per metric. tables: further results as frames, by the name of
    their CSV file."""

    overall: dict[str, float]
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)


class ModelMetric(Protocol):
    def check(self, facts: Sequence[Fact]) -> None:
        """Raise PlanError if the metric cannot be used with these facts."""

    def prompts(self, facts: Sequence[Fact]) -> list[str]:
        """Return the prompts that must fit into the model's positions."""

    def begin(
        self, model: nn.Module, tokenizer: PreTrainedTokenizerBase, facts: Sequence[Fact]
    ) -> tuple[dict[str, Tensor], Measurement]:
        """Measure the unedited model. Returns the reference for edited models (e.g. hidden states [n, d]), and the
        measurement of the unedited model."""

    def read(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        facts: Sequence[Fact],
        reference: Mapping[str, Tensor],
    ) -> Measurement:
        """Measure a model against the unedited one. reference: as `begin` returned it, e.g. hidden states [n, d]."""


class Ability:
    """General ability, asked as in `nse ability`.

    Metrics, where <name> is a file of questions or a task (or a subject, for a task without a mean over its subjects):
    `ability_<name>`: share of right answers. `ability_<name>_<metric>`: another share. `task_<name>_<metric>`: a metric
    that is not a share. `ability_<name>_kept`: for files of questions, the share of questions that are answered as the
    unedited model answers them. `..._low` and `..._high`: 95% interval of each.
    """

    def __init__(self, ability_tasks: AbilityTasks) -> None:
        self._tasks = ability_tasks

    def check(self, facts: Sequence[Fact]) -> None:
        """Accept all facts: the questions do not depend on them."""

    def prompts(self, facts: Sequence[Fact]) -> list[str]:
        return []  # questions that are too long are truncated at the beginning

    def begin(
        self, model: nn.Module, tokenizer: PreTrainedTokenizerBase, facts: Sequence[Fact]
    ) -> tuple[dict[str, Tensor], Measurement]:
        scores, answers = self._tasks.scores(model, tokenizer)
        reference = {name: torch.tensor(frame[["answer", "chosen"]].to_numpy()) for name, frame in answers.items()}
        return reference, self._reading(scores, answers, reference)

    def read(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        facts: Sequence[Fact],
        reference: Mapping[str, Tensor],
    ) -> Measurement:
        return self._reading(*self._tasks.scores(model, tokenizer), reference)

    def _reading(
        self, scores: pd.DataFrame, answers: Mapping[str, pd.DataFrame], reference: Mapping[str, Tensor]
    ) -> Measurement:
        overall: dict[str, float] = {}
        together = set(scores.loc[scores["subject"] == ALL, "task"])
        for row in scores.to_dict("records"):
            if row["subject"] != ALL and row["task"] in together:
                continue
            name = row["task"] if row["subject"] == ALL else row["subject"]
            kind = ABILITY if row["metric"] in SHARES else "task"
            metric = f"{kind}_{name}" if row["metric"] in _RIGHT else f"{kind}_{name}_{row['metric']}"
            overall |= {metric: row["value"], f"{metric}_low": row["low"], f"{metric}_high": row["high"]}
        for name, own in answers.items():
            right, chosen = reference[name].numpy().T
            same = kept(own, own.assign(answer=right, chosen=chosen))
            share = same.iloc[0]
            metric = f"{ABILITY}_{name}_kept"
            overall |= {metric: share["kept"], f"{metric}_low": share["low"], f"{metric}_high": share["high"]}
        return Measurement(overall, {ABILITY: scores})


class Drift:
    """Drift from the unedited model: hidden states of prompts, next-token distributions of held-out text, and weights.

    Metrics: those of `hidden_drift`; `next_token_kl` (nats); `weight_change` and `weight_rank`, the largest
    `relative_norm` and the largest `rank` over all changed matrices. The last two are left out if a method has added
    modules to the model. A metric is NaN if its states, distributions or weights are not finite.
    """

    def __init__(
        self,
        prompts: Sequence[str] | None,
        limit: int | None,
        text: str,
        tokens: int | None,
        positions: int,
        model: ModelChoice,
    ) -> None:
        self._prompts, self._limit, self._model = prompts, limit, model
        self._text, self._tokens, self._positions = text, tokens, positions

    def check(self, facts: Sequence[Fact]) -> None:
        if len(set(self.prompts(facts))) < 2:
            given = "the facts have no locality prompts" if self._prompts is None else "the file has fewer"
            raise PlanError(f"metrics.drift.prompts needs two different prompts, and {given}: give a file of prompts.")

    def begin(
        self, model: nn.Module, tokenizer: PreTrainedTokenizerBase, facts: Sequence[Fact]
    ) -> tuple[dict[str, Tensor], Measurement]:
        words = next_token_reference(model, tokenizer, self._text, self._positions, max_tokens=self._tokens)
        states = hidden_states(model, tokenizer, self.prompts(facts))
        kept = {_STATES: states} | {_LOGITS + n: t for n, t in vars(words).items()}
        return kept, self._reading(model, states, kept)

    def read(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        facts: Sequence[Fact],
        reference: Mapping[str, Tensor],
    ) -> Measurement:
        return self._reading(model, hidden_states(model, tokenizer, self.prompts(facts)), reference)

    def _reading(self, model: nn.Module, states: Tensor, reference: Mapping[str, Tensor]) -> Measurement:
        before = reference[_STATES]
        kept = {name.removeprefix(_LOGITS): t for name, t in reference.items() if name.startswith(_LOGITS)}
        overall = {**hidden_drift(before, states), "next_token_kl": next_token_drift(NextTokenReference(**kept), model)}
        points = pd.DataFrame(Plane.of(before).points(states).numpy(), columns=["x", "y"])
        # Load the original weights again: keeping a second copy of the model would double the memory of the whole run.
        unedited, _ = load(self._model.source, self._model.dtype, "cpu")
        originals = dict(unedited.named_parameters())
        if originals.keys() != dict(model.named_parameters()).keys():  # e.g. an adapter wraps a layer
            return Measurement(overall, {"states": points})
        changed = weight_change(model, originals.items())
        for metric, column in (("weight_change", "relative_norm"), ("weight_rank", "rank")):
            values = changed[column].to_numpy(dtype=float, na_value=math.nan)
            overall[metric] = float(values.max(initial=0.0))  # NaN if any of them is
        return Measurement(overall, {"states": points, "weights": changed})

    def prompts(self, facts: Sequence[Fact]) -> list[str]:
        every = self._prompts
        if every is None:
            every = list(dict.fromkeys(prompt for fact in facts for prompt, _ in fact.locality_prompts))
        return [every[place] for place in evenly_spaced(len(every), self._limit)]


def instruments(metrics: Mapping[str, Mapping[str, Any]], model: ModelChoice) -> dict[str, ModelMetric]:
    """Return the instruments that `metrics` asks for, by name. Raises PlanError, QuestionError or TaskError for
    unusable settings, before any model is loaded."""
    found: dict[str, ModelMetric] = {}
    if ABILITY in metrics:
        settings = metrics[ABILITY]
        known(f"metrics.{ABILITY}", settings, ["questions", "tasks", "limit"])
        questions, tasks, limit = (settings.get(name) for name in ("questions", "tasks", "limit"))
        if not questions and not tasks:
            raise PlanError("metrics.ability has neither questions nor tasks: give metrics.ability.questions a file.")
        if limit is not None:
            positive("metrics.ability.limit", limit)
        found[ABILITY] = Ability(AbilityTasks.of(tasks or [], questions or [], limit))
    if DRIFT in metrics:
        settings = metrics[DRIFT]
        known(f"metrics.{DRIFT}", settings, ["prompts", "limit", "text", "tokens", "positions"])
        positions, tokens = settings.get("positions", POSITIONS), settings.get("tokens", TOKENS)
        positive("metrics.drift.positions", positions)
        if tokens is not None:
            positive("metrics.drift.tokens", tokens)
        limit = settings.get("limit", PROMPTS)
        if limit is not None:
            positive("metrics.drift.limit", limit)
        prompts = _prompts(settings["prompts"]) if settings.get("prompts") else None
        text = held_out_text("metrics.drift.text", settings.get("text"))
        found[DRIFT] = Drift(prompts, limit, text, tokens, positions, model)
    return found


def held_out_text(setting: str, path: str | None) -> str:
    """Read a held-out text from a UTF-8 file. path: None for the text that comes with this package. setting: name of
    the setting that gives the path, for error messages. Raises PlanError if the file cannot be read or is empty."""
    if path is None:
        return (resources.files("nse_plugin.data") / "held_out.txt").read_text(encoding="utf-8")
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"{setting} = {path!r} cannot be read ({error}): give a UTF-8 text file.") from None
    if not text.strip():
        raise PlanError(f"{setting} = {path!r} holds no text: give one to measure on, or leave the setting out.")
    return text


def _prompts(path: str) -> list[str]:
    """Read prompts from a JSON list whose entries are prompts or objects with a `prompt`. Raises PlanError."""
    try:
        entries = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PlanError(f"metrics.drift.prompts = {path!r} cannot be read ({error}): give a JSON list.") from None
    prompts = []
    for entry in entries if isinstance(entries, list) else [entries]:
        prompt = entry.get("prompt") if isinstance(entry, dict) and isinstance(entries, list) else entry
        if not isinstance(prompt, str) or not prompt.strip():
            raise PlanError(
                f"metrics.drift.prompts = {path!r} holds {prompt!r:.60}: give a JSON list of prompts, or of entries "
                "with a `prompt`."
            )
        prompts.append(prompt)
    return prompts
