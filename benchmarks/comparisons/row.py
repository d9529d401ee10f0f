"""One result of a comparison, and what all comparisons share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from benchmarks.clock import Times
from benchmarks.setting import relative_difference
from nse_plugin.facts import Fact

OURS = "ours"


def ours(count: int) -> str:
    """Name our run on `count` facts, for comparisons that time a peer once for several numbers of facts."""
    return f"{OURS}, {count} facts"


class Peer(Protocol):
    """Another implementation of NSE; `StandIn` describes the methods."""

    name: str

    def value(self, fact: Fact, steps: int | None = None, lr: float | None = None) -> Tensor: ...
    def keys(self, facts: Sequence[Fact], layer: int) -> Tensor: ...
    def outputs(self, facts: Sequence[Fact]) -> Tensor: ...
    def edit(self, facts: Sequence[Fact], values: Tensor) -> object: ...


@dataclass(frozen=True)
class Plan:
    """How much to measure. repeats: turns, if time allows. most: the largest number of facts in one comparison."""

    repeats: int = 3
    most: int = 100

    def counts(self, *wanted: int) -> list[int]:
        """Return the wanted numbers of facts, each reduced to `most` if it is larger, without duplicates."""
        return list(dict.fromkeys(min(count, self.most) for count in wanted))


@dataclass(frozen=True)
class Row:
    """Times of both sides for one stage, number of facts and peer.

    relation: tokens between subject and target, None if the stage does not depend on it.
    peer_seconds, ratio: None if peers have no such stage.
    difference: the largest relative difference between the results of both sides, None if they are not compared.
    """

    case: str
    stage: str
    facts: int
    relation: int | None
    peer: str
    ours_seconds: float
    peer_seconds: float | None
    repeats: int
    difference: float | None

    @property
    def ratio(self) -> float | None:
        return None if self.peer_seconds is None else self.peer_seconds / self.ours_seconds

    @classmethod
    def of(
        cls, case: str, stage: str, facts: int, relation: int | None, peer: str, times: Mapping[str, Times],
        difference: float | None, ours: str = OURS, timed: str | None = None,
    ) -> Row:  # fmt: skip
        """Make a row from the medians of `times`, {name of the run: Times}.

        ours: the name of our run in `times`. timed: the name of the stage in `times`, if it differs from `stage`.
        """
        seconds = times[ours].medians[timed or stage]
        theirs = times[peer].medians.get(timed or stage)
        return cls(case, stage, facts, relation, peer, seconds, theirs, times[ours].repeats, difference)


class DisagreementError(AssertionError):
    """The two sides of a comparison compute different results, so their times cannot be compared."""


def agree(found: Tensor, expected: Tensor, tolerance: float, what: str) -> float:
    """Return the relative difference of two tensors [..., n].

    Raises DisagreementError if it is above the tolerance, which is meant for float32. what: named in the error.
    """
    difference = relative_difference(found, expected)
    if not difference <= tolerance:
        raise DisagreementError(f"{what}: the two sides differ by {difference:.1e}, more than {tolerance:.0e}.")
    return difference
