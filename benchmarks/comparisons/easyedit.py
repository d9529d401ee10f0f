"""EasyEdit's MEMIT on ten facts in one batch, from start to end, compared with the same computation here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from benchmarks.clock import Seconds, cpu_seconds, in_turns
from benchmarks.comparisons.rounds import FAST, SOLVERS, change
from benchmarks.comparisons.row import Peer, Plan, Row, agree
from benchmarks.facts import make_facts
from benchmarks.peers.easyedit import AS_MEMIT, EasyEditMemit
from benchmarks.setting import Setting
from nse_plugin.facts import Fact

FACTS, CHECKED = 10, 2
TOLERANCE = 1e-2  # each side computes its own z, and in float32 the two z of a fact may differ noticeably


def compare(setting: Setting, peers: Sequence[Peer], plan: Plan) -> Iterator[Row]:
    """Yield the stages `whole`, and `whole, fast` with `solver: fast`. Raises NotHere if EasyEdit is not installed."""
    memit = EasyEditMemit(setting)
    facts = make_facts(*plan.counts(FACTS))
    edits = _our_edit(setting, "exact"), memit.edit
    found, expected = (change(setting, partial(edit, facts[:CHECKED])) for edit in edits)
    difference = agree(found, expected, TOLERANCE, "weight change, EasyEdit's MEMIT")
    runs = {memit.name: partial(_seconds, setting, memit.edit, facts)}
    runs |= {name: partial(_seconds, setting, _our_edit(setting, solver), facts) for name, solver in SOLVERS.items()}
    times = in_turns(runs, plan.repeats)
    yield Row.of("easyedit", "whole", len(facts), 3, memit.name, times, difference)
    yield Row.of("easyedit", "whole, fast", len(facts), 3, memit.name, times, None, FAST, "whole")


def _our_edit(setting: Setting, solver: str) -> Callable[[Sequence[Fact]], object]:
    return lambda facts: setting.session(**AS_MEMIT, solver=solver).edit(facts)


def _seconds(setting: Setting, edit: Callable[[Sequence[Fact]], object], facts: Sequence[Fact]) -> Seconds:
    with setting.restored():
        return {"whole": cpu_seconds(edit, facts)}
