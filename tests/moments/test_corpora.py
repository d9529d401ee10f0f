"""Text for the second moments: every source, in batches of bounded size, starting at any batch."""

from __future__ import annotations

import dataclasses
import json
import sys
from types import SimpleNamespace

import pytest
from tiny import tiny_model

from nse_plugin.models.layout import Layout
from nse_plugin.moments import corpora
from nse_plugin.moments.corpora import PASSAGE_TOKENS, corpus_name, token_batches
from nse_plugin.moments.measure import MomentsError

TEXTS = ["The capital of France is Paris.", "The river runs through the old town because of rain. " * 8, "He plays."]


@pytest.fixture
def layout(llama):
    return Layout.of(llama)


def settings(hparams, **changes):
    return dataclasses.replace(hparams, mom2_n_samples=100, **changes)


def rows_of(layout, tokenizer, hparams, skip=0):
    return sorted(tuple(row) for batch in token_batches(layout, tokenizer, hparams, skip) for row in batch)


def windows(tokenizer, texts, size=64):
    ids = [tokenizer(text)["input_ids"] for text in texts]
    return sorted(tuple(row[i : i + size]) for row in ids for i in range(0, len(row), size))


def write_txt(folder, texts):
    path = folder / "some.txt"
    path.write_text("\n\n".join(texts) + "\n  \n", encoding="utf-8")
    return path


def write_jsonl(folder, texts):
    path = folder / "some.jsonl"
    path.write_text("\n".join(json.dumps({"id": 1, "text": text}) for text in texts), encoding="utf-8")
    return path


def write_parquet(folder, texts):
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    path = folder / "some.parquet"
    parquet.write_table(pyarrow.table({"id": [1] * (len(texts) + 1), "text": [*texts, None]}), path)
    return path


@pytest.mark.parametrize("write", [write_txt, write_jsonl, write_parquet])
def test_files_give_all_their_text(write, tmp_path, layout, tokenizer, hparams):
    path = write(tmp_path, [text.strip() for text in TEXTS])
    chosen = settings(hparams, mom2_dataset=path)
    assert rows_of(layout, tokenizer, chosen) == windows(tokenizer, [text.strip() for text in TEXTS])
    assert corpus_name(chosen) == "some"
    first = dataclasses.replace(chosen, mom2_n_samples=1)
    assert rows_of(layout, tokenizer, first) == windows(tokenizer, TEXTS[:1])


def test_wikipedia_is_streamed_in_a_seeded_order(monkeypatch, layout, tokenizer, hparams):
    asked = []

    class Articles(list):
        def shuffle(self, seed, buffer_size):
            asked.append(seed)
            return reversed(self)

    def load_dataset(*args, **kwargs):
        asked.append((args, kwargs))
        return Articles({"title": "x", "text": text} for text in TEXTS)

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    chosen = settings(hparams, mom2_dataset="wikipedia", seed=7)
    assert rows_of(layout, tokenizer, chosen) == windows(tokenizer, TEXTS)
    [((name, config), options), seed] = asked
    assert (name, config[-3:], options["streaming"], seed) == ("wikimedia/wikipedia", ".en", True, 7)
    only_last = dataclasses.replace(chosen, mom2_n_samples=1)
    assert rows_of(layout, tokenizer, only_last) == windows(tokenizer, TEXTS[-1:])


def test_wikipedia_without_a_network_names_the_ways_out(monkeypatch, layout, tokenizer, hparams):
    def load_dataset(*_, **__):
        raise ConnectionError("Couldn't reach the Hub")

    chosen = settings(hparams, mom2_dataset="wikipedia")
    words = r"mom2_dataset = 'wikipedia'.*Couldn't reach.*stats_dir.*'self'"
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(MomentsError, match=words):
        rows_of(layout, tokenizer, chosen)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MomentsError, match=r"mom2_dataset = 'wikipedia'.*ImportError|ModuleNotFoundError"):
        rows_of(layout, tokenizer, chosen)


def test_the_models_own_text_is_seeded_and_as_much_as_asked(layout, tokenizer, hparams):
    chosen = dataclasses.replace(hparams, mom2_dataset="self", mom2_n_samples=40, tokens_per_batch=20 * 64)
    rows = rows_of(layout, tokenizer, chosen)
    assert len(rows) == 40
    assert {len(row) for row in rows} == {64}  # the tiny model's positions, fewer than a passage
    assert {row[0] for row in rows} == {tokenizer.bos_token_id}
    assert rows == rows_of(layout, tokenizer, chosen)
    assert rows != rows_of(layout, tokenizer, dataclasses.replace(chosen, seed=1))
    assert len(set(rows)) == 40
    # a passage does not depend on those beside it
    assert rows == rows_of(layout, tokenizer, dataclasses.replace(chosen, tokens_per_batch=7 * 64))


