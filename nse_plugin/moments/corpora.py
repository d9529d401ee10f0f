"""Text for the second moments, as batches of token rows: from a file, from Wikipedia, or written by the model.

Every source is deterministic and can start at any batch, so that an interrupted measurement can be resumed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from nse_plugin.hparams import NSEHyperParams
from nse_plugin.models.batching import batches_by_length
from nse_plugin.models.layout import Layout
from nse_plugin.models.writing import uniform_draws, write
from nse_plugin.moments.measure import WINDOW, MomentsError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SELF_WRITTEN = "self"
WIKIPEDIA = "wikipedia"
PASSAGE_TOKENS = 128  # with the token it begins with
_ROWS_SORTED_TOGETHER = 512
Batch = list[list[int]]


def token_batches(
    layout: Layout, tokenizer: PreTrainedTokenizerBase, hparams: NSEHyperParams, skip: int
) -> Iterator[Batch]:
    """Batches of the corpus that `hparams.mom2_dataset` names, from batch number `skip` on.

    A batch holds at most `hparams.tokens_per_batch` padded tokens (a row of `PASSAGE_TOKENS` in any case), a row no
    more than the model has positions. Raises MomentsError when the corpus cannot be had.
    """
    if hparams.mom2_dataset == SELF_WRITTEN:
        return _self_written(layout, tokenizer, hparams, skip)
    longest = min(layout.max_positions or WINDOW, _window(hparams))
    documents = islice(_documents(hparams.mom2_dataset, hparams.seed), hparams.mom2_n_samples)
    return islice(_batched(_windows(tokenizer, documents, longest), hparams.tokens_per_batch), skip, None)


def corpus_name(hparams: NSEHyperParams) -> str:
    """The corpus's part of a file name: `wikipedia`, `self`, or the file's stem."""
    return Path(hparams.mom2_dataset).stem


def corpus_identity(hparams: NSEHyperParams) -> str:
    """What a corpus holds, whatever its file is called, and how it is cut. Raises MomentsError for a file that is not
    there."""
    if hparams.mom2_dataset == SELF_WRITTEN:
        return f"its own, seed {hparams.seed}"
    if hparams.mom2_dataset == WIKIPEDIA:
        return f"{WIKIPEDIA}, seed {hparams.seed}, windows of {_window(hparams)}"
    path = _corpus_file(hparams.mom2_dataset)
    with path.open("rb") as stream:
        content = hashlib.file_digest(stream, "sha256").hexdigest()
    return f"{path.suffix} {content}, windows of {_window(hparams)}"


def _window(hparams: NSEHyperParams) -> int:
    """The most tokens of a text in one row."""
    return min(WINDOW, max(hparams.tokens_per_batch, PASSAGE_TOKENS))


def batches_to_write(layout: Layout, hparams: NSEHyperParams) -> int:
    """How many batches `token_batches` has of the model's own text."""
    return -(-hparams.mom2_n_samples // _passages_at_once(layout, hparams))


def _passage_length(layout: Layout) -> int:
    return min(layout.max_positions or PASSAGE_TOKENS, PASSAGE_TOKENS)


def _passages_at_once(layout: Layout, hparams: NSEHyperParams) -> int:
    return hparams.tokens_per_batch // _passage_length(layout) or 1


def _self_written(
    layout: Layout, tokenizer: PreTrainedTokenizerBase, hparams: NSEHyperParams, skip: int
) -> Iterator[Batch]:
    """`mom2_n_samples` passages at temperature 1; passage i depends on `seed` and i only."""
    start, length, at_once = _start_token(tokenizer), _passage_length(layout), _passages_at_once(layout, hparams)
    for first in range(skip * at_once, hparams.mom2_n_samples, at_once):
        places = range(first, min(first + at_once, hparams.mom2_n_samples))
        draws = uniform_draws(hparams.seed, places, length - 1)
        yield write(layout.model, [[start]] * len(places), draws, never=tokenizer.all_special_ids)


def _start_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token a text begins with: BOS, or the end-of-text token that stands between a model's training documents."""
    for name in ("bos_token_id", "eos_token_id", "unk_token_id"):
        token = getattr(tokenizer, name, None)
        if token is not None:
            return int(token)
    raise MomentsError("The tokenizer has no BOS, EOS or unknown token to begin a text with: set tokenizer.bos_token.")


def _documents(source: str, seed: int) -> Iterator[str]:
    if source == WIKIPEDIA:
        return _wikipedia(seed)
    path = _corpus_file(source)
    return _READERS[path.suffix](path)


def _corpus_file(source: str) -> Path:
    path = Path(source).expanduser()
    if path.suffix not in _READERS:
        raise MomentsError(
            f"mom2_dataset = {source!r} cannot be used: give 'self', 'wikipedia', or a .txt, .jsonl or .parquet file."
        )
    if not path.is_file():
        raise MomentsError(f"mom2_dataset = {source!r}: there is no such file. Give its path, or use 'self'.")
    return path


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, with their numbers."""
    try:
        with path.open(encoding="utf-8") as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    yield number, line.strip()
    except UnicodeDecodeError as error:
        raise MomentsError(f"{path} is not a UTF-8 text ({error}): save it as UTF-8.") from error


def _paragraphs(path: Path) -> Iterator[str]:
    return (line for _, line in _lines(path))


def _json_lines(path: Path) -> Iterator[str]:
    for number, line in _lines(path):
        try:
            text = json.loads(line)["text"]
        except (json.JSONDecodeError, KeyError, TypeError):
            text = None
        if not isinstance(text, str):
            raise MomentsError(f"{path}, line {number}: expected a JSON object whose field 'text' is a string.")
        yield text


def _parquet(path: Path) -> Iterator[str]:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise MomentsError(f"{path}: reading parquet needs pyarrow: pip install pyarrow.") from None
    try:
        table = parquet.ParquetFile(path)
    except (ValueError, OSError) as error:
        raise MomentsError(f"{path} is not a readable parquet file ({error}): write it again.") from error
    if "text" not in table.schema_arrow.names:
        raise MomentsError(f"{path} has the columns {table.schema_arrow.names}: one named 'text' is needed.")
    for batch in table.iter_batches(columns=["text"]):
        yield from (text for text in batch.column(0).to_pylist() if text)


_READERS: dict[str, Callable[[Path], Iterator[str]]] = {
    ".txt": _paragraphs, ".jsonl": _json_lines, ".parquet": _parquet
}  # fmt: skip


def _wikipedia(seed: int) -> Iterator[str]:
    """English Wikipedia from the Hugging Face hub, streamed in a seeded order."""
    try:
        from datasets import load_dataset

        articles = load_dataset("wikimedia/wikipedia", "20231101.en", split="train", streaming=True)
        for article in articles.shuffle(seed=seed, buffer_size=10_000):
            yield article["text"]
    except Exception as error:  # a network's failures come as many kinds
        raise MomentsError(
            f"mom2_dataset = 'wikipedia' cannot be read ({type(error).__name__}: {str(error)[:100]}): put EasyEdit's "
            "npz files under stats_dir, or set mom2_dataset to 'self' (text the model writes, needs no network) or to "
            "a text file."
        ) from error


def _windows(tokenizer: PreTrainedTokenizerBase, documents: Iterator[str], window: int) -> Iterator[list[int]]:
    for document in documents:
        ids = tokenizer(document, truncation=False)["input_ids"]
        for first in range(0, len(ids), window):
            yield ids[first : first + window]


def _batched(rows: Iterator[list[int]], tokens_per_batch: int) -> Iterator[Batch]:
    """Rows of like length together, so that little of a batch is padding."""
    while group := list(islice(rows, _ROWS_SORTED_TOGETHER)):
        for chosen in batches_by_length([len(row) for row in group], tokens_per_batch):
            yield [group[i] for i in chosen]
