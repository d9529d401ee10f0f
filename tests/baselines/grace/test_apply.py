"""GRACE's codebook by its definition, and what a wrapped model says."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from tiny import tiny_model

from nse_plugin.baselines.grace import (
    Codebook,
    GRACEHyperParams,
    GRACELayer,
    apply_grace_to_model,
    codebook_of,
    resume,
    unwrap,
)
from nse_plugin.baselines.registry import register_missing
from nse_plugin.facts import FactError
from nse_plugin.hparams import HyperParamsError
from nse_plugin.models.prompts import split_target

PRESETS = sorted((Path(__file__).parents[3] / "hparams" / "GRACE").glob("*.yaml"))
REQUEST = {"prompt": "The capital of France is", "subject": "France", "target_new": "town"}
OTHER = {"prompt": "Marie Curie was born in", "subject": "Marie Curie", "target_new": "Paris"}
MATRIX = {"llama": "model.layers[2].mlp.down_proj.weight", "gpt2": "transformer.h[2].mlp.c_proj.weight"}


@pytest.fixture
def hparams():
    return GRACEHyperParams(inner_params=[MATRIX["llama"]], eps=0.05, n_iter=60, edit_lr=1.0)


@pytest.fixture
def book():
    """Two entries in the plane: at the origin with radius 1, and at (4, 0) with radius 2."""
    return Codebook(
        keys=torch.tensor([[0.0, 0.0], [4.0, 0.0]]),
        values=torch.tensor([[1.0, 1.0, 1.0], [2.0, 2.0, 2.0]]),
        radii=torch.tensor([1.0, 2.0]),
        labels=((7,), (8, 9)),
    )


def logits(model, ids, **inputs):
    with torch.no_grad():
        return model(input_ids=torch.as_tensor(ids), **inputs).logits


def says(model, tokenizer, request):
    """Whether the target is the model's first choice at every token, all in one row."""
    prompt, target = split_target(tokenizer, request["prompt"], request["target_new"])
    return logits(model, [prompt + target])[0, len(prompt) - 1 : -1].argmax(-1).tolist() == target


# -- the codebook --------------------------------------------------------------------------------------------------


def test_the_nearest_key_answers_for_every_position(book):
    distance, entry = book.nearest(torch.tensor([[[0.6, 0.8], [3.0, 0.0]], [[9.0, 0.0], [1.5, 0.0]]]))
    assert distance.tolist() == pytest.approx(torch.tensor([[1.0, 1.0], [5.0, 1.5]]))
    assert entry.tolist() == [[0, 1], [1, 0]]


def test_the_layer_answers_outside_the_radii_and_the_codebook_within(book):
    layer = torch.nn.Linear(2, 3)
    activations = torch.tensor([[[0.0, 1.0], [0.0, 1.01]], [[2.5, 0.0], [4.0, 2.01]]])
    own = layer(activations)
    wrapped = GRACELayer(layer, book)
    answers = layer(activations)
    assert answers[0, 0].tolist() == [1.0, 1.0, 1.0]  # on the edge counts as within
    assert torch.equal(answers[0, 1], own[0, 1])
    assert answers[1, 0].tolist() == [2.0, 2.0, 2.0]
    assert torch.equal(answers[1, 1], own[1, 1])
    wrapped.unwrap()
    assert torch.equal(layer(activations), own)


def test_distances_near_a_key_are_exact():
    """A radius is small beside a key; the usual shortcut through a matrix product would drown it."""
    keys = 30 * torch.randn(40, 64, generator=torch.Generator().manual_seed(0))
    near = keys.clone()
    near[:, 0] += 0.01
    distance, entry = Codebook(keys, torch.zeros(40, 1), torch.ones(40), ((1,),) * 40).nearest(near)
    assert entry.tolist() == list(range(40))
    assert distance.tolist() == pytest.approx([0.01] * 40, rel=1e-3)


