"""A tiny model on disk, and six facts about its words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny import tiny_model, tiny_tokenizer

RECORDS = [
    ("The capital of {} is", "France", "Lyon", "Paris"), ("{} was born in", "Marie Curie", "Rome", "Warsaw"),
    ("{} stands in", "Mount Fuji", "Germany", "Japan"), ("{} is an old town of", "Rome", "Japan", "Italy"),
    ("{} is a town of", "Lyon", "Italy", "France"), ("The capital of {} is", "Germany", "Rome", "Berlin"),
]  # fmt: skip


@pytest.fixture(scope="module")
def tiny_experiment(tmp_path_factory) -> list[str]:
    """The settings that choose them."""
    folder: Path = tmp_path_factory.mktemp("tiny")
    tiny_model("llama", torch.float32).save_pretrained(folder / "model")
    tiny_tokenizer(bos=True).save_pretrained(folder / "model")
    records = [
        {
            "case_id": number, "prompt": prompt, "subject": subject, "target_new": new, "target_true": true,
            "rephrase_prompts": [f"We know that {prompt.format(subject)}"],
            "locality_prompts": [[prompt.format("Berlin"), true]],
        }
        for number, (prompt, subject, new, true) in enumerate(RECORDS)
    ]  # fmt: skip
    (folder / "facts.json").write_text(json.dumps(records))
    return [f"model.source={folder / 'model'}", f"data.source={folder / 'facts.json'}", "facts=6", "round=2"]
