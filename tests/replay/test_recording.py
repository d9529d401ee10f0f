"""Recording the arguments with which a forward pass calls the layers."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_model

from nse_plugin.models.layout import Layout
from nse_plugin.replay.recording import output_of, passed_over, recorded, with_output

IDS = torch.tensor([[5, 6, 7]])


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_the_calls_above_a_layer_its_output_and_what_runs_behind_the_last(model):
    """Run again, they give what the model gives."""
    layout = Layout.of(model)
    with torch.no_grad():
        expected = model(input_ids=IDS, use_cache=False).logits
        with recorded(layout, 1) as record:
            model(input_ids=IDS, use_cache=False)
        hidden = record.output
        assert len(record.calls) == len(layout.layers) - 2
        for layer, (args, kwargs) in zip(layout.layers[2:], record.calls, strict=True):
            hidden = output_of(layer(hidden, *args, **kwargs))
        for module in record.tail:
            hidden = module(hidden)
        logits = model.get_output_embeddings()(hidden)
    scores = torch.corrcoef(torch.stack([logits.flatten(), expected.flatten()]))  # a soft cap may follow
    assert scores[0, 1] > 0.95
    assert torch.equal(logits.argmax(-1), expected.argmax(-1))
    assert hooks(model) == 0


def test_it_ends_before_the_head():
    model = tiny_model("llama")
    model.lm_head.register_forward_pre_hook(lambda *_: pytest.fail("the head was run"))
    with recorded(Layout.of(model), 0) as record:
        model(input_ids=IDS)
    assert "last_hidden_state" in record.stack_output.__dataclass_fields__


def test_layers_that_are_passed_over_hand_on_what_they_are_given(model):
    layout, run = Layout.of(model), []
    for layer in layout.layers:
        layer.mlp.register_forward_hook(lambda *_: run.append(1))
    with torch.no_grad(), passed_over(list(layout.layers)[2:], layout.layers[1]), recorded(layout, 1) as record:
        model(input_ids=IDS, use_cache=False)
    assert len(run) == 2
    assert len(record.calls) == 2  # of layers that were not run
    run.clear()
    model(input_ids=IDS, use_cache=False)
    assert len(run) == len(layout.layers)


def test_hooks_are_gone_also_after_an_error(llama):
    with pytest.raises(KeyError), recorded(Layout.of(llama), 1):
        raise KeyError
    assert hooks(llama) == 0


@pytest.mark.parametrize("form", [lambda *parts: parts[0], lambda *parts: parts, lambda *parts: [*parts]])
def test_layers_return_their_output_alone_or_first_in_a_tuple_or_list(form):
    one, other, rest = torch.zeros(1, 2, 3), torch.ones(1, 2, 3), object()
    output = form(one, rest)
    assert output_of(output) is one
    changed = with_output(output, other)
    assert type(changed) is type(output)
    assert output_of(changed) is other
    assert isinstance(changed, torch.Tensor) or changed[1] is rest
