"""What is measured of a model as such, whatever facts were written into it: general ability and drift.

An instrument reads the unedited model once, and every edited one against that. `metrics=[...,ability,drift]`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
import torch
from torch import Tensor

from nse_plugin.evaluation.hidden_drift import Plane, hidden_drift, hidden_states
from nse_plugin.evaluation.multiple_choice import ALL, answer_questions, kept
from nse_plugin.evaluation.next_token_drift import NextTokenReference, next_token_drift, next_token_reference
from nse_plugin.evaluation.spacing import evenly_spaced
from nse_plugin.evaluation.weight_change import weight_change
from nse_plugin.experiments.ability import Examination
from nse_plugin.experiments.plan import ModelChoice, PlanError, known, positive
from nse_plugin.facts import Fact
from nse_plugin.models.loading import load

ABILITY, DRIFT = "ability", "drift"
POSITIONS, TOKENS = 256, 4096  # of the held-out text
_RIGHT = ("accuracy", "acc")  # of questions, of tasks
_LOGITS, _STATES = "next_token.", "states"


@dataclass(frozen=True)
class Reading:
    """One model, read. overall: by metric. tables: more than a number, by the name of a CSV file."""

    overall: dict[str, float]
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)


class Instrument(Protocol):
    def check(self, facts: Sequence[Fact]) -> None:
        """Raise PlanError for facts that it cannot be used with."""

    def reference(self, model: Any, tokenizer: Any, facts: Sequence[Fact]) -> dict[str, Tensor]:
        """What must be kept of the unedited model."""

    def read(self, model: Any, tokenizer: Any, facts: Sequence[Fact], reference: Mapping[str, Tensor]) -> Reading:
        """A model against it."""


class Ability:
    """What `nse ability` asks. Metrics, by the name of a file of questions or a task: `ability_<name>`, the share of
    right answers (of tasks with another metric, `ability_<name>_<metric>`); `..._low` and `..._high`, its 95% interval;
    and of questions `ability_<name>_kept`, the share answered as by the unedited model."""

    def __init__(self, examination: Examination) -> None:
        self._examination = examination

    def check(self, facts: Sequence[Fact]) -> None:
        """Questions have nothing to do with facts."""

    def reference(self, model: Any, tokenizer: Any, facts: Sequence[Fact]) -> dict[str, Tensor]:
        return {
            name: torch.tensor(answer_questions(model, tokenizer, asked)["chosen"].to_numpy())
            for name, asked in self._examination.questions.items()
        }

    def read(self, model: Any, tokenizer: Any, facts: Sequence[Fact], reference: Mapping[str, Tensor]) -> Reading:
        scores, answers = self._examination.scores(model, tokenizer)
        overall: dict[str, float] = {}
        for row in scores[scores["subject"] == ALL].to_dict("records"):
            metric = f"{ABILITY}_{row['task']}" + ("" if row["metric"] in _RIGHT else f"_{row['metric']}")
            overall |= {metric: row["value"], f"{metric}_low": row["low"], f"{metric}_high": row["high"]}
        for name, own in answers.items():
            same = kept(own, own.assign(chosen=reference[name].numpy()))
            overall[f"{ABILITY}_{name}_kept"] = float(same["kept"].iloc[0])
        return Reading(overall, {ABILITY: scores})


class Drift:
    """Hidden states of prompts, next-token distributions of held-out text, and the weights, against the unedited
    model's. Metrics: those of `hidden_drift`, `next_token_kl` (nats), `weight_change` (the largest `relative_norm`)."""

    def __init__(
        self, prompts: Sequence[str] | None, text: str, tokens: int | None, positions: int, model: ModelChoice
    ) -> None:
        self._prompts, self._text, self._tokens, self._positions, self._model = prompts, text, tokens, positions, model

    def check(self, facts: Sequence[Fact]) -> None:
        if not self._asked(facts):
            raise PlanError("metrics.drift.prompts is null, and no fact has locality prompts: give a file of prompts.")

    def reference(self, model: Any, tokenizer: Any, facts: Sequence[Fact]) -> dict[str, Tensor]:
        kept = next_token_reference(model, tokenizer, self._text, self._positions, max_tokens=self._tokens)
        states = hidden_states(model, tokenizer, self._asked(facts))
        return {_STATES: states} | {_LOGITS + n: t for n, t in vars(kept).items()}

    def read(self, model: Any, tokenizer: Any, facts: Sequence[Fact], reference: Mapping[str, Tensor]) -> Reading:
        before, states = reference[_STATES], hidden_states(model, tokenizer, self._asked(facts))
        kept = {name.removeprefix(_LOGITS): t for name, t in reference.items() if name.startswith(_LOGITS)}
        overall = {**hidden_drift(before, states), "next_token_kl": next_token_drift(NextTokenReference(**kept), model)}
        # the original weights are read again: a second copy of the model would double the memory all the time
        unedited, _ = load(self._model.source, self._model.dtype, "cpu")
        changed = weight_change(model, ((name, weight) for name, weight in unedited.named_parameters()))
        overall["weight_change"] = float(changed["relative_norm"].max()) if len(changed) else 0.0
        points = pd.DataFrame(Plane.of(before).points(states).numpy(), columns=["x", "y"])
        return Reading(overall, {"states": points, "weights": changed})

    def _asked(self, facts: Sequence[Fact]) -> list[str]:
        return list(self._prompts or dict.fromkeys(prompt for fact in facts for prompt, _ in fact.locality_prompts))