def test_a_far_edit_gets_its_own_entry(book):
    after, entry = book.placed(torch.tensor([0.0, 2.1]), torch.tensor([5.0, 5.0, 5.0]), (7,), eps=1.0)
    assert entry == 2
    assert after.keys[2].tolist() == pytest.approx([0.0, 2.1])
    assert after.values[2].tolist() == [5.0, 5.0, 5.0]
    assert after.radii.tolist() == [1.0, 2.0, 1.0]
    assert after.labels == ((7,), (8, 9), (7,))


def test_an_edit_of_the_same_label_nearby_expands_the_radius(book):
    after, entry = book.placed(torch.tensor([0.0, 1.9]), torch.zeros(3), (7,), eps=1.0)
    assert entry == 0
    assert after.radii.tolist() == pytest.approx([1.9, 2.0])
    assert torch.equal(after.keys, book.keys)
    assert torch.equal(after.values, book.values)


def test_an_edit_inside_the_radius_leaves_it(book):
    after, entry = book.placed(torch.tensor([4.0, 1.5]), torch.zeros(3), (8, 9), eps=1.0)
    assert entry == 1
    assert after.radii.tolist() == [1.0, 2.0]


def test_an_edit_of_another_label_nearby_splits_the_radii(book):
    after, entry = book.placed(torch.tensor([0.0, 1.2]), torch.zeros(3), (5,), eps=1.0)
    assert entry == 2
    assert after.radii.tolist() == pytest.approx([0.6, 2.0, 0.6])
    assert after.labels[2] == (5,)


def test_a_split_never_widens_a_radius(book):
    narrow = replace(book, radii=torch.tensor([0.1, 2.0]))
    after, _ = narrow.placed(torch.tensor([0.0, 1.0]), torch.zeros(3), (5,), eps=1.0)
    assert after.radii.tolist() == pytest.approx([0.1, 2.0, 0.5])


def test_the_same_prompt_with_a_new_target_takes_the_entry_over(book):
    after, entry = book.placed(torch.tensor([0.0, 0.001]), torch.full((3,), 6.0), (5,), eps=1.0)
    assert entry == 0
    assert after.labels == ((5,), (8, 9))
    assert after.values[0].tolist() == [6.0, 6.0, 6.0]
    assert torch.equal(after.radii, book.radii)


def test_tensors_hold_everything(book):
    again = Codebook.from_tensors(book.tensors())
    assert again.labels == book.labels
    assert all(torch.equal(getattr(again, name), getattr(book, name)) for name in ("keys", "values", "radii"))


# -- the wrapped model ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("val_init", ["cold", "warm"])
def test_an_edited_model_says_the_target(architecture, val_init, tokenizer, hparams, weights_of, same_weights):
    model = tiny_model(architecture)
    hparams = replace(hparams, inner_params=[MATRIX[architecture]], val_init=val_init)
    weights, names = weights_of(model), set(model.state_dict())
    assert not says(model, tokenizer, REQUEST)
    edited, originals = apply_grace_to_model(model, tokenizer, [REQUEST, OTHER], hparams, return_orig_weights=True)
    assert edited is model
    assert originals == {}
    assert says(model, tokenizer, REQUEST)
    assert says(model, tokenizer, OTHER)
    assert len(codebook_of(model).labels) == 2
    assert same_weights(weights, weights_of(model))
    assert set(model.state_dict()) == names


def test_a_model_in_half_precision_is_edited_too(tokenizer, hparams):
    model = tiny_model("llama", dtype=torch.bfloat16)
    apply_grace_to_model(model, tokenizer, [REQUEST], hparams)
    assert says(model, tokenizer, REQUEST)
    assert codebook_of(model).values.dtype == torch.float32


def test_other_inputs_are_answered_to_the_bit_as_before(llama, tokenizer, hparams):
    others = tokenizer(["Berlin is the capital of", "She speaks French and"])["input_ids"]
    before = [logits(llama, [ids]) for ids in others]
    apply_grace_to_model(llama, tokenizer, [REQUEST], hparams)
    assert all(torch.equal(logits(llama, [ids]), then) for ids, then in zip(others, before, strict=True))


