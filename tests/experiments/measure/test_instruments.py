"""Instruments measure no change without an edit, and the change that was made with one."""

from __future__ import annotations

import copy
import json
import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from measured import FACTS, QUESTIONS
from tiny import CHAT, tiny_tokenizer

from nse_plugin.evaluation.ability import multiple_choice
from nse_plugin.evaluation.ability.multiple_choice import QuestionError
from nse_plugin.evaluation.suite import FAMILIES
from nse_plugin.experiments.measure.instruments import held_out_text, instruments
from nse_plugin.experiments.measure.reference import Reference
from nse_plugin.experiments.measure.suite import MetricSuite, measure_before, written_texts
from nse_plugin.experiments.plan import ModelChoice, PlanError
from nse_plugin.experiments.record import Checkpoint, Record
from nse_plugin.facts import Fact


def test_the_unedited_model_has_not_moved(record):
    overall, tables = record.load(0).overall, record.load(0).tables
    assert overall["ability_quiz_sample_kept"] == overall["ability_quiz_sample_kept_high"] == 1.0
    assert 0.0 < overall["ability_quiz_sample_kept_low"] < 1.0
    assert overall["ability_quiz_sample_low"] <= overall["ability_quiz_sample"] <= overall["ability_quiz_sample_high"]
    assert overall["next_token_kl"] == 0.0
    assert overall["hidden_mean_shift"] == overall["hidden_hausdorff"] == overall["weight_change"] == 0.0
    assert overall["hidden_cosine"] == pytest.approx(1.0, abs=1e-12)
    assert tables["ability"][["task", "subject", "n"]].values.tolist() == [
        ["quiz_sample", "all", 6], ["quiz_sample", "letters", 3], ["quiz_sample", "sums", 3],
    ]  # fmt: skip
    assert len(tables["weights"]) == 0
    assert len(tables["states"]) == len({prompt for fact in FACTS for prompt, _ in fact.locality_prompts})


def test_the_unedited_model_is_asked_its_questions_once(suite, saved, tmp_path, monkeypatch):
    asked = []
    predict_tokens = multiple_choice.predict_tokens
    monkeypatch.setattr(multiple_choice, "predict_tokens", lambda *args: asked.append(1) or predict_tokens(*args))
    measure_before(suite, Record(tmp_path / "again"), saved, tiny_tokenizer(), FACTS)
    assert len(asked) == 1


def test_an_edited_model_has(record, suite, saved):
    edited = copy.deepcopy(saved)
    with torch.no_grad():
        edited.model.layers[1].mlp.down_proj.weight.mul_(1.5)
    reference = Reference.load(record)
    measured, tables = suite.measure(edited, tiny_tokenizer(), FACTS, reference)
    assert measured.overall["weight_change"] == pytest.approx(0.5, rel=1e-6)
    assert tables["weights"][["layer", "relative_norm"]].values.tolist() == [[1, pytest.approx(0.5, rel=1e-6)]]
    assert measured.overall["next_token_kl"] > 0
    assert measured.overall["hidden_mean_shift"] > 0
    before, after = record.load(0).tables["states"], tables["states"]
    assert before.shape == after.shape
    assert not (before[["x", "y"]].to_numpy() == after[["x", "y"]].to_numpy()).any()


def infinite_entry(model):
    model.model.layers[1].mlp.down_proj.weight[0, 0] = torch.inf
    model.model.layers[2].mlp.down_proj.weight[0, 0] += 1


def nan_everywhere(model):
    for parameter in model.parameters():
        parameter.fill_(torch.nan)


def infinite_logit(model):
    model.lm_head.weight[5] = torch.inf


def certain_of_another(model):
    """Every logit is finite, and the targets have no probability: log 0."""
    model.lm_head.weight[5] = 3e38


@pytest.mark.parametrize("diverge", [infinite_entry, nan_everywhere, infinite_logit, certain_of_another])
def test_a_model_that_has_diverged_is_measured(record, questions, saved, tmp_path, diverge):
    """What has no number is NaN or absent, and everything else, the record and its reading included, goes on."""
    metrics = {**{family: {} for family in FAMILIES}, "ability": {"questions": [questions]}, "drift": {"positions": 16}}
    suite = MetricSuite(metrics, 0, ModelChoice("m", str(tmp_path / "model")))
    whole, tokenizer = Record(tmp_path / "whole"), tiny_tokenizer(chat=CHAT)
    measure_before(suite, whole, saved, tokenizer, FACTS)
    diverged = copy.deepcopy(saved)
    with torch.no_grad():
        diverge(diverged)
    measured, tables = suite.measure(diverged, tokenizer, FACTS, Reference.load(whole))
    found = measured.overall
    assert not any(math.isinf(value) for value in found.values())
    assert not np.isinf(measured.facts.select_dtypes("number").to_numpy(float)).any()
    assert math.isnan(found["perplexity"])
    assert math.isnan(found["next_token_kl"]) or diverge is certain_of_another
    assert math.isnan(found["weight_change"]) == (diverge is not certain_of_another)
    assert math.isnan(found["hidden_cosine"]) == (diverge in (infinite_entry, nan_everywhere))
    assert found["rewrite_accuracy"] == 0.0
    if diverge is not certain_of_another:
        assert (found["ability_quiz_sample"], found["ability_quiz_sample_kept"]) == (0.0, 0.0)
        assert found["locality_agreement"] == 0.0
    texts = written_texts(FACTS, measured)
    whole.save(Checkpoint(2, measured.facts, texts, found, {"seconds": {}}, tables), state=None)
    assert whole.load(2).overall.keys() == found.keys()


