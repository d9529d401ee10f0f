"""Tasks of lm-evaluation-harness, from local files: nothing is downloaded."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from task_files import questions, task_file
from tiny import tiny_model, tiny_tokenizer

from nse_plugin.evaluation.ability.harness import TaskError, evaluate_tasks, load_tasks
from nse_plugin.evaluation.ability.multiple_choice import LOG_PROBABILITIES, accuracy, answer_questions

installed = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="lm-evaluation-harness is not installed (extra `eval`)"
)


@pytest.fixture
def settled(tmp_path: Path, monkeypatch: Any) -> str:
    """A group among the harness' own: the task `towns`, the same as `again`, and their mean."""
    from lm_eval.tasks import TaskManager

    task = task_file(tmp_path)
    (tmp_path / "again.yaml").write_text(task.read_text().replace("task: towns", "task: again"))
    means = [{"metric": "acc", "weight_by_size": True}]
    group = {"group": "settled", "task": ["towns", "again"], "aggregate_metric_list": means}
    (tmp_path / "settled.yaml").write_text(yaml.safe_dump(group))
    known = TaskManager(include_path=str(tmp_path), include_defaults=False)
    monkeypatch.setattr("lm_eval.tasks.TaskManager", lambda include_defaults: known)
    return "settled"


@pytest.fixture(autouse=True)
def own_datasets(tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))


@installed
@pytest.mark.parametrize("limit", [None, 3])
def test_a_task_scores_as_the_same_questions_do(tmp_path: Any, limit: int | None) -> None:
    model, tokenizer = tiny_model("llama", torch.float32), tiny_tokenizer()
    tasks = load_tasks([str(task_file(tmp_path))], limit)
    state = torch.random.get_rng_state()
    found = evaluate_tasks(model, tokenizer, tasks)
    assert torch.equal(torch.random.get_rng_state(), state)
    asked = questions()[:: 1 if limit is None else 2]
    expected = accuracy(answer_questions(model, tokenizer, asked))["accuracy"][0]
    [row] = found.to_dict("records")
    assert (row["task"], row["subject"], row["metric"], row["n"]) == ("towns", "all", "acc", len(asked))
    assert row["value"] == pytest.approx(expected)
    assert 0 < row["stderr"] < 1 or expected in (0, 1)
    pd.testing.assert_frame_equal(evaluate_tasks(model, tokenizer, tasks), found)  # a task serves every model


@installed
def test_scores_are_float32s_whatever_the_models_precision(tmp_path: Any, monkeypatch: Any) -> None:
    from lm_eval.models.huggingface import HFLM

    scores: list[float] = []
    made: list[HFLM] = []

    class Recorded(HFLM):
        def loglikelihood(self, requests: Any, **how: Any) -> Any:
            found = super().loglikelihood(requests, **how)
            made.append(self)
            scores.extend(score for score, _ in found)
            return found

    monkeypatch.setattr("lm_eval.models.huggingface.HFLM", Recorded)
    model, tokenizer = tiny_model("llama", torch.bfloat16), tiny_tokenizer()
    [row] = evaluate_tasks(model, tokenizer, load_tasks([str(task_file(tmp_path))])).to_dict("records")
    assert made[0].softmax_dtype == torch.float32
    ours = answer_questions(model, tokenizer, questions())
    exact = ours[LOG_PROBABILITIES].to_numpy().ravel()
    assert scores == pytest.approx(exact, rel=1e-5)
    assert row["value"] == pytest.approx(accuracy(ours)["accuracy"][0])
    rounded = torch.tensor(exact).bfloat16().double().numpy()  # what a softmax in bfloat16 cannot tell apart
    assert abs(rounded - exact).max() > 1e-3


@installed
def test_a_diverged_model_has_no_score(tmp_path: Any) -> None:
    """The harness takes the first choice for the answer where all are NaN."""
    model, tokenizer = tiny_model("llama", torch.float32), tiny_tokenizer()
    with torch.no_grad():
        model.model.layers[2].mlp.down_proj.weight[0, 0] = float("nan")
    [row] = evaluate_tasks(model, tokenizer, load_tasks([str(task_file(tmp_path))])).to_dict("records")
    assert row["n"] == len(questions())
    assert math.isnan(row["value"])
    assert math.isnan(row["stderr"])


@installed
def test_a_group_has_its_subjects_and_their_mean(settled: str) -> None:
    [loaded] = load_tasks([settled], 5)
    assert {name: list(places) for name, places in loaded.places.items()} == {"towns": [0, 2, 4], "again": [1, 3]}
    found = evaluate_tasks(tiny_model("llama", torch.float32), tiny_tokenizer(), [loaded])
    rows = found[found["metric"] == "acc"].set_index("subject")
    assert rows["n"].to_dict() == {"all": 5, "towns": 3, "again": 2}
    values = rows["value"]
    assert values["all"] == pytest.approx((3 * values["towns"] + 2 * values["again"]) / 5)


@installed
def test_each_subject_is_asked_however_small_the_limit(settled: str) -> None:
    [loaded] = load_tasks([settled], 1)
    assert {name: list(places) for name, places in loaded.places.items()} == {"towns": [0], "again": [0]}


@installed
def test_data_that_cannot_be_had(tmp_path: Any) -> None:
    task = task_file(tmp_path)
    (tmp_path / "towns.jsonl").unlink()
    with pytest.raises(TaskError, match=r"Task file .*towns.yaml cannot be used \(Unable to find .*\): mend it"):
        load_tasks([str(task)])


@installed
def test_an_unknown_task_is_named(monkeypatch: Any) -> None:
    class Few:
        """The names of a few; the index of all takes ten seconds."""

        all_tasks = ("mmlu", "cmmlu", "hellaswag")

        def __init__(self, include_defaults: bool) -> None:
            assert include_defaults

    monkeypatch.setattr("lm_eval.tasks.TaskManager", Few)
    with pytest.raises(TaskError, match="Task 'helaswag' is not one of .*: did you mean 'hellaswag'?"):
        load_tasks(["mmlu", "helaswag"])
    with pytest.raises(TaskError, match="Task 'xyz' is not one of .*: `lm-eval ls tasks` lists"):
        load_tasks(["xyz"])


def test_the_harness_is_not_installed(monkeypatch: Any) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TaskError, match=r"Tasks mmlu, sst2 need .*: install it with `pip install nse-plugin\[eval\]`"):
        load_tasks(["mmlu", "sst2"])
    assert load_tasks([]) == []
