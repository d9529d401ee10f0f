"""Measurements of the unedited model, kept in a folder."""

from __future__ import annotations

import json

import torch
from measured import FACTS
from tiny import tiny_tokenizer

from nse_plugin.experiments.measure.reference import Reference


def test_what_was_kept_is_read_back(record, suite, saved):
    kept = Reference.load(record)
    fresh, *_ = suite.begin(saved, tiny_tokenizer(), FACTS)
    assert kept.instruments.keys() == fresh.instruments.keys() == {"ability", "drift"}
    for name, tensors in fresh.instruments.items():
        assert all(torch.equal(kept.instruments[name][key], tensor) for key, tensor in tensors.items())


def test_a_reference_of_an_earlier_version(record):
    path = record.folder / "reference.json"
    kept = json.loads(path.read_text())
    del kept["instruments"]
    path.write_text(json.dumps(kept))
    assert Reference.load(record).instruments == {}
