"""What one round of edits did, fact by fact."""

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

MOMENTS = "moments"  # the part of a round's time that is spent once for a model


WEAK_VALUE = "weak_value"
KEPT = "kept"
_AGAIN = ["case_id", "status", "residual", "target_after", "is_said"]
_STATUSES = (DONE, WEAK_VALUE, OFF_TARGET, SKIPPED, FAILED)  # from good to bad


@dataclass(frozen=True)
class Targets:
    """The predictions of one target in the bare prompt: by the model that z was made for, the unedited one; by the same
    with z; by the edited model after the round."""

    before: Prediction
    under_z: Prediction
    after: Prediction


@dataclass(frozen=True)
class RoundReport:
    """What one round did. No fact is dropped silently: each has a row.

    frame: pandas, a row per fact; of one that is written for several names, or in plain text and in a chat, the worst:
        case_id
        subject: as it was given or found
        status: `done`; `weak_value`: as near to z as `done`, but z does not make the model predict the target (not each
            of its tokens is the most likely one), or the target is not more probable than unedited; `off_target`:
            residual still above alpha; `skipped_upper_bound`: preset released only, took part in no update; `failed`:
            not finite, left out; `kept`: not written, since another target of an earlier round stands
            (`on_conflict="keep"`)
        residual_before, residual: norm(z - h) in the unit of the hidden states
        passes: updates it took part in
        target_before, target_under_z, target_after: probability of the target (geometric mean of its tokens') in the
            bare prompt, on the model that z was made for (the unedited one, unless `rewind: false`), there with z, and
            after the round; is_said: whether each of its tokens is the most likely one after the round
        same_subject: how many other facts about its subject stand, of this round and earlier ones, which its value
            serves too
        replaces: the target that an earlier round gave the same prompt and subject
        seconds: its share of the round's time, without second moments
    again: pandas, of the facts of earlier rounds that were written again, since a fact of this one is about their
        subject: case_id, status, residual, target_after and is_said, as above
    seconds: the round's wall time by part: "moments" (found or measured, in the first round), "values", "update" (with
    the model's predictions before and after it).
    values_from_store: how many of its z were read and not computed.
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
        """again: facts of earlier rounds that were written again. forms: those of each fact, of these last, as
        `by_fact` gives them, by their places in result and targets. earlier: facts of earlier rounds about the same
        subjects, written again or not. total: the round's wall time in seconds, second moments included."""
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
        """The report with a row also for those facts of the round that were not written, since others stand.

        facts: all of the round. written: the places among them of those that have a row, in order."""
        import pandas

        kept = [place for place in range(len(facts)) if place not in {*written}]
        if not kept:
            return self
        frame = pandas.concat([self.frame.set_axis(list(written)), _kept_rows(facts, kept)]).sort_index()
        return dataclasses.replace(self, frame=frame.assign(case_id=_case_ids(facts)))

    @classmethod
    def of_kept(cls, facts: Sequence[Fact]) -> RoundReport:
        """Of a round that would have written none of its facts, and so was not made."""
        frame = _kept_rows(facts, range(len(facts)))
        return cls(frame, frame.iloc[:0][_AGAIN])

    def to_record(self) -> dict[str, object]:
        """All of it as plain Python values that JSON takes."""
        own = {"frame": _columns_of(self.frame), "again": _columns_of(self.again)}
        return {**own, "seconds": dict(self.seconds), "values_from_store": self.values_from_store}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> RoundReport:
        """What `to_record` gave. Raises KeyError, TypeError or ValueError for anything else."""
        report = cls.__new__(cls)
        own = {"seconds": dict(record["seconds"]), "values_from_store": int(record["values_from_store"])}
        vars(report).update(own, _frames={name: record[name] for name in ("frame", "again")})
        return report

    def __getattr__(self, name: str) -> Any:
        """A frame of a report that was read: made when it is first asked for, since a thousand rounds have two each."""
        stored = vars(self).get("_frames", {})
        if name not in stored:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return vars(self).setdefault(name, _frame_of(stored[name]))

    @property
    def statuses(self) -> tuple[str, ...]:
        """One a fact."""
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
    """Of a fact that came near z, whether z was worth coming near."""
    is_likelier = target.after.log_probability > target.before.log_probability
    return WEAK_VALUE if status == DONE and not (target.under_z.is_said and is_likelier) else status


def _case_ids(facts: Sequence[Fact]) -> list[Any]:
    """Those that have none are numbered."""
    return [number if fact.case_id is None else fact.case_id for number, fact in enumerate(facts)]


def _kept_rows(facts: Sequence[Fact], kept: Sequence[int]) -> pandas.DataFrame:
    """Rows of facts that were not written, by their places."""
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
    """{column: [dtype, values]}, numbers that are not finite as None or text."""
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
