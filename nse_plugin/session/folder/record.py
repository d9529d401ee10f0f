"""What is kept of a round beside its tensors: as `RoundRecord`, and as JSON."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nse_plugin.facts import Fact
from nse_plugin.session.history import History, Request, Round, Weights
from nse_plugin.session.report import RoundReport

SECRET = ("api_key",)  # never written down
# Hyperparameters of how and where it is run: they may change during a session.
RUNNING = {
    *SECRET, "batch_size", "device", "evaluation_type", "fp16", "max_length", "model_name", "model_parallel",
    "stats_dir", "store", "tokens_per_batch", "use_chat_template",
}  # fmt: skip


@dataclass(frozen=True)
class RoundRecord:
    """One round that stands.

    id: SHA-256 of all that the round is and of the rounds below it, 64 hexadecimal digits. number: 1 for the first.
    time: UTC, ISO 8601. author, reason, on_conflict: as given to `edit`. facts: those that were given. statuses: one a
    fact, as in the report. settings: the hyperparameters. before, after: fingerprints of the edited matrices, by layer.
    report: what it did.
    """

    id: str
    number: int
    time: str
    author: str | None
    reason: str | None
    on_conflict: str
    facts: tuple[Fact, ...]
    statuses: tuple[str, ...]
    settings: Mapping[str, Any]
    before: Weights
    after: Weights
    report: RoundReport


def records_of(history: History) -> list[RoundRecord]:
    """Of the rounds that stand, in order."""
    found, before = [], history.start
    for number, made in enumerate(history.rounds, 1):
        asked = made.request or Request(made.facts)
        found.append(
            RoundRecord(
                made.id, number, asked.time, asked.author, asked.reason, asked.on_conflict, asked.facts,
                made.report.statuses, asked.settings, before, made.after, made.report,
            )
        )  # fmt: skip
        before = made.after
    return found


def document_of(made: Round, parent: str, number: int, before: Weights) -> dict[str, object]:
    """All of a round but its facts and tensors, as JSON takes it. parent: the id of the round below it."""
    asked = made.request or Request(made.facts)
    fields = {name: value for name, value in vars(asked).items() if name not in ("facts", "settings")}
    return {
        "parent": parent,
        "number": number,
        **fields,
        "settings": dict(asked.settings),
        "before": _by_text(before),
        "after": _by_text(made.after),
        "moments": _by_text(made.moments),
        "masters": _by_text(made.masters),
        "report": made.report.to_record(),
    }


def round_of(document: Mapping[str, Any], facts: Sequence[Mapping[str, Any]], below: int | None) -> Round:
    """The round that `document_of` and `fact_lines` described, without keys. Raises KeyError, TypeError, ValueError."""
    read = [Fact(**line["fact"]) for line in facts]
    asked = tuple(fact for fact, line in zip(read, facts, strict=True) if line["asked"])
    written = tuple(fact for fact, line in zip(read, facts, strict=True) if line["written"])
    names = [field.name for field in dataclasses.fields(Request) if field.name != "facts"]
    request = Request(asked, **{name: document[name] for name in names})
    report = RoundReport.from_record(document["report"])
    if len(report.statuses) != len(asked):
        raise ValueError("its report is of other facts")
    after, moments, masters = (weights_from(document[name]) for name in ("after", "moments", "masters"))
    return Round(below, after, {}, report, written, request, id=document["id"], moments=moments, masters=masters)


def fact_lines(made: Round) -> list[dict[str, object]]:
    """A line for each fact that was asked for, and for each of earlier rounds that was written again. written: whether
    it was."""
    asked = dict.fromkeys(made.request.facts if made.request else made.facts)
    written = set(made.facts)
    every = {**asked, **dict.fromkeys(made.facts)}
    return [{"asked": fact in asked, "written": fact in written, "fact": _fields_given(fact)} for fact in every]


def weights_from(record: Mapping[str, object]) -> Weights:
    """Fingerprints by layer, as JSON keeps them."""
    return {int(layer): str(fingerprint) for layer, fingerprint in record.items()}


def as_json(document: object) -> str:
    """On one line, with sorted keys."""
    return json.dumps(document, sort_keys=True, allow_nan=False, default=lambda number: number.item())  # of numpy


def digest(document: object) -> str:
    """SHA-256 of what JSON takes, whatever the order of its keys."""
    return hashlib.sha256(as_json(document).encode()).hexdigest()


def settings_of(hparams: Any) -> dict[str, Any]:
    """Hyperparameters as JSON takes them, without secrets."""
    return {name: value for name, value in hparams.to_dict().items() if name not in SECRET}


def check_text(**given: object) -> None:
    """Raise ValueError for what is neither text nor None, by its name."""
    for name, value in given.items():
        if not isinstance(value, str | None):
            raise ValueError(f"{name} is a {type(value).__name__}: give text, or leave it out.")


def _fields_given(fact: Fact) -> dict[str, object]:
    """The fields that differ from their defaults."""
    fields = {field.name: (getattr(fact, field.name), field.default) for field in dataclasses.fields(fact)}
    return {name: value for name, (value, default) in fields.items() if value != default}


def _by_text(weights: Weights) -> dict[str, str]:
    return {str(layer): fingerprint for layer, fingerprint in weights.items()}