def test_the_models_own_passages_have_their_length(tokenizer, hparams):
    """In a model with room for them."""
    model = tiny_model("llama")
    model.config.max_position_embeddings = 2 * PASSAGE_TOKENS
    layout = Layout.of(model)
    chosen = dataclasses.replace(hparams, mom2_n_samples=2)
    assert {len(row) for row in rows_of(layout, tokenizer, chosen)} == {PASSAGE_TOKENS}


@pytest.mark.parametrize("tokens_per_batch", [130, 400, 4096])
@pytest.mark.parametrize("source", ["self", "file"])
def test_batches_are_bounded(source, tokens_per_batch, tmp_path, layout, tokenizer, hparams):
    dataset = "self" if source == "self" else str(write_txt(tmp_path, TEXTS * 5))
    chosen = dataclasses.replace(hparams, mom2_dataset=dataset, mom2_n_samples=15, tokens_per_batch=tokens_per_batch)
    batches = list(token_batches(layout, tokenizer, chosen, 0))
    assert all(len(batch) * max(map(len, batch)) <= tokens_per_batch for batch in batches)
    assert max(len(row) for batch in batches for row in batch) <= 64
    fewest = sum(len(row) for batch in batches for row in batch) / tokens_per_batch
    assert len(batches) <= 2 * fewest + 3  # and not needlessly small


def test_a_long_document_becomes_windows(tmp_path, layout, tokenizer, hparams):
    text = "The old town. " * 200
    rows = rows_of(layout, tokenizer, settings(hparams, mom2_dataset=write_txt(tmp_path, [text])))
    assert len(rows) > 5
    assert max(map(len, rows)) == 64
    assert sum(map(len, rows)) == len(tokenizer(text.strip())["input_ids"])


@pytest.mark.parametrize("source", ["self", "file"])
def test_it_can_start_at_any_batch(source, tmp_path, layout, tokenizer, hparams):
    dataset = "self" if source == "self" else str(write_txt(tmp_path, TEXTS * 5))
    chosen = dataclasses.replace(hparams, mom2_dataset=dataset, mom2_n_samples=9, tokens_per_batch=200)
    everything = list(token_batches(layout, tokenizer, chosen, 0))
    assert len(everything) >= 3
    for skip in (1, 2, len(everything)):
        assert list(token_batches(layout, tokenizer, chosen, skip)) == everything[skip:]


def test_what_was_seen_is_not_written_again(monkeypatch, layout, tokenizer, hparams):
    calls = []
    monkeypatch.setattr(corpora, "write", lambda model, rows, *_, **__: calls.append(len(rows)) or rows)
    chosen = dataclasses.replace(hparams, mom2_n_samples=9, tokens_per_batch=200)
    assert len(list(token_batches(layout, tokenizer, chosen, 2))) == 1
    assert calls == [3]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "x", r"mom2_dataset = .*a\.csv.*\.txt, \.jsonl or \.parquet"),
        ("missing.txt", None, r"missing\.txt.*no such file"),
        ("a.jsonl", '{"text": "x"}\n{"body": "x"}', r"a\.jsonl, line 2: .*'text'"),
        ("a.jsonl", '{"text": 7}', r"a\.jsonl, line 1: .*'text' is a string"),
        ("a.jsonl", "not json", r"a\.jsonl, line 1"),
        ("a.jsonl", "[1]", r"a\.jsonl, line 1"),
        ("a.txt", b"\xff\xfe caf\xe9", r"a\.txt is not a UTF-8 text"),
        ("a.parquet", b"PAR", r"a\.parquet is not a readable parquet file"),
    ],
)
def test_a_corpus_that_cannot_be_read(name, content, words, tmp_path, layout, tokenizer, hparams):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(MomentsError, match=words) as caught:
        rows_of(layout, tokenizer, settings(hparams, mom2_dataset=path))
    assert "\n" not in str(caught.value)


def test_a_parquet_file_without_a_text_column(tmp_path, layout, tokenizer, hparams):
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    parquet.write_table(pyarrow.table({"body": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(MomentsError, match=r"\['body'\].*'text'"):
        rows_of(layout, tokenizer, settings(hparams, mom2_dataset=tmp_path / "a.parquet"))


def test_a_tokenizer_without_a_first_token(layout, hparams):
    with pytest.raises(MomentsError, match="set tokenizer.bos_token"):
        rows_of(layout, SimpleNamespace(bos_token_id=None), hparams)
