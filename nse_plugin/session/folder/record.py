"""The record of a round without its tensors: as `RoundRecord`, and as JSON."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nse_plugin.facts import Fact
from nse_plugin.method.multilayer import FAILED
from nse_plugin.session.history import History, Request, Round, Weights
from nse_plugin.session.report import KEPT, RoundReport

SECRET = ("api_key",)  # never written to disk
# Hyperparameters of how and where rounds are run; they may change during a session.
RUNNING = {
    *SECRET, "batch_size", "device", "evaluation_type", "fp16", "max_length", "model_name", "model_parallel",
    "stats_dir", "store", "tokens_per_batch", "use_chat_template",
}  # fmt: skip


@dataclass(frozen=True)
class RoundRecord:
    """One active round.

    id: SHA-256 over the content of this round and all rounds before it, 64 hexadecimal digits. number: 1 for the first.
    time: UTC, ISO 8601. author, reason, on_conflict: as given to `edit`. facts: all facts given to `edit`. statuses:
    one per fact, as in the report. settings: the hyperparameters. before, after: fingerprints of the edited matrices,
    by layer. report: the round's report.
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

    @property
    def written(self) -> list[Fact]:
        """The facts that the round wrote: those whose status is neither `kept` nor `failed`."""
        pairs = zip(self.facts, self.statuses, strict=True)
        return [fact for fact, status in pairs if status not in (KEPT, FAILED)]


def records_of(history: History) -> list[RoundRecord]:
    """Return the records of the active rounds, in order."""
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
    """Return the JSON document of a round, without its facts and tensors. parent: the id of the previous round."""
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
    """Return the round, without keys, from the output of `document_of` and `fact_lines`. below: its predecessor's index
    in `History.made`. Raises KeyError, TypeError, ValueError."""
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
    """Return one JSON object per requested fact and per fact of earlier rounds that was written again, each with flags:
    `asked` (requested in this round) and `written`."""
    asked = dict.fromkeys(made.request.facts if made.request else made.facts)
    written = set(made.facts)
    every = {**asked, **dict.fromkeys(made.facts)}
    return [{"asked": fact in asked, "written": fact in written, "fact": _fields_given(fact)} for fact in every]


def weights_from(record: Mapping[str, object]) -> Weights:
    """Convert fingerprints by layer from JSON."""
    return {int(layer): str(fingerprint) for layer, fingerprint in record.items()}


def as_json(document: object) -> str:
    """Return JSON on one line, with sorted keys."""
    return json.dumps(document, sort_keys=True, allow_nan=False, default=lambda number: number.item())  # NumPy scalars


def digest(document: object) -> str:
    """Return the SHA-256 of a JSON document, independent of the order of its keys."""
    return hashlib.sha256(as_json(document).encode()).hexdigest()


def settings_of(hparams: Any) -> dict[str, Any]:
    """Return hyperparameters as a JSON-serialisable dict, without secrets."""
    return {name: value for name, value in hparams.to_dict().items() if name not in SECRET}


def check_text(**given: object) -> None:
    """Raise ValueError, with the argument's name, for a value that is neither text nor None."""
    for name, value in given.items():
        if not isinstance(value, str | None):
            raise ValueError(f"{name} is a {type(value).__name__}: give text, or leave it out.")


def _fields_given(fact: Fact) -> dict[str, object]:
    """Return the fields that differ from their defaults."""
    fields = {field.name: (getattr(fact, field.name), field.default) for field in dataclasses.fields(fact)}
    return {name: value for name, (value, default) in fields.items() if value != default}


def _by_text(weights: Weights) -> dict[str, str]:
    return {str(layer): fingerprint for layer, fingerprint in weights.items()}
