"""The settings of a comparison: composed by hydra, and checked before it starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module

from nse_plugin.evaluation.suite import FAMILIES
from nse_plugin.experiments.plan import BEFORE, METRICS, Plan, PlanError
from nse_plugin.experiments.plan.cell import CellPlan
from nse_plugin.experiments.plan.configuration import composed


def plan(*overrides: str) -> Plan:
    from omegaconf import OmegaConf

    with initialize_config_module("nse_plugin.experiments.conf", version_base="1.3"):
        return Plan.from_config(OmegaConf.to_container(compose("compare", list(overrides)), resolve=True))


def test_the_command_of_the_readme() -> None:
    made = plan("methods=[NSE,MEMIT,FT-L]", "data=counterfact", "facts=100", "round=10", "model=smollm2-135m")
    assert list(made.methods) == ["NSE", "MEMIT", "FT-L"]
    assert {name: choice.alg_name for name, choice in made.methods.items()}["FT-L"] == "FT"
    assert {choice.round for choice in made.methods.values()} == {10}
    assert made.checkpoints == (100,)
    assert made.data.source == "counterfact"


def test_all_methods_of_the_papers_table_are_the_default() -> None:
    assert list(plan().methods) == ["NSE", "MEMIT", "ROME", "GRACE", "FT-L", "FT-W", "MEND"]


def test_a_method_can_be_changed_by_name() -> None:
    made = plan("methods=[NSE]", "+methods.NSE.hparams.p=0.5", "methods.NSE.round=5", "round=20", "facts=40")
    assert made.methods["NSE"].hparams == {"p": 0.5}
    assert made.methods["NSE"].round == 5


def test_ablations_change_one_setting_each() -> None:
    made = plan("experiment=ablation")
    changed = {name: choice.hparams for name, choice in made.methods.items()}
    assert changed["NSE"] == {}
    assert changed["NSE-no-rewinding"] == {"rewind": False}
    assert changed["NSE-all-neurons"] == {"p": 1.0}
    assert changed["NSE-one-pass"] == {"max_iterations": 1}
    assert changed["sequential-MEMIT"] == {"rewind": False, "p": 1.0, "max_iterations": 1, "accumulate": False}
    assert {choice.preset for name, choice in made.methods.items() if name != "NSE"} == {"NSE-paper"}
    assert (made.facts, made.round) == (500, 50)


def test_whole_answers_are_asked_of_a_thousand_facts() -> None:
    made = plan("experiment=generation", "data.source=facts.json", "methods.NSE.preset=mine.yaml")
    assert list(made.methods) == ["NSE", "sequential-MEMIT"]
    assert {choice.preset for choice in made.methods.values()} == {"mine.yaml"}
    assert set(made.metrics) == {"answers", "accuracy", "perplexity"}
    assert (made.facts, made.round, made.data.source) == (1000, 100, "facts.json")


def test_round_sizes() -> None:
    made = plan("experiment=round_size")
    assert sorted({choice.round for choice in made.methods.values()}) == [1, 10, 100]
    assert made.checkpoints == (100,)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["facts=0"], r"facts = 0 .*above 0"),
        (["round=x"], r"round = 'x' .*integer above 0"),
        (["jobs=0"], r"jobs = 0"),
        (["seed=-1"], r"seed = -1"),
        (["methods=[]"], r"methods is empty"),
        (["checkpoints=[200]"], r"checkpoints = \[200\] .*200 is more than facts = 100"),
        (["checkpoints=[15]"], r"checkpoints = \[15\] .*10 facts at a time.*15"),
        (["checkpoints=[50]", "methods=[NSE]", "methods.NSE.round=20"], r"NSE writes 20 facts"),
        (["+fact=3"], r"'fact' is not known; did you mean 'facts'"),
        (["+model.dtyp=float16"], r"model: 'dtyp' is not known; did you mean 'dtype'"),
        (["model.dtype=int8"], r"model.dtype = 'int8' .*bfloat16"),
        (["+metrics.fluensy={}"], r"metrics: 'fluensy' is not known; did you mean 'fluency'"),
        (["+methods.before={alg_name: NSE, preset: NSE}"], r"methods.before"),
        (["+methods.X={alg_name: NSE}"], r"methods.X: .*preset"),
    ],
)
def test_bad_settings_are_named(overrides: list[str], words: str) -> None:
    with pytest.raises(PlanError, match=words):
        plan(*overrides)


@pytest.mark.parametrize("word", ["facts=all", "facts=null"])
def test_all_facts_may_be_asked_for(word: str, tmp_path: Path) -> None:
    records = [{"prompt": "{} is in", "subject": f"Rome {number}", "target_new": "Peru"} for number in range(7)]
    (tmp_path / "facts.json").write_text(json.dumps(records))
    assert plan(word, f"data.source={tmp_path}/facts.json").facts == 7
    assert plan(word, f"data.source={tmp_path}/facts.json", "data.skip=3").facts == 4
    sweep = composed("sweep", [word, f"data.source={tmp_path}/facts.json"])
    assert CellPlan.from_config(sweep).facts == 7


def test_a_plan_survives_json() -> None:
    made = plan("checkpoints=[50]", "methods=[NSE,ROME]")
    assert Plan.from_config(json.loads(json.dumps(made.as_config()))) == made


def test_what_decides() -> None:
    one, other = plan("methods=[NSE,ROME]"), plan("methods=[NSE,MEMIT]", "jobs=2", "out=elsewhere")
    assert one.what_decides("NSE") == other.what_decides("NSE")
    assert one.what_decides(BEFORE) == other.what_decides(BEFORE)
    assert one.what_decides("NSE") != plan("methods=[NSE]", "methods.NSE.round=5").what_decides("NSE")
    assert one.what_decides("NSE") != plan("seed=1").what_decides("NSE")


def test_the_names_of_metrics_are_those_that_are_measured() -> None:
    assert set(METRICS) == {*FAMILIES, "easyedit", "ability", "drift"}


def test_ablations_start_from_the_file_that_nse_starts_from() -> None:
    made = plan("experiment=ablation", "methods.NSE.preset=mine.yaml")
    assert {choice.preset for choice in made.methods.values()} == {"mine.yaml"}
    assert {choice.preset for choice in plan("methods=[NSE-one-pass]").methods.values()} == {"NSE-paper"}


def test_a_chat_is_written_and_asked() -> None:
    made = plan("experiment=chat", "methods.NSE.preset=mine.yaml")
    assert [choice.hparams for choice in made.methods.values()] == [{}, {"chat": True}, {"chat": "both"}]
    assert {choice.preset for choice in made.methods.values()} == {"mine.yaml"}
    assert set(made.metrics) == {"probability", "accuracy", "chat"}
