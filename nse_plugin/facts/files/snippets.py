"""ROME's snippets: texts about entities that its Consistency metric uses as references."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from nse_plugin.facts.files.records import DatasetError, read_bytes, read_records

SnippetTexts = dict[tuple[str, str], tuple[str, ...]]  # by relation and target


def read_snippets(path: Path) -> SnippetTexts:
    """ROME's snippets, `[{relation_id, target_id, samples: [{name, text}]}]`. Raises DatasetError."""
    texts: SnippetTexts = {}
    for index, record in enumerate(read_records(path, read_bytes(path))):
        entry = record.content
        if record.problem:
            raise DatasetError(f"{path}, {record.place}: {record.problem}")
        try:
            key = (str(entry["relation_id"]), str(entry["target_id"]))
            found = tuple(sample["text"] for sample in entry["samples"] if sample["text"].strip())
            texts[key] = texts.get(key, ()) + found
        except (AttributeError, LookupError, TypeError) as error:
            raise DatasetError(
                f"{path}, entry {index} (counted from 0): {type(error).__name__} {error}: each needs relation_id, "
                "target_id and samples, a list of objects with a text, as in ROME's attribute_snippets.json."
            ) from error
    return texts


def references_of(record: object, texts: SnippetTexts) -> tuple[str, ...]:
    """Return the texts about other things of which a record's new target is true; () if it is not in ROME's format."""
    rewrite = record.get("requested_rewrite", {}) if isinstance(record, Mapping) else {}
    target = rewrite.get("target_new")
    if not isinstance(target, Mapping):
        return ()
    return texts.get((str(rewrite.get("relation_id")), str(target.get("id"))), ())
