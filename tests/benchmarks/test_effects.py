"""What ways to spend less on z cost: that each is another way, that it ends, and that nothing of it stays."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from benchmarks import effects
from benchmarks.effects import WAYS, Effects
from benchmarks.facts import make_facts
from benchmarks.setting import Setting
from nse_plugin.method import solvers, values
from nse_plugin.models.replay import SuffixReplay

FACTS = make_facts(4, neighbours=2)


@pytest.fixture
def measured(roomy: Setting) -> Effects:
    hparams = dataclasses.replace(roomy.hparams, v_num_grad_steps=11)
    return Effects(roomy.model, roomy.tokenizer, hparams, FACTS, roomy.moments, roomy.contexts)


@pytest.mark.parametrize("name", WAYS)
def test_a_way_is_scored_and_leaves_nothing(measured: Effects, roomy: Setting, name: str) -> None:
    parts = (
        solvers.CONTEXTS, solvers.SHARE, solvers.LONGER, dict(solvers.BETAS), values.Walk, values._optimize,
        values._Batch.nll_and_kl, SuffixReplay._run,
    )  # fmt: skip
    before = {key: weight.clone() for key, weight in roomy.model.state_dict().items()}
    found = measured.of(WAYS[name])
    assert all(math.isfinite(found[column]) for column in ("score", "z seconds", "tokens"))
    assert found["tokens"] > 0
    assert all(torch.equal(weight, before[key]) for key, weight in roomy.model.state_dict().items())
    assert parts == (
        solvers.CONTEXTS, solvers.SHARE, solvers.LONGER, solvers.BETAS, values.Walk, values._optimize,
        values._Batch.nll_and_kl, SuffixReplay._run,
    )  # fmt: skip


def test_what_a_step_takes_through_the_layers(measured: Effects) -> None:
    """Ten steps in three contexts, where `fast` has six in two."""
    tokens = {name: measured.of(WAYS[name])["tokens"] for name in WAYS}
    assert tokens["fewer, longer steps"] == pytest.approx(0.6 * tokens["exact"])
    assert tokens["fast"] < tokens["one context"] < tokens["exact"]
    assert tokens["fast"] == pytest.approx(0.6 * tokens["one context"])
    assert tokens["fast, bfloat16"] == tokens["fast"]


def test_a_fact_leaves_when_its_target_is_likely(measured: Effects, monkeypatch) -> None:
    monkeypatch.setattr(effects, "ENOUGH", 1e-9)
    assert measured.of(WAYS["stop at probability 0.9"])["tokens"] < measured.of(WAYS["exact"])["tokens"] / 5


def test_a_warm_start_is_where_facts_of_the_relation_ended(roomy: Setting, monkeypatch) -> None:
    """Each fact in a batch of its own, none of them moved: the second has the first's delta from the beginning."""
    hparams = dataclasses.replace(roomy.hparams, v_num_grad_steps=3, tokens_per_batch=1)
    fact = FACTS[0]
    measured = Effects(roomy.model, roomy.tokenizer, hparams, [fact, fact], roomy.moments, roomy.contexts)
    begun = []
    own = solvers.Walk.step
    monkeypatch.setattr(
        solvers.Walk, "step", lambda walk, *rest: (begun.append(walk.delta.clone()), own(walk, *rest))[1]
    )
    measured.of(WAYS["fast, warm start"])
    steps = len(begun) // 2
    assert begun[0].norm() == 0
    assert begun[steps].norm() > 0