def instruments(metrics: Mapping[str, Mapping[str, Any]], model: ModelChoice) -> dict[str, Instrument]:
    """Those that were asked for, ready to read. Raises PlanError, QuestionError or TaskError for settings that cannot
    be used, before any model is loaded."""
    found: dict[str, Instrument] = {}
    if ABILITY in metrics:
        settings = metrics[ABILITY]
        known(f"metrics.{ABILITY}", settings, ["questions", "tasks", "limit"])
        questions, tasks, limit = (settings.get(name) for name in ("questions", "tasks", "limit"))
        if not questions and not tasks:
            raise PlanError("metrics.ability has neither questions nor tasks: give metrics.ability.questions a file.")
        if limit is not None:
            positive("metrics.ability.limit", limit)
        found[ABILITY] = Ability(Examination.of(tasks or [], questions or [], limit))
    if DRIFT in metrics:
        settings = metrics[DRIFT]
        known(f"metrics.{DRIFT}", settings, ["prompts", "limit", "text", "tokens", "positions"])
        positions, tokens = settings.get("positions", POSITIONS), settings.get("tokens", TOKENS)
        positive("metrics.drift.positions", positions)
        if tokens is not None:
            positive("metrics.drift.tokens", tokens)
        prompts = _prompts(settings["prompts"], settings.get("limit")) if settings.get("prompts") else None
        found[DRIFT] = Drift(prompts, held_out_text(settings.get("text")), tokens, positions, model)
    return found


def held_out_text(path: str | None) -> str:
    """A UTF-8 file; None: a page that comes with the package. Raises PlanError."""
    if path is None:
        return (resources.files("nse_plugin.data") / "held_out.txt").read_text(encoding="utf-8")
    try:
        return Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"text = {path!r} cannot be read ({error}): give a UTF-8 text file.") from None


def _prompts(path: str, limit: int | None) -> list[str]:
    """Of a JSON list whose entries are prompts, or have a `prompt`."""
    try:
        entries = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
        prompts = [entry if isinstance(entry, str) else entry["prompt"] for entry in entries]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PlanError(
            f"metrics.drift.prompts = {path!r} cannot be used ({type(error).__name__}: {error}): give a JSON list of "
            "prompts, or of entries with a `prompt`."
        ) from None
    return [prompts[place] for place in evenly_spaced(len(prompts), limit)]
