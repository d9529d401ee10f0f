"""Every comparison on a tiny model, from start to end: both sides agree, and the rows are complete."""

from __future__ import annotations

import dataclasses
import math
from types import ModuleType

import pytest
import torch

from benchmarks.comparisons import easyedit, evaluation, keys, moments, rounds, solve, values
from benchmarks.comparisons.row import DisagreementError, Plan, agree
from benchmarks.peers import NotHere
from benchmarks.peers.standin import StandIn
from benchmarks.setting import Setting
from nse_plugin.method import values as method_values

PLAN = Plan(repeats=1, most=3)
EXPECTED = {
    values: [
        (stage, n, relation)
        for relation in (1, 3, 5)
        for n, stages in ((1, ("z step", "prefix")), (3, ("z step", "z step, at once", "prefix")))
        for stage in stages
    ],
    keys: [(stage, n, 3) for n in (1, 3) for stage in ("keys", "residuals")],
    solve: [(stage, n, None) for n in (1, 3) for stage in ("solve, p = 1", "solve, p = 0.8")],
    moments: [("moments", 0, None), ("moments, deeper", 0, None)],
    evaluation: [("evaluation", 3, 3)],
    rounds: [
        ("z whole", 1, 3), ("z whole, fast", 1, 3), ("z whole", 3, 3), ("z whole, fast", 3, 3), ("update", 3, 3),
        ("whole", 3, 3), ("whole, fast", 3, 3),
    ],
    easyedit: [("whole", 3, 3), ("whole, fast", 3, 3)],
}  # fmt: skip


@pytest.mark.parametrize("comparison", EXPECTED, ids=lambda module: module.__name__.rpartition(".")[2])
def test_comparison(roomy: Setting, comparison: ModuleType, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)  # EasyEdit writes where it runs
    batches: list[int] = []
    if comparison is values:  # so few tokens that only those come together that are to be at once
        own = method_values._Batch.__init__
        monkeypatch.setattr(
            method_values._Batch, "__init__", lambda batch, *rest: (batches.append(len(rest[2])), own(batch, *rest))[1]
        )
        roomy = dataclasses.replace(roomy, hparams=dataclasses.replace(roomy.hparams, tokens_per_batch=1))
    before = {name: weight.clone() for name, weight in roomy.model.state_dict().items()}
    try:
        rows = list(comparison.compare(roomy, [StandIn(roomy)], PLAN))
    except NotHere as reason:
        pytest.skip(str(reason))
    assert [(row.stage, row.facts, row.relation) for row in rows] == EXPECTED[comparison]
    for row in rows:
        assert math.isfinite(row.ours_seconds)
        assert row.repeats == 1
        if row.stage == "prefix":
            assert row.ratio is None
        elif not row.stage.endswith(("fast", "at once")):
            assert row.difference is not None
            assert row.difference < 1e-6
    assert all(torch.equal(weight, before[name]) for name, weight in roomy.model.state_dict().items())
    if comparison is values:
        assert batches.count(3) == 3  # a relation length each
        assert set(batches) == {1, 3}


def test_sides_that_differ_are_not_compared(roomy: Setting) -> None:
    class Wrong(StandIn):
        def outputs(self, facts):
            return super().outputs(facts) * 1.01

    with pytest.raises(DisagreementError, match=r"h, stand-in: the two sides differ by 9\.9e-03, more than 1e-04"):
        list(keys.compare(roomy, [Wrong(roomy)], PLAN))


def test_nan_is_a_disagreement() -> None:
    with pytest.raises(DisagreementError):
        agree(torch.tensor([math.nan]), torch.tensor([1.0]), 1e-3, "z")


def test_plan_bounds_the_facts() -> None:
    assert Plan(most=10).counts(1, 10, 50) == [1, 10]
    assert Plan().counts(1, 10, 50) == [1, 10, 50]
