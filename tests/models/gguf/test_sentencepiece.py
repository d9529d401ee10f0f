"""SentencePiece vocabularies with scores, as in Gemma's GGUF files."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from tokenizers import Tokenizer, normalizers
from tokenizers.models import Unigram
from transformers import AutoTokenizer, PreTrainedTokenizerFast

pytest.importorskip("gguf")

from nse_plugin.models.gguf import file
from nse_plugin.models.gguf.sentencepiece import bpe_of

TOKENS = ["<unk>", "▁c", "ap", "it", "al", "▁cap", "ital", "▁capital", "▁", "c", "a", "p", "i", "t", "l", "  "]
SCORES = [0.0, -1.0, -2.0, -3.0, -4.0, -5.0, -6.0, -100.0, *[-200.0] * 8]  # ranks, as in Gemma's files


def cut(model, text="capital"):
    return [piece.value for piece in model.tokenize(f"▁{text}")]


def test_a_word_of_the_vocabulary_stays_whole():
    assert cut(bpe_of(TOKENS, SCORES, "<unk>")) == ["▁capital"]
    assert cut(Unigram(list(zip(TOKENS, SCORES, strict=True)), unk_id=0)) != ["▁capital"]  # what transformers does


def test_the_highest_score_is_joined_first():
    tokens = ["<unk>", "a", "b", "c", "ab", "bc"]
    assert [piece.value for piece in bpe_of(tokens, [0, -9, -9, -9, -1, -2], None).tokenize("abc")] == ["ab", "c"]
    assert [piece.value for piece in bpe_of(tokens, [0, -9, -9, -9, -2, -1], None).tokenize("abc")] == ["a", "bc"]


def test_the_tokenizer_of_a_file_is_put_right(monkeypatch, tmp_path):
    given = Tokenizer(Unigram(list(zip(TOKENS, SCORES, strict=True)), unk_id=0))
    given.normalizer = normalizers.Replace(" ", "▁")
    made = PreTrainedTokenizerFast(tokenizer_object=given, unk_token="<unk>")
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda *_, **__: made)
    fields = {"model": "llama", "tokens": TOKENS, "scores": SCORES}
    reader = SimpleNamespace(
        fields={
            f"tokenizer.ggml.{name}": SimpleNamespace(contents=lambda value=value: value)
            for name, value in fields.items()
        }
    )
    tokenizer = file._read_tokenizer(tmp_path / "x.gguf", reader)
    assert tokenizer.convert_ids_to_tokens(tokenizer(" capital").input_ids) == ["▁capital"]
