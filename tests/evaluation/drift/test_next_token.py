"""KL(before || after) on held-out text: zero without an edit, and equal to the closed form for a known edit."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from next_word import NextWord
from safetensors.torch import load_file, save_file
from tiny import VOCABULARY, tiny_model, tiny_tokenizer

from nse_plugin.evaluation.drift.next_token import NextTokenReference, next_token_drift, next_token_reference

TEXT = """The river runs through the old town because of rain. Marie Curie was born in Warsaw, and the Eiffel Tower
stands in Paris. Berlin is the capital of Germany; he plays the violin, she speaks French and Italian. Lyon is a town,
Rome is an old town of Italy, and the wind is cold."""
WINDOW = 16


@pytest.fixture(scope="module")
def byte_tokenizer():
    return tiny_tokenizer()


def everywhere(before, after, tokenizer, window: int = WINDOW) -> list[float]:
    """The definition: each window alone, at every position that has a next token."""
    ids = tokenizer(TEXT)["input_ids"]
    found = []
    for start in range(0, len(ids), window):
        row = torch.tensor([ids[start : start + window]])
        p, q = (model(row).logits[0, :-1].detach().double().log_softmax(-1) for model in (before, after))
        found += [float(divergence) for divergence in (p.exp() * (p - q)).sum(-1)]
    return found


def disturbed(model, scale: float = 0.05):
    """A copy whose weights all differ a little."""
    changed = copy.deepcopy(model)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter += scale * torch.randn_like(parameter)
    return changed


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("tokens_per_batch", [1, 40, 10_000])
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2"])
def test_as_the_definition_whatever_the_batch(architecture, tokens_per_batch, side):
    tokenizer = tiny_tokenizer(padding_side=side)
    before = tiny_model(architecture)
    after = disturbed(before)
    sizes = {"window": WINDOW, "tokens_per_batch": tokens_per_batch}
    reference = next_token_reference(before, tokenizer, TEXT, positions=1000, **sizes)
    expected = everywhere(before, after, tokenizer)
    assert reference.logits.shape == (len(expected), VOCABULARY)
    mean = sum(expected) / len(expected)
    assert mean > 0.01
    assert next_token_drift(reference, after, tokens_per_batch) == pytest.approx(mean, rel=1e-5)


def test_a_few_positions_are_evenly_spaced_and_exact(llama, byte_tokenizer):
    after = disturbed(llama)
    expected = everywhere(llama, after, byte_tokenizer)
    reference = next_token_reference(llama, byte_tokenizer, TEXT, positions=5, window=WINDOW)
    chosen = [expected[number * len(expected) // 5] for number in range(5)]
    assert reference.logits.shape == (5, VOCABULARY)
    assert len(reference.windows) <= 5  # windows without a chosen position are not read
    assert next_token_drift(reference, after) == pytest.approx(sum(chosen) / 5, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_no_edit_is_no_drift_to_the_last_bit(byte_tokenizer, dtype):
    model = tiny_model("llama", dtype)
    reference = next_token_reference(model, byte_tokenizer, TEXT, window=WINDOW)
    assert reference.logits.dtype == dtype
    assert next_token_drift(reference, model) == 0.0


@settings(max_examples=20, deadline=None)
@given(st.floats(-6, 6))
def test_a_biased_word_has_the_closed_form(bias):
    """Words are alike before; one logit is raised by b: KL = log((n - 1 + e^b) / n) - b / n."""
    words = {word: number for number, word in enumerate("abcdefgh")}
    before, after = NextWord(words, following={}), NextWord(words, following={})
    after.embedding.weight.data[:, 2] += bias
    n = len(words)
    reference = next_token_reference(before, _Letters(words), "abcdabcd")
    expected = math.log((n - 1 + math.exp(bias)) / n) - bias / n
    assert next_token_drift(reference, after) == pytest.approx(expected, abs=1e-6)


class _Letters:
    """A token a letter."""

    def __init__(self, words):
        self.words = words

    def __call__(self, text, **_):
        return {"input_ids": [self.words[letter] for letter in text]}


def test_the_divergence_is_of_after_from_before():
    """Not symmetric: P = (1/2, 1/4, 1/8, 1/8) against Q = all alike is log 4 - 1.75 log 2."""
    words = {word: number for number, word in enumerate("abcd")}
    spread = {letter: {"a": 1 / 2, "b": 1 / 4} for letter in words}
    before, after = NextWord(words, following=spread), NextWord(words, following={})
    tokenizer = _Letters(words)
    there = next_token_drift(next_token_reference(before, tokenizer, "abca"), after)
    back = next_token_drift(next_token_reference(after, tokenizer, "abca"), before)
    assert there == pytest.approx(0.25 * math.log(2), rel=1e-5)
    assert back == pytest.approx(-math.log(4) + (1 + 2 + 3 + 3) / 4 * math.log(2), rel=1e-5)


def test_reading_is_what_perplexity_reads(llama, byte_tokenizer):
    ids = byte_tokenizer(TEXT)["input_ids"]
    reference = next_token_reference(llama, byte_tokenizer, TEXT, positions=1000, max_tokens=2 * WINDOW + 1)
    assert reference.windows.shape == (1, 2 * WINDOW + 1)
    cut = next_token_reference(llama, byte_tokenizer, TEXT, positions=1000, window=WINDOW, max_tokens=2 * WINDOW + 1)
    assert cut.windows.tolist() == [ids[:WINDOW], ids[WINDOW : 2 * WINDOW]]  # of the last token nothing is predicted
    assert cut.columns.tolist() == 2 * list(range(WINDOW - 1))
    longest = next_token_reference(llama, byte_tokenizer, TEXT, positions=1000)
    assert longest.windows.shape[1] == llama.config.max_position_embeddings


def test_a_reference_in_a_file(llama, byte_tokenizer, tmp_path):
    reference = next_token_reference(llama, byte_tokenizer, TEXT, positions=7, window=WINDOW)
    save_file(vars(reference), tmp_path / "reference.safetensors")
    read = NextTokenReference(**load_file(tmp_path / "reference.safetensors"))
    assert next_token_drift(read, llama) == 0.0
    after = disturbed(llama)
    assert next_token_drift(read, after) == next_token_drift(reference, after)


def test_the_model_is_as_it_was(llama, byte_tokenizer):
    llama.train()
    next_token_reference(llama, byte_tokenizer, TEXT, positions=3)
    assert llama.training
    assert all(parameter.requires_grad for parameter in llama.parameters())


@pytest.mark.parametrize(
    ("text", "sizes", "message"),
    [
        (TEXT, {"positions": 0}, "positions = 0 cannot be used: give 1 or more"),
        (TEXT, {"window": 1}, "window = 1 cannot be used"),
        ("", {}, "predicting needs two: give a longer text"),
    ],
)
def test_what_cannot_be_asked_is_one_clear_error(llama, byte_tokenizer, text, sizes, message):
    with pytest.raises(ValueError, match=message):
        next_token_reference(llama, byte_tokenizer, text, **sizes)


def test_another_vocabulary_is_refused(llama, byte_tokenizer):
    reference = next_token_reference(llama, byte_tokenizer, TEXT, positions=3)
    llama.resize_token_embeddings(VOCABULARY + 4)
    with pytest.raises(ValueError, match=f"logits of {VOCABULARY} tokens, .*vocabulary has {VOCABULARY + 4}"):
        next_token_drift(reference, llama)
