"""Keys and outputs of l_0, against full forward passes."""

from __future__ import annotations

import oracles
import pytest
import torch
from oracles import relative
from tiny import TEMPLATES, tiny_facts, tiny_tokenizer

from nse_plugin.method.keys import FactSpan
from nse_plugin.models.layout import Layout
from nse_plugin.models.prompts import encode_fact

pytestmark = pytest.mark.usefixtures("all_in_double")


@pytest.mark.parametrize("tokens_per_batch", [30, 4096])
def test_keys_and_outputs_equal_full_forwards(model, tokenizer, facts, templates, hparams, tokens_per_batch):
    layout = Layout.of(model)
    prompts = [encode_fact(tokenizer, fact, templates) for fact in facts]
    layers = [0, 2]
    keys, outputs = FactSpan(layout, layers, prompts, tokens_per_batch).run()
    for i, fact in enumerate(facts):
        for layer in layers:
            key, output = oracles.key_and_output(model, tokenizer, fact, templates, layer, layers[-1])
            assert relative(keys[layer][i], key) <= 1e-10
            assert relative(outputs[i], output) <= 1e-10


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
