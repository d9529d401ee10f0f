"""Keep the subjects of EasyEdit's zsRE dataset: the class drops the field, but NSE edits at the subject."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any


def keep_zsre_subjects(dataset_class: type[Any]) -> None:
    """Make `dataset_class`, EasyEdit's `ZsreDataset`, keep the field "subject" of the records that have it.

    Everything else about the class, and what its evaluators read, is unchanged. Call it once.
    """
    load = dataset_class.__init__

    @functools.wraps(load)
    def load_with_subjects(self: Any, data_dir: str | Path, *args: Any, **kwargs: Any) -> None:
        load(self, data_dir, *args, **kwargs)
        with open(data_dir, encoding="utf-8") as file:
            raw = json.load(file)
        for index in range(len(self)):
            record = self[index]
            if "subject" in raw[record["case_id"]]:  # the class numbers records by their index in the file
                record["subject"] = raw[record["case_id"]]["subject"]

    dataset_class.__init__ = load_with_subjects
