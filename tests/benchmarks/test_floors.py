"""The formulas of benchmarks/floors.py against what torch counts."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tiny import TEMPLATES, VOCABULARY, D, F, tiny_facts, tiny_model, tiny_moments, tiny_tokenizer
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.floors import SHAPES, Shape, Tokens, least_run, peers_run
from benchmarks.peers.standin import StandIn
from benchmarks.setting import SAME_WORK, Setting
from nse_plugin.facts import Fact
from nse_plugin.hparams import NSEHyperParams
from nse_plugin.replay.check import check_model

STEPS = 6
TINY = {
    "llama": Shape("tiny", 4, D, D, D // 2, F, 3, VOCABULARY, layer=2, steps=STEPS),
    "gpt2": Shape("tiny", 4, D, D, D, F, 2, VOCABULARY, layer=2, steps=STEPS),
}


@pytest.fixture(params=sorted(TINY))
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def counted(family: str) -> Setting:
    """Plain attention, whose products are counted one by one."""
    model = tiny_model(family)
    model.set_attn_implementation("eager")
    hparams = NSEHyperParams(layers=[1, 2], alpha=0.5, v_lr=1e-3, v_num_grad_steps=STEPS, device="cpu")
    hparams = dataclasses.replace(hparams, **SAME_WORK)
    return Setting(model, tiny_tokenizer(), hparams, TEMPLATES, tiny_moments(model, [1, 2]))


def flops(work, *arguments) -> int:
    with FlopCounterMode(display=False) as counter:
        work(*arguments)
    return counter.get_total_flops()


def tokens(setting: Setting, fact: Fact) -> Tokens:
    found = Tokens.of(setting.encoded([fact])[0])
    tail = len(setting.tokenizer(f"{fact.subject} is a")["input_ids"]) - found.essence
    return dataclasses.replace(found, tail=tail)


@pytest.mark.parametrize("fact", tiny_facts()[:3], ids=lambda fact: fact.subject)
def test_the_peers_way(family: str, counted: Setting, fact: Fact) -> None:
    assert flops(StandIn(counted).value, fact) == pytest.approx(
        peers_run(TINY[family], tokens(counted, fact)), rel=0.01
    )


@pytest.mark.parametrize("fact", tiny_facts()[:3], ids=lambda fact: fact.subject)
def test_ours_is_near_the_floor(family: str, counted: Setting, fact: Fact) -> None:
    """Not below it but by what rows share (a bare prompt that begins with its subject and the essence), not far above
    but by padding and the last layer's queries."""
    longest = max(len(row.ids) for row in counted.encoded([fact])[0].rewrites)
    first_look = sum(  # once for a model
        flops(check_model, counted.layout, counted.hparams.layers, counted.tokenizer, tokens)
        for tokens in ([64, longest] if longest > 64 else [64])
    )
    spent = flops(counted.session().values, [fact]) - first_look
    assert 0.75 <= spent / least_run(TINY[family], tokens(counted, fact)) <= 1.6
    assert spent < 0.7 * flops(StandIn(counted).value, fact)


def test_shapes_are_those_of_the_models() -> None:
    """Parameters of layers and head, in billions."""
    billions = {shape.name: (shape.layers * shape.linear + shape.head) / 2e9 for shape in SHAPES}
    assert billions == pytest.approx(
        {"SmolLM2-135M": 0.1345, "GPT2-XL": 1.555, "GPT-J-6B": 5.844, "Llama3-8B": 7.505}, rel=0.01
    )


def test_later_layers_and_shorter_relations_leave_more_to_gain() -> None:
    shape = SHAPES[0]
    ratios = []
    for relation in (1, 3, 5):
        rows = Tokens((10 + relation,) * 6, (1 + relation,) * 6, essence=3, predicted=6)
        ratios.append(peers_run(shape, rows) / least_run(shape, rows))
    assert ratios == sorted(ratios, reverse=True)
    assert torch.tensor(ratios).min() > 3
