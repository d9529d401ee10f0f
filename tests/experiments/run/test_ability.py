"""`nse ability` on tiny models and files."""

from __future__ import annotations

import importlib.util
import json

import pandas as pd
import pytest
import torch
from task_files import questions, questions_file, task_file
from tiny import tiny_model, tiny_tokenizer

from nse_plugin.cli import main
from nse_plugin.evaluation.ability.harness import PAPER, load_tasks
from nse_plugin.evaluation.ability.multiple_choice import LOG_PROBABILITIES, accuracy, answer_questions
from nse_plugin.evaluation.intervals import metric_intervals
from nse_plugin.experiments.run import ability
from nse_plugin.experiments.run.ability import AbilityTasks


def saved(folder, seed):
    tiny_model("llama", torch.float32, seed=seed).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def base(tmp_path):
    return saved(tmp_path / "base", 0)


@pytest.fixture
def nothing_is_loaded(monkeypatch):
    def refuse(*_):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(ability, "load", refuse)


def test_before_and_after(base, tmp_path, capsys):
    same, other = saved(tmp_path / "same", 0), saved(tmp_path / "other", 7)
    out, file = tmp_path / "out", questions_file(tmp_path)
    arguments = ["--model", base, "--edited", same, other, "--questions", str(file), "--out", str(out)]
    assert main(["ability", *arguments]) == 0
    said = capsys.readouterr()
    assert said.out.rstrip().endswith(str(out / "ability.csv"))
    assert all(word in said.out for word in ("Before", "After", "Kept", "own", "same", "other", "100.0"))
    assert [line.split(":")[0] for line in said.err.splitlines() if "6 of own" in line] == ["before", "same", "other"]

    frame, answers = pd.read_csv(out / "ability.csv"), pd.read_csv(out / "answers.csv")
    assert list(frame) == ["model", "task", "subject", "metric", "n", "value", "low", "high"]
    of_all = frame[frame["subject"] == "all"].set_index(["model", "metric"])["value"]
    assert list(of_all.index) == [
        ("before", "accuracy"), ("same", "accuracy"), ("same", "kept"), ("other", "accuracy"), ("other", "kept"),
    ]  # fmt: skip
    assert of_all["same", "kept"] == 1.0
    assert of_all["same", "accuracy"] == of_all["before", "accuracy"]
    assert len(frame[(frame["model"] == "other") & (frame["metric"] == "kept")]) == 1 + 4  # "all" and each subject

    expected = {seed: answer_questions(tiny_model("llama", torch.float32, seed=seed), tiny_tokenizer(), questions())
                for seed in (0, 7)}  # fmt: skip
    for name, seed in (("before", 0), ("other", 7)):
        own = answers[answers["model"] == name]
        assert list(own["question"]) == list(range(6))
        assert list(own["chosen"]) == list(expected[seed]["chosen"])
        assert own[LOG_PROBABILITIES].to_numpy() == pytest.approx(
            expected[seed][LOG_PROBABILITIES].to_numpy(), rel=1e-4
        )
    same_answers = (expected[0]["chosen"] == expected[7]["chosen"]).mean()
    assert of_all["other", "kept"] == pytest.approx(same_answers, abs=1e-5)
    assert same_answers < 1
    assert of_all["other", "accuracy"] == pytest.approx(expected[7]["correct"].mean(), abs=1e-5)


