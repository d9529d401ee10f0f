"""NSE's state follows the weights, whatever EasyEdit does to a model between two calls."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch

from nse_plugin.easyedit import apply_nse_to_model
from nse_plugin.easyedit.algorithm import nse
from nse_plugin.hparams import NSEHyperParams

pytestmark = pytest.mark.usefixtures("easyeditor")
Make = Callable[[], Any]
Use = Callable[..., Any]
Weights = dict[str, torch.Tensor]


def same(left: Weights, right: Weights) -> bool:
    """Bit by bit."""
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_a_restored_edit_leaves_nothing_behind(
    tiny_llama: Any, editor_of: Use, hparams: NSEHyperParams, capitals: Use, edited: Use, protected: Use
) -> None:
    before = edited(tiny_llama)
    hparams.batch_size = 1
    editor_of(tiny_llama).edit(**capitals("France", "Peru"), sequential_edit=False)
    assert same(edited(tiny_llama), before)
    assert protected(tiny_llama) == 0


def test_a_kept_edit_changes_the_edited_layers_only(
    tiny_llama: Any, editor_of: Use, hparams: NSEHyperParams, capitals: Use, edited: Use, protected: Use
) -> None:
    before = {name: weight.detach().clone() for name, weight in tiny_llama.named_parameters()}
    hparams.batch_size = 1
    editor_of(tiny_llama).edit(**capitals("France"), sequential_edit=True)
    changed = {name for name, weight in tiny_llama.named_parameters() if not weight.equal(before[name])}
    assert changed == set(edited(tiny_llama))
    assert protected(tiny_llama) == 1


def test_edit_restore_edit_is_edit(new_llama: Make, editor_of: Use, capitals: Use, edited: Use) -> None:
    once, twice = new_llama(), new_llama()
    editor_of(once).batch_edit(**capitals("Peru", "Italy"), sequential_edit=True)
    editor = editor_of(twice)
    editor.batch_edit(**capitals("France", "Japan"), sequential_edit=False)
    editor.batch_edit(**capitals("Peru", "Italy"), sequential_edit=True)
    assert same(edited(once), edited(twice))
    assert not same(edited(once), edited(new_llama()))


def test_two_sequential_batches_accumulate(
    new_llama: Make, editor_of: Use, hparams: NSEHyperParams, capitals: Use, edited: Use, protected: Use
) -> None:
    four = capitals("France", "Peru", "Italy", "Japan")  # two batches of two
    model, forgetful = new_llama(), new_llama()
    editor_of(model).batch_edit(**four, sequential_edit=True)
    assert protected(model) == 4
    hparams.accumulate = False
    editor_of(forgetful).batch_edit(**four, sequential_edit=True)
    assert protected(forgetful) == 0
    assert not same(edited(model), edited(forgetful)), "the first batch was not protected"


def test_calls_of_several_editors_accumulate(new_llama: Make, editor_of: Use, capitals: Use, edited: Use) -> None:
    together, apart = new_llama(), new_llama()
    editor_of(together).batch_edit(**capitals("France", "Peru", "Italy", "Japan"), sequential_edit=True)
    editor_of(apart).batch_edit(**capitals("France", "Peru"), sequential_edit=True)
    editor_of(apart).batch_edit(**capitals("Italy", "Japan"), sequential_edit=True)
    assert same(edited(together), edited(apart)), "the state is the model's, not the editor's"


def test_without_sequential_edit_each_easyedit_does_as_ever(
    on_main: bool, tiny_llama: Any, editor_of: Use, capitals: Use, edited: Use, protected: Use
) -> None:
    before = edited(tiny_llama)
    editor_of(tiny_llama).batch_edit(**capitals("France", "Peru"))
    assert same(edited(tiny_llama), before) == on_main, "main restores, the wheel keeps"
    assert protected(tiny_llama) == (0 if on_main else 2)


def test_foreign_changes_are_noticed(
    tiny_llama: Any,
    editor_of: Use,
    capitals: Use,
    caplog: pytest.LogCaptureFixture,
    recwarn: pytest.WarningsRecorder,
) -> None:
    editor = editor_of(tiny_llama)
    editor.batch_edit(**capitals("France", "Peru"), sequential_edit=True)
    matrix = tiny_llama.model.layers[2].mlp.down_proj.weight
    with torch.no_grad():
        matrix += 0.5
    foreign = matrix.detach().clone()
    caplog.clear()
    recwarn.clear()
    with caplog.at_level(logging.WARNING):
        editor.batch_edit(**capitals("Italy"), sequential_edit=True)
    said = [str(warning.message) for warning in recwarn] + [record.getMessage() for record in caplog.records]
    assert any("changed" in message for message in said), said
    state = nse.state_of(tiny_llama)
    assert state is not None
    assert state.knowledge.count == 1, "a fresh start protects nothing from before"
    assert torch.equal(state.originals.tensors[2], foreign), "a fresh start takes what it finds"


def test_two_models_do_not_mix(new_llama: Make, editor_of: Use, capitals: Use, edited: Use, protected: Use) -> None:
    left, right, alone = new_llama(), new_llama(), new_llama()
    to_left, to_right = editor_of(left), editor_of(right)
    to_left.batch_edit(**capitals("France", "Peru"), sequential_edit=True)
    to_right.batch_edit(**capitals("Italy", "Japan"), sequential_edit=True)
    to_left.batch_edit(**capitals("New Zealand"), sequential_edit=True)
    assert (protected(left), protected(right)) == (3, 2)
    editor_of(alone).batch_edit(**capitals("Italy", "Japan"), sequential_edit=True)
    assert same(edited(right), edited(alone))


def test_the_padding_side_makes_no_difference(
    new_llama: Make, tiny_tokenizer: Any, hparams: NSEHyperParams, edited: Use
) -> None:
    requests = [
        {"prompt": "The capital of Peru is", "subject": "Peru", "target_new": "Arica"},
        {
            "prompt": "In the long history of the United States the capital is",
            "subject": "the United States",
            "target_new": "Boston, Massachusetts",
        },
    ]
    weights = {}
    for side in ("left", "right"):
        tokenizer, model = copy.deepcopy(tiny_tokenizer), new_llama()
        tokenizer.padding_side = side
        apply_nse_to_model(model, tokenizer, copy.deepcopy(requests), hparams)
        assert (tokenizer.padding_side, tokenizer.pad_token) == (side, None)
        weights[side] = edited(model)
    assert same(weights["left"], weights["right"])
    assert not same(weights["left"], edited(new_llama()))


def test_a_copy_is_edited_instead(
    tiny_llama: Any, tiny_tokenizer: Any, hparams: NSEHyperParams, edited: Use, protected: Use
) -> None:
    before = edited(tiny_llama)
    request = {"prompt": "The capital of Peru is", "subject": "Peru", "target_new": "Arica"}
    model, originals = apply_nse_to_model(
        tiny_llama, tiny_tokenizer, [request], hparams, copy=True, return_orig_weights=True
    )
    assert model is not tiny_llama
    assert same(edited(tiny_llama), before)
    assert same(originals, before)
    assert not same(edited(model), before)
    assert (protected(tiny_llama), protected(model)) == (0, 1)


def test_a_bad_fact_leaves_the_model_alone(
    tiny_llama: Any, editor_of: Use, capitals: Use, edited: Use, protected: Use
) -> None:
    before = edited(tiny_llama)
    arguments = capitals("France", "Peru")
    arguments["target_new"][1] = " "
    with pytest.raises(ValueError, match="target_new"):
        editor_of(tiny_llama).batch_edit(**arguments, sequential_edit=True)
    assert same(edited(tiny_llama), before)
    assert protected(tiny_llama) == 0


def test_facts_that_are_not_done_are_told(
    tiny_llama: Any, editor_of: Use, hparams: NSEHyperParams, capitals: Use, caplog: Any
) -> None:
    hparams.alpha = 1e-6
    with caplog.at_level(logging.WARNING, logger="nse_plugin"):
        editor_of(tiny_llama).batch_edit(**capitals("France", "Peru"), sequential_edit=True)
    told = [record.getMessage() for record in caplog.records if "off_target" in record.getMessage()]
    assert len(told) == 2
    assert told[1].startswith("NSE: fact 1 is off_target, residual ")


def test_other_layers_are_a_fresh_start(
    tiny_llama: Any, editor_of: Use, hparams: NSEHyperParams, capitals: Use, protected: Use, caplog: Any
) -> None:
    editor_of(tiny_llama).batch_edit(**capitals("France", "Peru"), sequential_edit=True)
    hparams.layers = [hparams.layers[-1]]
    with caplog.at_level(logging.WARNING, logger="nse_plugin"):
        editor_of(tiny_llama).batch_edit(**capitals("Italy"), sequential_edit=True)
    assert "the edited matrices changed from" in caplog.text
    assert protected(tiny_llama) == 1


def test_another_seed_writes_other_contexts(
    tiny_llama: Any, editor_of: Use, hparams: NSEHyperParams, capitals: Use
) -> None:
    editor_of(tiny_llama).batch_edit(**capitals("France"), sequential_edit=True)
    first = nse.state_of(tiny_llama)
    assert first is not None
    templates = first.templates
    hparams.seed += 1
    editor_of(tiny_llama).batch_edit(**capitals("Peru"), sequential_edit=True)
    state = nse.state_of(tiny_llama)
    assert state is not None
    assert state.templates != templates
    assert len(state.reports) == 2
