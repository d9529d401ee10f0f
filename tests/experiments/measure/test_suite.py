"""Metrics that cannot be measured are refused before a model is loaded, and no folder is left behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny import CHAT, tiny_model, tiny_tokenizer

from nse_plugin.cli import main
from nse_plugin.evaluation.suite import FAMILIES
from nse_plugin.experiments.measure.suite import MetricSuite
from nse_plugin.experiments.plan import ModelChoice, PlanError
from nse_plugin.experiments.run import cell, worker
from nse_plugin.facts import Fact

LONG = "the old river " * 40
RECORD = {
    "prompt": "{} is a town of", "subject": "Rome", "target_new": "Japan", "target_true": "Italy",
    "rephrase_prompts": ["We know Rome is of"], "locality_prompts": [["Berlin is of", "Germany"]],
}  # fmt: skip


@pytest.fixture
def folder(tmp_path) -> Path:
    tiny_model("gpt2", torch.float32).save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path


@pytest.fixture
def nothing_is_loaded(monkeypatch):
    def refuse(*_):
        raise AssertionError("a model was loaded")

    for module in (cell, worker):
        monkeypatch.setattr(module, "load", refuse)
    monkeypatch.setattr("subprocess.Popen", refuse)


def asked(command: str, folder: Path, record: dict, *more: str) -> list[str]:
    (folder / "facts.json").write_text(json.dumps([record]))
    own = ["+methods.NSE.hparams={layers:[1,2],alpha:0.5}", "methods=[NSE]"] if command == "compare" else []
    own = own or ["nse.layers=[1,2]", "nse.alpha=0.5,1", "hydra/launcher=basic"]
    data = [f"model={folder / 'model'}", f"data.source={folder / 'facts.json'}", "facts=1", "metrics=[probability]"]
    return [command, *own, *data, f"out={folder / 'results' / 'out'}", *more]


def refused(arguments: list[str], capsys) -> str:
    """What is said, in one line."""
    assert main(arguments) == 1
    [said] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("nse: ")]
    return said


@pytest.mark.parametrize("command", ["compare", "sweep"])
@pytest.mark.parametrize(
    ("change", "more", "words"),
    [
        ({"rephrase_prompts": [LONG]}, [], "with the target 'Japan' is"),
        ({"locality_prompts": [[LONG, "Germany"]]}, [], "with the target 'Germany' is"),
        ({"prompt": LONG + "{} is"}, [], "and the model has 64 positions: shorten it"),
        ({"target_true": "the old town " * 40}, [], "and the model has 64 positions: shorten it"),
        ({"portability_prompts": [[LONG, "Rome"]]}, ["metrics=[probability,probes]"], "cannot read the prompt"),
        ({"generation_prompts": [LONG]}, ["metrics=[probability,fluency]"], "cannot read the prompt"),
        ({"rephrase_prompts": [LONG[:140]]}, ["metrics=[probability,generation]"], "with room for 30 more is"),
        ({"rephrase_prompts": [LONG[:140]]}, ["metrics=[probability,answers]"], "with room for 32 more is"),
        ({"target_true": None}, [], "target_true is None: scoring needs it, please give it."),
    ],
)
def test_facts_that_cannot_be_measured(folder, nothing_is_loaded, capsys, command, change, more, words):
    record = {name: value for name, value in {**RECORD, **change}.items() if value is not None}
    assert words in refused(asked(command, folder, record, *more), capsys)
    assert not (folder / "results").exists()


@pytest.mark.parametrize(
    ("command", "setting", "words"),
    [
        ("compare", "metrics=[chat]", "metrics has chat, and the tokenizer has no chat template: leave chat out of"),
        ("sweep", "metrics=[probability,chat]", "metrics has chat, and the tokenizer has no chat template: leave"),
        ("compare", "metrics=[chat] metrics.chat.template=loud", "metrics.chat.template is 'loud', and the tokenizer"),
        ("compare", "metrics=[generation] metrics.generation.chat=true", "metrics.generation.chat is true, and the"),
        ("compare", "+metrics.probability.chat=loud", "metrics.probability.chat is 'loud', and the tokenizer has no"),
        ("compare", "+methods.NSE.hparams.chat=true", "methods.NSE.hparams.chat is True, and the tokenizer has no"),
        ("sweep", "nse.chat=both", "nse.chat is 'both', and the tokenizer has no chat template: set it to False"),
    ],
)  # fmt: skip
def test_a_chat_without_a_template(folder, nothing_is_loaded, capsys, command, setting, words):
    assert words in refused(asked(command, folder, RECORD, *setting.split()), capsys)
    assert not (folder / "results").exists()


def test_prompts_are_counted_as_they_are_asked_in_a_chat(folder):
    tiny_tokenizer(chat=CHAT).save_pretrained(folder / "model")
    model, fact = (
        ModelChoice("m", str(folder / "model")),
        Fact("Because of rain, the old river of {} is", "Rome", "a town"),
    )
    for metrics in ({"chat": {}}, {"generation": {"chat": True}}):
        with pytest.raises(PlanError, match="m cannot read the prompt '<user>.* with room for 30 more"):
            MetricSuite(metrics, 0, model).check_lengths([fact])
    MetricSuite({"generation": {}}, 0, model).check_lengths([fact])


@pytest.mark.parametrize("change", [{"rephrase_prompts": [LONG]}, {"locality_prompts": [[LONG, "Germany"]]}])
def test_what_easyedits_evaluator_reads_is_counted(folder, nothing_is_loaded, capsys, change):
    said = refused(asked("compare", folder, {**RECORD, **change}, "metrics=[easyedit]"), capsys)
    assert "and the model has 64 positions: shorten it" in said


def test_a_comparison_says_what_to_measure_without_true_targets(folder, nothing_is_loaded, capsys):
    record = {name: value for name, value in RECORD.items() if name != "target_true"}
    said = refused(asked("compare", folder, record, "metrics=[probability,accuracy]"), capsys)
    assert said.endswith("Or leave probability out of metrics.")


def test_prompts_for_drift_are_counted_too(folder):
    (folder / "known.json").write_text(json.dumps(["Lima is in", LONG]))
    metrics = {"drift": {"prompts": str(folder / "known.json")}}
    suite = MetricSuite(metrics, 0, ModelChoice("m", str(folder / "model")))
    with pytest.raises(PlanError, match="m cannot read the prompt 'the old river .* 64 positions"):
        suite.check_lengths([])


def test_short_prompts_take_no_tokenizer(folder, monkeypatch):
    def refuse(*_):
        raise AssertionError("a tokenizer was loaded")

    monkeypatch.setattr("nse_plugin.experiments.measure.suite.model_tokenizer", refuse)
    families = [family for family in FAMILIES if family not in ("generation", "answers", "chat")]
    suite = MetricSuite({family: {} for family in families}, 0, ModelChoice("m", str(folder / "model")))
    suite.check_lengths([Fact("{} is", "Rome", "a town", "a river", ("Is Rome",), (("Lyon is", "old"),))])


@pytest.mark.parametrize("command", ["compare", "sweep"])
def test_a_model_without_a_tokenizer(command, folder, nothing_is_loaded, capsys):
    for path in (folder / "model").glob("tokenizer*"):
        path.unlink()
    said = refused(asked(command, folder, RECORD), capsys)
    assert said.endswith("model holds no tokenizer: write one there with `tokenizer.save_pretrained`.")


@pytest.mark.parametrize("command", ["compare", "sweep"])
@pytest.mark.parametrize("where", ["facts.json/out", "/proc/nowhere/out", "facts.json"])
def test_an_out_that_cannot_be_written_is_told_at_the_start(folder, nothing_is_loaded, capsys, command, where):
    out, file = folder / where, folder / "facts.json"
    said = refused(asked(command, folder, RECORD, f"out={out}"), capsys)
    if file in (out, *out.parents):
        assert said.endswith(f"out = '{out}' cannot be used: {file} is a file; name a folder.")
    else:
        assert f"out = '{out}' cannot be written to (" in said
