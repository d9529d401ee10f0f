"""The report of one round of edits, with one row per fact."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nse_plugin.evaluation.teacher_forcing import Prediction
from nse_plugin.facts import Fact
from nse_plugin.method.multilayer import DONE, FAILED, OFF_TARGET, SKIPPED, RoundResult
from nse_plugin.support.suggestions import number_of

if TYPE_CHECKING:
    import pandas

MOMENTS = "moments"  # the part of a round's time that is spent once per model


WEAK_VALUE = "weak_value"
KEPT = "kept"
_AGAIN = ["case_id", "status", "residual", "target_after", "is_said"]
_STATUSES = (DONE, WEAK_VALUE, OFF_TARGET, SKIPPED, FAILED)  # from best to worst


@dataclass(frozen=True)
class Targets:
    """The predictions of one target in the bare prompt: by the model that z was computed for (the unedited one, unless
    `rewind: false`), by the same model with z, and by the edited model after the round."""

    before: Prediction
    under_z: Prediction
    after: Prediction


@dataclass(frozen=True)
class RoundReport:
    """The report of one round. No fact is dropped silently: each has a row.

    frame: pandas, one row per fact; for a fact with several forms (names, plain text and chat), the worst values:
        case_id
        subject: as given or found
        status: `done`; `weak_value`: as close to z as `done`, but with z the model does not predict the target (not
            each of its tokens is the most likely one), or the target is not more probable than before; `off_target`:
            residual still above alpha; `skipped_upper_bound`: only with preset released, took part in no update;
            `failed`: not finite, left out; `kept`: not written, because an earlier round wrote another target
            (`on_conflict="keep"`)
        residual_before, residual: norm(z - h) in the unit of the hidden states
        passes: number of updates that the fact took part in
        target_before, target_under_z, target_after: probability of the target (geometric mean over its tokens) in the
            bare prompt, on the model that z was computed for (the unedited one, unless `rewind: false`), on that model
            with z, and after the round; is_said: whether each of its tokens is the most likely one after the round
        same_subject: the number of other active facts about the subject, of this round and earlier ones, which share
            the fact's value
        replaces: the target that an earlier round wrote for the same prompt and subject
        seconds: the fact's share of the round's time, without second moments
    again: pandas, one row per fact of an earlier round that was written again because this round has a fact about its
        subject: case_id, status, residual, target_after and is_said, as above
    seconds: the round's wall time by part: "moments" (read or measured, in the first round), "values", "update"
    (including the model's predictions before and after it).
    values_from_store: how many of the round's z were read from the store and not computed.
    """

    frame: pandas.DataFrame
    again: pandas.DataFrame
    seconds: dict[str, float] = field(default_factory=dict)
    values_from_store: int = 0

    @classmethod
    def of(
        cls,
        facts: Sequence[Fact],
        again: Sequence[Fact],
        forms: Sequence[Sequence[int]],
        result: RoundResult,
        targets: Sequence[Targets],
        earlier: Sequence[Fact],
        total: float,
        seconds: dict[str, float],
        from_store: int,
    ) -> RoundReport:
        """Build the report of a round. again: facts of earlier rounds that were written again. forms: the forms of each
        fact, first of `facts`, then of `again`, as indices into result and targets (from `by_fact`). earlier: facts of
        earlier rounds about the same subjects, written again or not. total: the round's wall time in seconds, including
        second moments."""
        import pandas

        every = [*facts, *again]
        before = {fact.question: fact.target_new for fact in earlier}
        about: dict[str, set[tuple[str, str]]] = defaultdict(set)
        for fact in {fact.question: fact for fact in (*earlier, *facts)}.values():
            for name in fact.names:
                about[name.strip()].add(fact.question)

        def worst(values: Sequence[object], choose: Callable[[list[Any]], Any]) -> list[Any]:
            return [choose([values[place] for place in places]) for places in forms]

        status = [_status(own, target) for own, target in zip(result.status, targets, strict=True)]
        frame = pandas.DataFrame(
            {
                "case_id": _case_ids(every),
                "subject": [fact.subject for fact in every],
                "status": worst(status, lambda own: max(own, key=_STATUSES.index)),
                "residual_before": worst(result.residual_before.tolist(), max),
                "residual": worst(result.residual.tolist(), max),
                "passes": worst(result.passes.tolist(), max),
                "target_before": worst([one.before.probability for one in targets], min),
                "target_under_z": worst([one.under_z.probability for one in targets], min),
                "target_after": worst([one.after.probability for one in targets], min),
                "is_said": worst([one.after.is_said for one in targets], all),
                "same_subject": [len(set().union(*(about[name.strip()] for name in fact.names))) - 1 for fact in every],
                "replaces": pandas.Series([before.get(fact.question) for fact in every], dtype=object),
                "seconds": (total - seconds.get(MOMENTS, 0.0)) / len(facts),
            }
        )
        own, rest = frame.iloc[: len(facts)], frame.iloc[len(facts) :].reset_index(drop=True)
        return cls(own, rest[_AGAIN], seconds, from_store)

    def with_kept(self, facts: Sequence[Fact], written: Sequence[int]) -> RoundReport:
        """Return the report with additional rows of status `kept` for the facts of the round that were not written.

        facts: all facts of the round. written: the indices of the facts that already have a row, in order."""
        import pandas

        kept = [place for place in range(len(facts)) if place not in {*written}]
        if not kept:
            return self
        frame = pandas.concat([self.frame.set_axis(list(written)), _kept_rows(facts, kept)]).sort_index()
        return dataclasses.replace(self, frame=frame.assign(case_id=_case_ids(facts)))

    @classmethod
    def of_kept(cls, facts: Sequence[Fact]) -> RoundReport:
        """Return the report of a round that was not made, because all of its facts have status `kept`."""
        frame = _kept_rows(facts, range(len(facts)))
        return cls(frame, frame.iloc[:0][_AGAIN])

    def to_record(self) -> dict[str, object]:
        """Return the report as JSON-serialisable Python values."""
        own = {"frame": _columns_of(self.frame), "again": _columns_of(self.again)}
        return {**own, "seconds": dict(self.seconds), "values_from_store": self.values_from_store}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> RoundReport:
        """Build a report from the result of `to_record`. Raises KeyError, TypeError or ValueError for anything else."""
        report = cls.__new__(cls)
        own = {"seconds": dict(record["seconds"]), "values_from_store": int(record["values_from_store"])}
        vars(report).update(own, _frames={name: record[name] for name in ("frame", "again")})
        return report

    def __getattr__(self, name: str) -> Any:
        """Create a frame of a report read from a record on first access: a thousand rounds have two thousand frames."""
        stored = vars(self).get("_frames", {})
        if name not in stored:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return vars(self).setdefault(name, _frame_of(stored[name]))

    @property
    def statuses(self) -> tuple[str, ...]:
        """The status of each fact."""
        stored = vars(self).get("_frames")
        return tuple(stored["frame"]["status"][1] if stored else self.frame["status"])

    def __str__(self) -> str:
        statuses = _counted(self.frame)
        if len(self.again):
            statuses += f"; of earlier rounds again: {_counted(self.again)}"
        once = self.seconds.get(MOMENTS, 0.0)
        moments = f", and {once:.1f} s for second moments, once for this model" if once >= 0.1 else ""
        return f"{number_of(len(self.frame), 'fact')}: {statuses}; {self.frame['seconds'].sum():.1f} s{moments}"


def _counted(frame: pandas.DataFrame) -> str:
    return ", ".join(f"{count} {status}" for status, count in frame["status"].value_counts().items())


def _status(status: str, target: Targets) -> str:
    """Return the status of one form, with `done` changed to `weak_value` if z or the edit did not work."""
    is_likelier = target.after.log_probability > target.before.log_probability
    return WEAK_VALUE if status == DONE and not (target.under_z.is_said and is_likelier) else status


def _case_ids(facts: Sequence[Fact]) -> list[Any]:
    """Return the case_ids of the facts, with the index of a fact as default."""
    return [number if fact.case_id is None else fact.case_id for number, fact in enumerate(facts)]


def _kept_rows(facts: Sequence[Fact], kept: Sequence[int]) -> pandas.DataFrame:
    """Return rows for facts that were not written. kept: their indices in `facts`."""
    import pandas

    numbers = ("residual_before", "residual", "target_before", "target_under_z", "target_after")
    rows = {
        "case_id": [_case_ids(facts)[place] for place in kept],
        "subject": [facts[place].subject for place in kept],
        "status": [KEPT for _ in kept],
        **{name: [math.nan for _ in kept] for name in numbers},
        "passes": [0 for _ in kept],
        "is_said": [False for _ in kept],
        "same_subject": [0 for _ in kept],
        "replaces": pandas.Series([None for _ in kept], dtype=object, index=list(kept)),
        "seconds": [0.0 for _ in kept],
    }
    return pandas.DataFrame(rows, index=list(kept))


def _columns_of(frame: pandas.DataFrame) -> dict[str, object]:
    """Return {column: [dtype, values]}, with NaN as None and infinities as text."""
    return {
        str(name): [str(column.dtype), [_json_number(value) for value in column.tolist()]]
        for name, column in frame.items()
    }


def _frame_of(columns: Mapping[str, Any]) -> pandas.DataFrame:
    import pandas

    read = {}
    for name, (dtype, values) in columns.items():
        if dtype == "float64":
            values = [math.nan if value is None else float(value) for value in values]
        read[name] = pandas.Series(values, dtype=dtype)
    return pandas.DataFrame(read)


def _json_number(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value.item() if hasattr(value, "item") else value