def test_prompts_of_ones_own(tmp_path, saved):
    (tmp_path / "known.json").write_text(json.dumps([{"prompt": "Lima is in"}, "we saw France", "Paris is in"]))
    settings = {"drift": {"prompts": str(tmp_path / "known.json"), "limit": 2, "positions": 4}}
    (drift,) = instruments(settings, ModelChoice("m", str(tmp_path / "model"))).values()
    states = drift.begin(saved, tiny_tokenizer(), [])[0]["states"]
    assert states.shape == (2, saved.config.hidden_size)


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        ({"ability": {"questions": [], "tasks": []}}, "metrics.ability has neither questions nor tasks"),
        ({"ability": {"questions": ["x.json"], "limit": 0}}, "metrics.ability.limit = 0"),
        ({"drift": {"positions": 0}}, "metrics.drift.positions = 0"),
        ({"drift": {"prompt": "x"}}, "did you mean 'prompts'?"),
        ({"drift": {"limit": 0}}, "metrics.drift.limit = 0"),
        ({"drift": {"prompts": "/nowhere.json"}}, "metrics.drift.prompts = '/nowhere.json' cannot be read"),
        ({"drift": {"text": "/nowhere.txt"}}, "metrics.drift.text = '/nowhere.txt' cannot be read"),
    ],
)
def test_bad_settings_are_told_before_a_model_is_loaded(metrics, words):
    with pytest.raises((PlanError, QuestionError), match=words.replace("?", r"\?")):
        instruments(metrics, ModelChoice("m", "/nowhere"))


def test_drift_needs_prompts():
    (drift,) = instruments({"drift": {}}, ModelChoice("m", "/nowhere")).values()
    drift.check(FACTS)
    with pytest.raises(PlanError, match="the facts have no locality prompts: give a file of prompts"):
        drift.check([Fact("{} is in", "Lima", "Italy")])


def test_a_limit_holds_for_the_facts_prompts_too(saved, tmp_path):
    (drift,) = instruments({"drift": {"limit": 2, "positions": 4}}, ModelChoice("m", str(tmp_path / "model"))).values()
    assert len(drift.begin(saved, tiny_tokenizer(), FACTS)[0]["states"]) == 2


def test_a_method_that_wraps_a_layer_has_no_weight_change(record, suite, saved):
    class Adapter(torch.nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return 2 * self.layer(x)

    saved.model.layers[1].mlp.down_proj = Adapter(saved.model.layers[1].mlp.down_proj)
    measured, tables = suite.measure(saved, tiny_tokenizer(), FACTS, Reference.load(record))
    assert measured.overall["next_token_kl"] > 0
    assert "weight_change" not in measured.overall
    assert "weights" not in tables


def test_other_questions_than_the_reference_s_are_refused(record, suite, saved, questions):
    other = [{**entry, "answer": (entry["answer"] + 1) % 4} for entry in QUESTIONS]
    Path(questions).write_text(json.dumps(other))
    with pytest.raises(QuestionError, match="put the same to both"):
        replace(suite).measure(saved, tiny_tokenizer(), FACTS, Reference.load(record))


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        ({"perplexity": {"text": "/nope"}}, "metrics.perplexity.text = '/nope' cannot be read"),
        ({"perplexity": {"text": os.devnull}}, f"metrics.perplexity.text = '{os.devnull}' holds no text"),
        ({"generation": {"facts": 0}}, "metrics.generation.facts = 0 cannot be used"),
        ({"fluency": {"facts": "x"}}, "metrics.fluency.facts = 'x' cannot be used"),
        ({"generation": {"chatty": True}}, "metrics.generation: 'chatty' is not known"),
        ({"chat": {"templat": "x"}}, "metrics.chat: 'templat' is not known; did you mean 'template'"),
        ({"probability": {"chatt": True}}, "metrics.probability: 'chatt' is not known; did you mean 'chat'"),
        ({"chat": {"facts": 0}}, "metrics.chat.facts = 0 cannot be used"),
    ],
)
def test_a_suite_is_checked_without_a_model(metrics, words):
    with pytest.raises(PlanError, match=words):
        MetricSuite(metrics, 0, ModelChoice("m", "/nowhere")).check(FACTS)


@pytest.mark.parametrize("entries", [{"a": 1}, [{"prompt": 5}], [""], ["Lima is in", None], "Lima"])
def test_prompts_that_are_none(entries, tmp_path):
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps(entries))
    with pytest.raises(PlanError, match="give a JSON list of prompts|the file has fewer"):
        instruments({"drift": {"prompts": str(path)}}, ModelChoice("m", "/nowhere"))["drift"].check(FACTS)


def test_questions_with_three_choices_are_refused(tmp_path):
    path = tmp_path / "three.json"
    path.write_text(json.dumps([{**QUESTIONS[0], "choices": ["a", "b", "c"]}]))
    with pytest.raises(QuestionError, match=r"three.json, entry 0 \(counted from 0\): choices = .* are 3: give four"):
        instruments({"ability": {"questions": [str(path)]}}, ModelChoice("m", "/nowhere"))


def test_the_page_that_comes_with_the_package():
    assert len(held_out_text("text", None)) > 1000


def test_frames_of_a_record_are_what_was_saved(record):
    tables = record.load(0).tables
    assert set(tables) == {"ability", "states", "weights"}
    assert isinstance(tables["states"], pd.DataFrame)
