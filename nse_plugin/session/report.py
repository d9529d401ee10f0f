"""What one round of edits did, fact by fact."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
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
_STATUSES = (DONE, WEAK_VALUE, OFF_TARGET, SKIPPED, FAILED)  # from good to bad


@dataclass(frozen=True)
class Targets:
    """What is said of one target in the bare prompt: by the model that z was made for, the unedited one; by the same
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
        status: `done`; `weak_value`: as near to z as `done`, but z does not make the model say the target (not each of
            its tokens is the most likely one), or the target is not more probable than unedited; `off_target`:
            residual still above alpha; `skipped_upper_bound`: preset released only, took part in no update; `failed`:
            not finite, left out
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
    what the model says before and after it).
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

        def worst(values: Sequence[Any], choose: Callable[[list[Any]], Any]) -> list[Any]:
            return [choose([values[place] for place in places]) for places in forms]

        status = [_status(own, said) for own, said in zip(result.status, targets, strict=True)]
        frame = pandas.DataFrame(
            {
                "case_id": [number if fact.case_id is None else fact.case_id for number, fact in enumerate(every)],
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
        return cls(own, rest[["case_id", "status", "residual", "target_after", "is_said"]], seconds, from_store)

    def __str__(self) -> str:
        statuses = _counted(self.frame)
        if len(self.again):
            statuses += f"; of earlier rounds again: {_counted(self.again)}"
        once = self.seconds.get(MOMENTS, 0.0)
        moments = f", and {once:.1f} s for second moments, once for this model" if once >= 0.1 else ""
        return f"{number_of(len(self.frame), 'fact')}: {statuses}; {self.frame['seconds'].sum():.1f} s{moments}"


def _counted(frame: pandas.DataFrame) -> str:
    return ", ".join(f"{count} {status}" for status, count in frame["status"].value_counts().items())


def _status(status: str, said: Targets) -> str:
    """Of a fact that came near z, whether z was worth coming near."""
    is_likelier = said.after.log_probability > said.before.log_probability
    return WEAK_VALUE if status == DONE and not (said.under_z.is_said and is_likelier) else status
