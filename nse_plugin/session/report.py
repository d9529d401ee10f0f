"""What one round of edits did, fact by fact."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nse_plugin.facts import Fact
from nse_plugin.method.multilayer import RoundResult
from nse_plugin.spelling import number_of

if TYPE_CHECKING:
    import pandas

MOMENTS = "moments"  # the part of a round's time that is spent once for a model


@dataclass(frozen=True)
class RoundReport:
    """What one round did. No fact is dropped silently: each has a row.

    frame: pandas, a row per fact: case_id; status (`done`, `off_target`: residual still above alpha,
    `skipped_upper_bound`: preset released only, took part in no update, `failed`: not finite, left out);
    residual_before, residual: norm(z - h) in the unit of the hidden states; passes: updates it took part in;
    same_subject: how many other facts about its subject stand, of this round and earlier ones; replaces: the target
    that an earlier round gave the same prompt and subject; seconds: its share of the round's time, without second
    moments.
    seconds: the round's wall time by part: "moments" (found or measured, in the first round), "values", "update".
    values_from_store: how many of its z were read and not computed.
    """

    frame: pandas.DataFrame
    seconds: dict[str, float] = field(default_factory=dict)
    values_from_store: int = 0

    @classmethod
    def of(
        cls,
        facts: Sequence[Fact],
        result: RoundResult,
        total: float,
        seconds: dict[str, float],
        from_store: int,
        earlier: Sequence[Fact] = (),
    ) -> RoundReport:
        """result: of these facts, and maybe of others that were written again. total: the round's wall time in seconds,
        second moments included. earlier: facts of earlier rounds about the same subjects."""
        import pandas

        n = len(facts)
        before = {fact.question: fact.target_new for fact in earlier}
        subjects = Counter(fact.subject.strip() for fact in {f.question: f for f in (*earlier, *facts)}.values())
        frame = pandas.DataFrame(
            {
                "case_id": [number if fact.case_id is None else fact.case_id for number, fact in enumerate(facts)],
                "status": result.status[:n],
                "residual_before": result.residual_before[:n].tolist(),
                "residual": result.residual[:n].tolist(),
                "passes": result.passes[:n].tolist(),
                "same_subject": [subjects[fact.subject.strip()] - 1 for fact in facts],
                "replaces": pandas.Series([before.get(fact.question) for fact in facts], dtype=object),
                "seconds": (total - seconds.get(MOMENTS, 0.0)) / n,
            }
        )
        return cls(frame, seconds, from_store)

    def __str__(self) -> str:
        counts = self.frame["status"].value_counts()
        statuses = ", ".join(f"{count} {status}" for status, count in counts.items())
        once = self.seconds.get(MOMENTS, 0.0)
        moments = f", and {once:.1f} s for second moments, once for this model" if once >= 0.1 else ""
        return f"{number_of(len(self.frame), 'fact')}: {statuses}; {self.frame['seconds'].sum():.1f} s{moments}"
