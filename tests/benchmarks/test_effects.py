"""The variants that spend less on z: each has an effect, finishes, and leaves nothing patched."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace

import pytest
import torch

from benchmarks import effects
from benchmarks.effects import WAYS, measure
from benchmarks.facts import make_facts
from benchmarks.setting import Setting
from nse_plugin.method import value_optimizer, values

FACTS = make_facts(4, neighbours=2)


@pytest.fixture
def longer(roomy: Setting) -> Setting:
    return dataclasses.replace(roomy, hparams=dataclasses.replace(roomy.hparams, v_num_grad_steps=11))


@pytest.mark.parametrize("name", WAYS)
def test_a_way_is_scored_and_leaves_nothing(longer: Setting, name: str) -> None:
    parts = (
        value_optimizer.CONTEXTS, value_optimizer.SHARE, value_optimizer.LONGER, dict(value_optimizer.BETAS),
        values.DeltaOptimizer, values._optimize, values._Batch.nll_and_kl, values.SuffixReplay,
    )  # fmt: skip
    before = {key: weight.clone() for key, weight in longer.model.state_dict().items()}
    found = measure(longer, FACTS, WAYS[name])
    assert all(math.isfinite(found[column]) for column in ("score", "z seconds", "tokens"))
    assert found["tokens"] > 0
    assert all(torch.equal(weight, before[key]) for key, weight in longer.model.state_dict().items())
    assert parts == (
        value_optimizer.CONTEXTS, value_optimizer.SHARE, value_optimizer.LONGER, value_optimizer.BETAS,
        values.DeltaOptimizer, values._optimize, values._Batch.nll_and_kl, values.SuffixReplay,
    )  # fmt: skip


def test_what_a_step_takes_through_the_layers(longer: Setting) -> None:
    """Ten steps in three contexts, where `fast` has six in two."""
    tokens = {name: measure(longer, FACTS, WAYS[name])["tokens"] for name in WAYS}
    assert tokens["fewer-steps"] == pytest.approx(0.6 * tokens["exact"], rel=0.05)  # one may stop in the last steps
    assert tokens["fast"] < tokens["one-context"] < tokens["exact"]
    assert tokens["fast"] == pytest.approx(0.6 * tokens["one-context"], rel=0.05)
    assert tokens["fast-bfloat16"] == tokens["fast"]


def test_a_fact_leaves_when_its_target_is_likely(longer: Setting, monkeypatch) -> None:
    monkeypatch.setattr(effects, "ENOUGH", 1e-9)
    assert measure(longer, FACTS, WAYS["stop-at-0.9"])["tokens"] < measure(longer, FACTS, WAYS["exact"])["tokens"] / 5


def test_a_warm_start_is_the_mean_of_where_facts_of_the_relation_ended(roomy: Setting, monkeypatch) -> None:
    """Each fact in a batch of its own: the first and that of another relation begin at 0, the second where the first
    ended, the third between the two."""
    hparams = dataclasses.replace(roomy.hparams, v_num_grad_steps=3, tokens_per_batch=1)
    alike = [dataclasses.replace(fact, target_new=FACTS[0].target_new) for fact in make_facts(6, neighbours=2)[::2]]
    facts = [*alike, make_facts(7, relation=5, neighbours=2)[6]]  # the shortest go first
    setting = dataclasses.replace(roomy, hparams=hparams)
    walks: list[list[torch.Tensor]] = []
    begin, step = values.DeltaOptimizer.__init__, values.DeltaOptimizer.step

    def begun(walk, *rest):
        begin(walk, *rest)
        walks.append([])

    def stepped(walk, *rest):
        walks[-1].append(walk.delta[0].clone())
        step(walk, *rest)
        walks[-1].append(walk.delta[0])  # as it will be, projected

    monkeypatch.setattr(values.DeltaOptimizer, "__init__", begun)
    monkeypatch.setattr(values.DeltaOptimizer, "step", stepped)
    measure(setting, facts, WAYS["fast-warm-start"])
    first, second, third, another = ((walk[0], walk[-1]) for walk in walks)
    assert not first[0].any()
    assert not another[0].any()
    torch.testing.assert_close(second[0], first[1])
    torch.testing.assert_close(third[0], (first[1] + second[1]) / 2)
    assert not torch.allclose(first[1], second[1])


def test_bfloat16_as_a_processor_has_it(roomy: Setting) -> None:
    model = roomy.model.to(torch.float32)
    copy = effects.in_bfloat16(model)
    assert {weight.dtype for weight in copy.parameters()} == {torch.bfloat16}
    assert {buffer.dtype for buffer in copy.buffers()} == {torch.float32}
    layer = copy.model.layers[0].mlp.gate_proj
    x = torch.randn(5, 16, dtype=torch.bfloat16)
    found = layer(x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, torch.nn.functional.linear(x, layer.weight))
    assert model.model.layers[0].mlp.gate_proj.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["facts.json", "--only", "fast,faster"], "--only faster: choose among exact, one-context, fewer-steps, fast"),
        (["missing.json"], "missing.json"),
        (["demo", "--count", "0"], "ask for at least one fact"),
    ],
)
def test_bad_arguments_are_said_before_anything_is_loaded(arguments, said, monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["effects", *arguments])
    monkeypatch.setattr(effects, "load", None)
    with pytest.raises(SystemExit):
        effects.main()
    assert said in capsys.readouterr().err


def test_the_command_prints_a_line_for_each_way(longer: Setting, monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["effects", "demo", "--count", "4", "--only", "exact,fast"])
    monkeypatch.setattr(effects, "smollm2", lambda: longer)
    monkeypatch.setattr(effects, "load_facts", lambda *_, **__: SimpleNamespace(facts=FACTS))
    effects.main()
    printed = capsys.readouterr().out
    assert "4 facts in rounds of 50" in printed
    assert [line.split()[0] for line in printed.splitlines() if line.startswith(("exact", "fast"))] == ["exact", "fast"]