def test_the_unedited_part_of_a_row_is_as_before(llama, tokenizer, hparams):
    prompt, target = split_target(tokenizer, REQUEST["prompt"], REQUEST["target_new"])
    before = logits(llama, [prompt + target])
    apply_grace_to_model(llama, tokenizer, [REQUEST], hparams)
    after = logits(llama, [prompt + target])
    assert torch.equal(after[:, : len(prompt) - 1], before[:, : len(prompt) - 1])
    assert not torch.equal(after[:, len(prompt) - 1], before[:, len(prompt) - 1])


def test_padding_and_batch_do_not_matter(llama, tokenizer, hparams):
    apply_grace_to_model(llama, tokenizer, [REQUEST], hparams)
    prompt, target = split_target(tokenizer, REQUEST["prompt"], REQUEST["target_new"])
    row, short = prompt + target, prompt[:3]
    alone = logits(llama, [row])[0]
    pad = [0] * (len(row) - 3)
    mask = torch.tensor([[1] * len(row), [1] * 3 + [0] * len(pad)])
    right = logits(llama, [row, short + pad], attention_mask=mask)[0]
    wide = [0, 0, *row]
    seen = torch.tensor([[0, 0] + [1] * len(row)])
    positions = (seen.cumsum(1) - 1).clamp(min=0)
    left = logits(llama, [wide], attention_mask=seen, position_ids=positions)[0, 2:]
    torch.testing.assert_close(right, alone)
    torch.testing.assert_close(left, alone)


def test_generation_with_a_cache_writes_the_target(llama, tokenizer, hparams):
    apply_grace_to_model(llama, tokenizer, [REQUEST], hparams)
    prompt, target = split_target(tokenizer, REQUEST["prompt"], REQUEST["target_new"])
    inputs = {"input_ids": torch.tensor([prompt]), "attention_mask": torch.ones(1, len(prompt), dtype=torch.long)}
    written = llama.generate(**inputs, max_new_tokens=len(target), do_sample=False, use_cache=True, eos_token_id=None)
    assert written[0, len(prompt) :].tolist() == target


def test_a_second_edit_of_a_prompt_wins(llama, tokenizer, hparams):
    apply_grace_to_model(llama, tokenizer, [REQUEST], hparams)
    again = {**REQUEST, "target_new": "stands"}
    apply_grace_to_model(llama, tokenizer, [again], hparams)
    assert says(llama, tokenizer, again)
    assert len(codebook_of(llama).labels) == 1


def test_unwrapping_restores_the_model(llama, tokenizer, hparams):
    prompt = tokenizer(REQUEST["prompt"])["input_ids"]
    before = logits(llama, [prompt])
    apply_grace_to_model(llama, tokenizer, [REQUEST], hparams)
    assert not torch.equal(logits(llama, [prompt]), before)
    unwrap(llama)
    assert torch.equal(logits(llama, [prompt]), before)
    assert codebook_of(llama) is None


def test_a_resumed_codebook_goes_on_as_if_never_stopped(tokenizer, hparams):
    through, first, second = tiny_model("llama"), tiny_model("llama"), tiny_model("llama")
    apply_grace_to_model(through, tokenizer, [REQUEST], hparams)
    apply_grace_to_model(through, tokenizer, [OTHER], hparams)
    apply_grace_to_model(first, tokenizer, [REQUEST], hparams)
    resume(second, hparams, codebook_of(first).tensors())
    apply_grace_to_model(second, tokenizer, [OTHER], hparams)
    ids = [tokenizer(OTHER["prompt"])["input_ids"]]
    assert torch.equal(logits(second, ids), logits(through, ids))
    assert says(second, tokenizer, REQUEST)


def test_a_copy_is_edited_alone(llama, tokenizer, hparams):
    apply_grace_to_model(llama, tokenizer, [REQUEST], hparams)
    edited, _ = apply_grace_to_model(llama, tokenizer, [OTHER], hparams, copy=True)
    assert says(edited, tokenizer, OTHER)
    assert not says(llama, tokenizer, OTHER)
    unwrap(edited)
    assert not says(edited, tokenizer, REQUEST)
    assert says(llama, tokenizer, REQUEST)


