"""What was run before is not run again."""

from __future__ import annotations

import pytest
import torch
from tiny import TEMPLATES, tiny_facts, tiny_model, tiny_tokenizer

from nse_plugin.method.keys import FactSpan
from nse_plugin.models.frozen import frozen
from nse_plugin.models.layout import Layout
from nse_plugin.models.prompts import encode_fact
from nse_plugin.replay.context_states import ContextStates
from nse_plugin.replay.first_use import batched_arguments, check_once
from nse_plugin.replay.prefix_cache import PASS, PASS_ON_GPU, packs_by_length
from nse_plugin.replay.span import SpanReplay
from nse_plugin.replay.suffix import SuffixReplay

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_rows_part_where_their_padding_would_cost_more_than_a_pass():
    assert PASS == 24
    assert packs_by_length([5, 3, 5, 3], CPU) == [[1, 3, 0, 2]]  # two rows by two tokens
    assert packs_by_length([3] * 13 + [5] * 9, CPU) == [list(range(13)), list(range(13, 22))]  # thirteen by two
    assert packs_by_length([3] * 13 + [5] * 9, GPU) == [list(range(22))]
    assert packs_by_length([1] * (PASS_ON_GPU + 1) + [2], GPU)[1:] == [[PASS_ON_GPU + 1]]


@pytest.fixture
def rows():
    tokenizer = tiny_tokenizer()
    return [row for fact in tiny_facts() for row in encode_fact(tokenizer, fact, TEMPLATES).rewrites]


@pytest.fixture
def seen():
    """A tiny Llama's layout, and how many tokens each layer has been given."""
    layout = Layout.of(tiny_model("llama"))
    tokens = [0] * len(layout.layers)

    def count(number):
        def hook(_, args, __):
            tokens[number] += args[0].shape[0] * args[0].shape[1]

        return hook

    for number, layer in enumerate(layout.layers):
        layer.mlp.down_proj.register_forward_hook(count(number))  # of what a layer does, not of its calls
    with frozen(layout.model):
        yield layout, tokens


def contexts(rows):
    return {row.ids[: row.context] for row in rows}


def padded(lengths):
    return len(lengths) * max(lengths)


def test_templates_are_run_once_for_all_facts_and_recorded_layers_not_at_all(seen, rows):
    layout, tokens = seen
    check_once(layout, [2], rows)
    batched_arguments(layout, rows)
    tokens[:] = [0] * len(tokens)
    replay = SpanReplay(layout, [1, 2], rows, 4096)
    assert len(contexts(rows)) <= 2 * len(TEMPLATES) - 1 < len(rows)  # a space may stay with the template or not
    shared = padded([len(context) for context in contexts(rows)])
    own = padded([row.lookup + 1 - row.context for row in rows])
    assert tokens == [shared + own, 0, 0, 0]
    replay.run()
    assert tokens == [shared + own, shared + own, shared + own, 0]
    replay.part([0, 4]).run(2)  # layer 1 is as it was
    assert tokens[1] == shared + own
    assert shared + own < tokens[2] < 2 * (shared + own)


def test_after_an_update_only_the_bare_prompt_is_run_to_the_end(seen):
    """The next layer's keys want generated contexts up to its W_out; h wants none of them."""
    layout, tokens = seen
    span = FactSpan(layout, [1, 2], [encode_fact(tiny_tokenizer(), fact, TEMPLATES) for fact in tiny_facts()], 4096)
    keys, h = span.run()
    before = list(tokens)
    following, now = span.after(1)
    assert torch.allclose(following, keys[2], rtol=1e-12)
    assert torch.allclose(now, h, rtol=1e-12)
    whole, bare = tokens[1] - before[1], tokens[2] - before[2]
    assert 0 < bare < whole / 2
    assert span.after(2)[0] is None
    assert tokens == [before[0], before[1] + whole, before[2] + 2 * bare, before[3]]


def test_a_template_is_run_once_whatever_was_met_before(seen, rows):
    layout, tokens = seen
    states, others = ContextStates(), ContextStates()
    whole = states.of(layout, rows)
    assert tokens[0] == sum(len(context) for context in contexts(rows))  # one by one: no padding
    others.of(layout, rows[3:])
    ours, before = others.of(layout, rows), tokens[0]
    for layer in whole.layers_run:
        for found, expected in zip(ours.states(layer), whole.states(layer), strict=True):
            assert torch.equal(found, expected)
    states.of(layout, rows)
    others.of(layout, rows[::-1])
    assert tokens[0] == before
    short = min(rows, key=lambda row: row.context)
    assert others.of(layout, [short]).width == short.context  # no padding for others' sake


@pytest.mark.parametrize("how", ["in place", "through data", "another tensor"])
def test_templates_are_run_again_on_other_weights(seen, rows, how):
    layout, _ = seen
    states = ContextStates()
    before = states.of(layout, rows)
    weight = layout.layers[0].self_attn.k_proj.weight
    with torch.no_grad():
        if how == "in place":
            weight[1, 1] *= 2  # torch's count alone can tell
        elif how == "through data":
            weight.data[:, 3] *= 2  # a neuron's column
        else:
            weight.data = weight * 2
    for states_now in (states, ContextStates()):
        now = states_now.of(layout, rows)
        assert not torch.allclose(now.states(0)[0], before.states(0)[0])
        assert torch.equal(now.states(0)[0], ContextStates().of(layout, rows).states(0)[0])


def test_suffixes_are_run_up_to_the_layer_where_delta_enters(seen, rows):
    layout, tokens = seen
    check_once(layout, [1], rows)
    tokens[:] = [0] * len(tokens)
    replay = SuffixReplay(layout, 1, rows, ContextStates())
    assert tokens[0] == tokens[1] > tokens[2] > tokens[3] == 0  # of the last layer, only keys and values are wanted
    below, above = tokens[1], tokens[2]
    wanted = torch.tensor([0, 1, 0]), torch.tensor([0, 1, 0])
    replay.logits(torch.zeros(len(rows), 16, dtype=torch.float64), *wanted)
    assert tokens[:2] == [below, below]
    assert tokens[2] - above == below - above  # the suffixes, no more and no less
    assert tokens[3] == 2  # of the last layer, what is wanted
