"""MEND's archive: making it from facts, its requirements, and the changes of an edit with it."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from mend_cases import FACTS, MATRICES, OTHER, PRESETS, REQUEST, changed, weights

from nse_plugin.baselines.hparams import load_hparams
from nse_plugin.baselines.mend import ArchiveError, apply_mend_to_model, train_mend
from nse_plugin.baselines.mend import apply as mend
from nse_plugin.facts import FactError
from nse_plugin.models.prompts import split_target


def loss(model, tokenizer, request):
    prompt, target = split_target(tokenizer, request["prompt"], request["target_new"])
    with torch.no_grad():
        logits = model(torch.tensor([prompt + target[:-1]])).logits[0, -len(target) :]
    return torch.nn.functional.cross_entropy(logits, torch.tensor(target)).item()


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_trained_archive_edits_the_inner_params_and_no_others(
    architecture, request, tiny_tokenizer, hparams_of, tmp_path
):
    model = copy.deepcopy(request.getfixturevalue(f"tiny_{architecture}_source"))
    before, hparams = weights(model), hparams_of(model)
    made = train_mend(model, tiny_tokenizer, FACTS, FACTS, hparams, steps=3)
    assert made.path == tmp_path / "archive.pt"
    assert changed(model, before) == []
    loss_before = loss(model, tiny_tokenizer, REQUEST)
    edited, originals = apply_mend_to_model(
        model, tiny_tokenizer, [REQUEST], hparams, return_orig_weights=True, keep_original_weight=True
    )
    assert edited is model
    assert sorted(changed(model, before)) == sorted(MATRICES[architecture])
    assert loss(model, tiny_tokenizer, REQUEST) < loss_before
    assert all(torch.equal(original, before[name]) for name, original in originals.items())
    assert sorted(originals) == sorted(MATRICES[architecture])


def test_each_model_gets_its_own_edits(trained, new_llama, tiny_tokenizer):
    """EasyEdit's executor goes on editing the first model it saw."""
    first, second = new_llama(), new_llama()
    before = weights(first)
    apply_mend_to_model(first, tiny_tokenizer, [REQUEST], trained)
    after = weights(first)
    apply_mend_to_model(second, tiny_tokenizer, [REQUEST], trained)
    assert changed(first, after) == []
    assert changed(second, before) == changed(first, before)
    assert changed(second, after) == []


def test_editing_does_not_wear_the_network(trained, tiny_llama, new_llama, tiny_tokenizer):
    """The wheel's executor leaves the network in training, where every edit moves its statistics."""
    apply_mend_to_model(tiny_llama, tiny_tokenizer, [REQUEST, OTHER, REQUEST], trained)
    once, again = new_llama(), new_llama()
    apply_mend_to_model(once, tiny_tokenizer, [REQUEST], trained)
    mend.MEND().apply_to_model(again, tiny_tokenizer, [REQUEST], trained)  # the network anew from the archive
    assert changed(again, weights(once)) == []


def test_edits_add_up_in_a_call_as_over_calls(trained, new_llama, tiny_tokenizer):
    together, apart = new_llama(), new_llama()
    apply_mend_to_model(together, tiny_tokenizer, [REQUEST, OTHER], trained)
    apply_mend_to_model(apart, tiny_tokenizer, [REQUEST], trained)
    apply_mend_to_model(apart, tiny_tokenizer, [OTHER], trained)
    assert changed(together, weights(apart)) == []


def test_a_copy_is_edited_alone(trained, tiny_llama, tiny_tokenizer):
    before = weights(tiny_llama)
    edited, _ = apply_mend_to_model(tiny_llama, tiny_tokenizer, [REQUEST], trained, copy=True)
    assert changed(tiny_llama, before) == []
    assert changed(edited, before)


def test_a_failed_edit_leaves_the_weights(trained, tiny_llama, tiny_tokenizer, monkeypatch):
    before, one_fact = weights(tiny_llama), mend._OneFact

    def stumbling(tokenizer, text):
        if text[0] == OTHER["prompt"]:
            raise FactError("no")
        return one_fact(tokenizer, text)

    monkeypatch.setattr(mend, "_OneFact", stumbling)
    with pytest.raises(FactError):
        apply_mend_to_model(tiny_llama, tiny_tokenizer, [REQUEST, OTHER], trained)
    assert changed(tiny_llama, before) == []


# -- what cannot be used -------------------------------------------------------------------------------------------


def test_an_archive_of_another_rank_is_refused(trained, tiny_llama, tiny_tokenizer):
    with pytest.raises(ArchiveError, match="does not fit these hyperparameters"):
        mend.MEND().apply_to_model(tiny_llama, tiny_tokenizer, [REQUEST], dataclasses.replace(trained, rank=4))


@pytest.mark.parametrize("name", ["gpt-j-6B", "gpt2-xl", "llama3-8b", "smollm2-135m"])
def test_presets_are_read(name, tiny_llama, easyeditor):
    hparams = load_hparams("MEND", PRESETS / f"{name}.yaml", {}, tiny_llama)
    assert hparams.archive is None
    assert 0 < abs(hparams.edit_lr) < 1
    assert len(hparams.inner_params) in (6, 9)
