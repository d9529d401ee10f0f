from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from measured import FACTS, QUESTIONS
from tiny import tiny_model, tiny_tokenizer

from nse_plugin.experiments.measure.suite import MetricSuite, measure_before
from nse_plugin.experiments.plan import ModelChoice
from nse_plugin.experiments.record import Record


@pytest.fixture
def questions(tmp_path: Path) -> str:
    path = tmp_path / "quiz_sample.json"
    path.write_text(json.dumps(QUESTIONS))
    return str(path)


@pytest.fixture
def saved(tmp_path: Path) -> Any:
    model = tiny_model("llama", torch.float32)
    model.save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    return model


@pytest.fixture
def suite(questions: str, saved: Any, tmp_path: Path) -> MetricSuite:
    metrics = {"probability": {}, "ability": {"questions": [questions], "limit": None}, "drift": {"positions": 16}}
    return MetricSuite(metrics, 0, ModelChoice("m", str(tmp_path / "model")))


@pytest.fixture
def record(suite: MetricSuite, saved: Any, tmp_path: Path) -> Record:
    record = Record(tmp_path / "before")
    measure_before(suite, record, saved, tiny_tokenizer(), FACTS)
    return record