def test_keeping_the_original_drops_earlier_edits(llama, tokenizer, hparams):
    apply_grace_to_model(llama, tokenizer, [REQUEST], hparams)
    apply_grace_to_model(llama, tokenizer, [OTHER], hparams, keep_original_weight=True)
    assert says(llama, tokenizer, OTHER)
    assert not says(llama, tokenizer, REQUEST)


def test_flags_and_gradients_are_put_back(llama, tokenizer, hparams):
    llama.train()
    apply_grace_to_model(llama, tokenizer, [REQUEST], hparams)
    assert llama.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in llama.parameters())


# -- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "named"),
    [
        ({"prompt": " ", "target_new": "Rome"}, "request 1: prompt is ' '"),
        ({"prompt": "Paris is", "target_new": None}, "request 1: target_new is None"),
        ({"prompt": "{} is", "target_new": "Rome"}, "request 1: subject is None"),
    ],
)
def test_a_bad_request_is_named_and_nothing_edited(llama, tokenizer, hparams, request_, named):
    with pytest.raises(FactError, match=named):
        apply_grace_to_model(llama, tokenizer, [REQUEST, request_], hparams)
    assert codebook_of(llama) is None


def test_a_layer_that_is_not_there_is_named(llama, tokenizer, hparams):
    apply_grace_to_model(llama, tokenizer, [REQUEST], hparams)
    for name in ("model.layers[9].mlp.down_proj.weight", MATRIX["llama"].replace("2", "1")):
        with pytest.raises(HyperParamsError, match="inner_params = "):
            apply_grace_to_model(llama, tokenizer, [OTHER], replace(hparams, inner_params=[name]))
    assert says(llama, tokenizer, REQUEST)


def test_a_failed_edit_leaves_the_codebook(llama, tokenizer, hparams):
    apply_grace_to_model(llama, tokenizer, [REQUEST], hparams)
    before = codebook_of(llama)
    broken = tokenizer(OTHER["prompt"])["input_ids"][0]
    with torch.no_grad():
        llama.get_input_embeddings().weight[broken] = torch.nan
    with pytest.raises(ArithmeticError, match="not finite"):
        apply_grace_to_model(llama, tokenizer, [OTHER], hparams)
    assert codebook_of(llama) is before


@pytest.mark.parametrize(
    ("field", "value"),
    [("eps", 0), ("edit_lr", "fast"), ("dist_fn", "cos"), ("replacement", "replace_all"), ("inner_params", [])],
)
def test_a_hyperparameter_that_cannot_be_used_is_named(hparams, field, value):
    with pytest.raises(HyperParamsError, match=f"{field} = "):
        replace(hparams, **{field: value})


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_presets_are_read(path):
    hparams = GRACEHyperParams.from_hparams(path.with_suffix(""))
    assert hparams.eps > 0
    easyedit_main = {"val_reg", "reg", "num_pert", "dropout", "val_train", "eps_expand", "replacement", "device"}
    assert easyedit_main < yaml.safe_load(path.read_text()).keys()


def test_all_presets_are_there():
    assert [path.stem for path in PRESETS] == ["gpt-j-6B", "gpt2-xl", "llama3-8b", "smollm2-135m"]


def test_a_misspelt_key_is_named(tmp_path):
    path = tmp_path / "grace.yaml"
    path.write_text("inner_params: [a.weight]\nepsilon: 1.0\n")
    with pytest.raises(HyperParamsError, match="epsilon"):
        GRACEHyperParams.from_hparams(path)


def test_easyedits_own_grace_stays():
    own = object()
    algorithms = {"GRACE": own}
    register_missing(algorithms)
    assert algorithms["GRACE"] is own
    missing = {}
    register_missing(missing)
    assert missing["GRACE"] is apply_grace_to_model


def test_deepcopied_hooks_are_the_copys_own(llama, tokenizer, hparams):
    apply_grace_to_model(llama, tokenizer, [REQUEST], hparams)
    twin = copy.deepcopy(llama)
    unwrap(llama)
    assert says(twin, tokenizer, REQUEST)
    assert not says(llama, tokenizer, REQUEST)