def test_the_unedited_model_alone_and_a_limit(base, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["--model", base, "--questions", str(questions_file(tmp_path)), "--limit", "3", "--out", str(out)]
    assert main(["ability", *arguments]) == 0
    frame = pd.read_csv(out / "ability.csv")
    assert list(frame["metric"].unique()) == ["accuracy"]
    assert list(frame["n"]) == [3, 1, 1, 1]


@pytest.mark.parametrize("change", ["questions", "weights", "edited", "limit"])
def test_results_of_another_tasks_are_not_overwritten(base, tmp_path, capsys, change):
    edited, out, file = saved(tmp_path / "edited", 7), tmp_path / "out", questions_file(tmp_path)
    arguments = ["--model", base, "--edited", edited, "--questions", str(file), "--out", str(out)]
    assert main(["ability", *arguments]) == 0
    assert main(["ability", *arguments]) == 0  # the same once more
    before = (out / "ability.csv").read_bytes()
    if change == "questions":
        file.write_text(file.read_text().replace("the violin", "a violin"))
    elif change == "limit":
        arguments += ["--limit", "3"]
    else:
        saved(tmp_path / {"weights": "base", "edited": "edited"}[change], 8)
    assert main(["ability", *arguments]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"{out} holds results of other inputs" in said
    assert "choose another `--out`" in said
    assert {"weights": "content of model.source", "edited": "content of edited"}.get(change, "questions.own") in said
    assert (out / "ability.csv").read_bytes() == before


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="lm-evaluation-harness is not installed")
def test_a_task_of_the_harness_beside_the_same_questions(base, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    other = saved(tmp_path / "other", 7)
    out, file = tmp_path / "out", questions_file(tmp_path)
    arguments = ["--model", base, "--edited", other, "--tasks", str(task_file(tmp_path)), "--questions", str(file)]
    assert main(["ability", *arguments, "--out", str(out)]) == 0
    frame = pd.read_csv(out / "ability.csv")
    of_all = frame[frame["subject"] == "all"].set_index(["model", "task", "metric"])[["n", "value", "low", "high"]]
    for model in ("before", "other"):
        ours, theirs = of_all.loc[(model, "own", "accuracy")], of_all.loc[(model, "towns", "acc")]
        assert theirs.to_numpy() == pytest.approx(ours.to_numpy(), abs=1e-5)


@pytest.mark.parametrize("hits", [0, 7, 10])
def test_as_many_right_of_as_many_are_said_as_nse_compare_says_them(hits):
    """There, of facts."""
    right = pd.Series([True] * hits + [False] * (10 - hits))
    [row, _] = accuracy(pd.DataFrame({"subject": "law", "correct": right})).to_dict("records")
    facts = metric_intervals(pd.DataFrame({"efficacy": right.astype(float)}))
    assert (row["low"], row["high"]) == facts["efficacy"]
    assert ability._interval("acc", hits / 10, 0.0, 10) == facts["efficacy"]  # a task of the harness
    if hits == 10:
        assert f"{100 * row['low']:.0f} to {100 * row['high']:.0f}" == "72 to 100"


def test_what_the_paper_asks(monkeypatch):
    asked = []
    monkeypatch.setattr(ability, "load_tasks", lambda names, limit: asked.append((names, limit)) or [])
    AbilityTasks.of(["paper"], [])
    AbilityTasks.of(["paper", "mmlu", "hellaswag"], [], limit=7)
    AbilityTasks.of(["mmlu"], [])
    assert asked == [([*PAPER], 100), ([*PAPER, "hellaswag"], 7), (["mmlu"], None)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["nothing to ask", "--tasks", "--questions"]),
        (["--questions", "nowhere.json"], ["nowhere.json cannot be read"]),
        (["--questions", "three.json"], ["three.json, entry 0 (counted from 0): choices", "are 3: give four"]),
        (["--questions", "own.json", "deeper/own.json"], ["Two files", "'own'", "rename one"]),
        (["--questions", "own.json", "--limit", "0"], ["--limit 0: ask one item"]),
        (["--questions", "own.json", "--edited", "nowhere"], ["--edited nowhere holds no model", "save_pretrained"]),
        (["--questions", "own.json", "--edited", "bare"], ["--edited bare holds no tokenizer", "save_pretrained"]),
        (["--questions", "own.json", "--edited", "base", "deeper/base"], ["'base' is taken", "rename it"]),
    ],
)
def test_errors_are_one_line_and_come_first(base, tmp_path, capsys, monkeypatch, nothing_is_loaded, arguments, words):
    monkeypatch.chdir(tmp_path)
    questions_file(tmp_path)
    entry = {"question": "Where is Lyon?", "subject": "towns", "choices": ["Italy", "France", "Japan"], "answer": 1}
    (tmp_path / "three.json").write_text(json.dumps([entry]))
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_text("{}")
    assert main(["ability", "--model", base, *arguments]) == 1
    said = capsys.readouterr()
    [message] = [line for line in said.err.splitlines() if line.startswith("nse: ")]
    assert all(word in message for word in words), message
    assert said.out == ""


def test_a_task_without_the_harness_comes_first_too(base, capsys, monkeypatch, nothing_is_loaded):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert load_tasks([]) == []
    assert main(["ability", "--model", base, "--tasks", "mmlu"]) == 1
    assert "pip install nse-plugin[eval]" in capsys.readouterr().err
