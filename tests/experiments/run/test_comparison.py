"""`nse compare` on a tiny saved model, with real worker processes."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from commands import started

from nse_plugin.cli import main
from nse_plugin.evaluation.suite import FAMILIES
from nse_plugin.experiments.plan import PlanError
from nse_plugin.experiments.run.comparison import compare

if importlib.util.find_spec("easyeditor") is None and not os.environ.get("EASYEDIT_HOME"):
    pytest.skip("needs EasyEdit: the wheel, or a clone named by EASYEDIT_HOME", allow_module_level=True)
TIMINGS = ("seconds", "seconds_values", "seconds_update", "seconds_moments", "peak_memory_mib")
NSE = "{layers: [1, 2], alpha: 0.5, v_num_grad_steps: 4, mom2_n_samples: 8}"


@pytest.fixture(scope="module")
def settings(tiny_experiment, tmp_path_factory) -> list[str]:
    """What all comparisons here have in common: `experiment=long` made short, with all that can be measured."""
    folder = tmp_path_factory.mktemp("quiz")
    quiz, facts = folder / "quiz.json", folder / "facts.json"
    records = json.loads(Path(value_of("data.source", tiny_experiment)).read_text())
    for place in (2, 5):  # two more about the first one's subject, of which the last replaces it
        records[place] |= {"subject": "France", "rephrase_prompts": []}
    facts.write_text(json.dumps(records))
    entry = {"question": "Where is Lima?", "subject": "towns", "choices": ["Peru", "Rome", "a", "b"], "answer": 0}
    quiz.write_text(json.dumps([entry, {**entry, "subject": "places", "answer": 2}]))
    return [
        "experiment=long", *tiny_experiment, f"data.source={facts}", "checkpoints=[2,4]", "store=null",
        "methods=[NSE,NSE-one-pass]",
        f"+methods.NSE.hparams={NSE}", f"+methods.NSE-one-pass.hparams={NSE[:-1]}, chat: both}}",
        f"metrics=[{','.join((*FAMILIES, 'ability', 'drift'))}]", f"metrics.ability.questions=[{quiz}]",
        "metrics.fluency.facts=2", "metrics.perplexity.tokens=200", "metrics.drift.tokens=100",
    ]  # fmt: skip


def run(out: Path, settings: list[str], home: Path) -> subprocess.Popen:
    return started(["compare", f"out={out}", *settings], home, start_new_session=True)


def ended(out: Path, settings: list[str], home: Path) -> tuple[int, str]:
    """The exit code and what was printed; of the command in this process, whose workers are processes all the same."""
    with pytest.MonkeyPatch.context() as patch, io.StringIO() as said:
        patch.setenv("NSE_HOME", str(home))
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = main(["compare", f"out={out}", *settings])
        return code, said.getvalue()


def finished(out: Path, settings: list[str], home: Path) -> str:
    code, said = ended(out, settings, home)
    logs = "\n".join(path.read_text()[-2000:] for path in out.glob("methods/*/log.txt"))
    assert code == 0, said + logs
    return said


def results(out: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The summary and the facts, without what a clock or the memory says."""
    summary = pd.read_csv(out / "summary.csv")
    return summary[~summary["metric"].isin(TIMINGS)].reset_index(drop=True), pd.read_csv(out / "facts.csv")


def value_of(name: str, settings: list[str]) -> str:
    return next(word.partition("=")[2] for word in settings if word.startswith(f"{name}="))


def folder_of(settings: list[str]) -> str:
    """The model's."""
    return value_of("model.source", settings)


@pytest.fixture(scope="module")
def uninterrupted(settings, tmp_path_factory, forked_programs_with_easyedit) -> Path:
    """The folder of a whole run, whose workers need not import anything."""
    out = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", str(forked_programs_with_easyedit / "python"))
        finished(out, settings, out.parent / "home")
    return out


def test_tables_hold_every_method_checkpoint_and_fact(uninterrupted):
    summary, facts = results(uninterrupted)
    rows = {(method, edits) for method, edits in zip(summary["method"], summary["edits"], strict=True)}
    methods = ("NSE", "NSE-one-pass")
    assert rows == {("before", 0), *((method, edits) for method in methods for edits in (2, 4, 6))}
    final = summary[summary["edits"] == 6].pivot(index="method", columns="metric", values="value")
    assert {"efficacy", "score", "locality_agreement", "rewrite_accuracy", "fluency", "perplexity"} <= set(final)
    assert {"generation_contains", "ability_quiz", "ability_quiz_kept", "next_token_kl", "hidden_cosine"} <= set(final)
    assert set(FAMILIES["chat"]) <= set(final)
    assert summary.loc[summary["metric"].isin(FAMILIES["chat"]), ["low", "high"]].notna().all(axis=None)
    unedited = summary[summary["method"] == "before"].set_index("metric")["value"]
    assert (unedited["ability_quiz_kept"], unedited["next_token_kl"], unedited["weight_change"]) == (1.0, 0.0, 0.0)
    assert final.loc["NSE", "next_token_kl"] > 0
    by_fact = facts[(facts["method"] == "NSE") & (facts["edits"] == 6)]
    assert by_fact["round"].tolist() == [1, 1, 2, 2, 3, 3]
    assert by_fact["age"].tolist() == [2, 2, 1, 1, 0, 0]
    assert by_fact["efficacy"].mean() == pytest.approx(final.loc["NSE", "efficacy"])
    assert unedited["locality_agreement"] == 1.0
    weights = pd.read_csv(uninterrupted / "weights.csv")
    assert set(weights["layer"]) == {1, 2}
    assert set(zip(weights["method"], weights["edits"], strict=True)) == rows - {("before", 0)}
    states = pd.read_csv(uninterrupted / "states.csv")
    assert set(zip(states["method"], states["edits"], strict=True)) == rows


def test_a_replaced_fact_counts_no_more_and_its_subject_is_looked_at(uninterrupted):
    summary, facts = results(uninterrupted)
    subjects = list(FAMILIES["subjects"])
    for method in ("NSE", "NSE-one-pass"):
        own = facts[facts["method"] == method]
        assert own[own["replaced"]][["edits", "case_id"]].to_numpy().tolist() == [[6, 0]]
        assert own.loc[own["replaced"], FAMILIES["probability"] + FAMILIES["accuracy"]].isna().all(axis=None)
        of_subjects = own.set_index(["edits", "case_id"])[subjects].stack().dropna()
        assert list(of_subjects.index) == [
            (4, 0, "retention_same_subject"), (6, 2, "retention_same_subject"), (6, 5, "correction_ahead"),
        ]  # fmt: skip
        means = summary[(summary["method"] == method) & summary["metric"].isin(subjects)]
        assert means["edits"].tolist() == [4, 6, 6]
    assert not facts.loc[facts["method"] == "before", "replaced"].any()


def test_the_run_is_on_record(uninterrupted):
    written = json.loads((uninterrupted / "run.json").read_text())
    assert {name: method["status"] for name, method in written["methods"].items()} == dict.fromkeys(
        ["NSE", "NSE-one-pass"], "done"
    )
    assert written["data"]["facts"] == 6
    assert written["config"]["round"] == 2
    assert {"edit", "values", "update", "measure"} <= set(written["methods"]["NSE"]["seconds"])
    report = (uninterrupted / "report.html").read_text()
    assert "NSE-one-pass" in report
    assert "Does the edited model still think?" in report
    assert "Asked in a chat" in report
    assert written["methods"]["NSE-one-pass"]["hparams"]["chat"] == "both"
    assert written["command"].startswith(f"nse compare out={uninterrupted} experiment=long model.source=")


def test_stopped_and_run_again_it_is_the_same(uninterrupted, settings, tmp_path, forked_workers):
    """Stopped three times on its way: interrupted, killed with its workers, and killed alone."""
    out, home = tmp_path / "run", tmp_path / "home"
    settings = [word.replace("NSE,NSE-one-pass", "NSE") for word in settings if "NSE-one-pass.hparams" not in word]
    shutil.copytree(uninterrupted / "methods" / "before", out / "methods" / "before")  # of these, measured already
    kept: dict[Path, int] = {}
    for edits, number, stop in (
        (2, signal.SIGINT, os.kill),
        (4, signal.SIGKILL, os.killpg),
        (6, signal.SIGKILL, os.kill),
    ):
        process = run(out, settings, home)
        checkpoint = out / "methods" / "NSE" / f"checkpoint-{edits:06}"
        give_up = time.monotonic() + 500
        while not checkpoint.is_dir() and time.monotonic() < give_up:
            time.sleep(0.02)
        stop(process.pid, number)
        said, _ = process.communicate(timeout=300)
        if number == signal.SIGINT:
            assert process.returncode == 130
            assert "nse: stopped; the same command goes on from there." in said
        found = {path: path.stat().st_mtime_ns for path in out.glob("methods/*/checkpoint-*/facts.csv")}
        assert checkpoint / "facts.csv" in found
        assert kept.items() <= found.items()  # not measured again
        kept = found
    assert not (out / "report.html").exists()
    finished(out, settings, home)
    assert all(path.stat().st_mtime_ns == written for path, written in kept.items())
    for found, expected in zip(results(out), results(uninterrupted), strict=True):
        of_both = expected["method"].isin(["before", "NSE"])
        pd.testing.assert_frame_equal(found, expected[of_both].reset_index(drop=True))


@pytest.fixture(scope="module")
def with_a_failure(settings, tmp_path_factory, forked_programs_with_easyedit) -> tuple[Path, str]:
    """The folder and what was printed: facts without a true target, on a model by its folder alone, two methods at a
    time, of which one fails."""
    folder = tmp_path_factory.mktemp("failure")
    facts = folder / "new.json"
    records = [{"prompt": "{} is in", "subject": name, "target_new": "Rome"} for name in ("France", "Lyon")]
    facts.write_text(json.dumps(records))
    own = [word for word in settings if not word.startswith(("data.source", "facts", "checkpoints", "metrics"))]
    own += [f"data.source={facts}", "facts=2", "checkpoints=[]", "metrics=[accuracy]", "jobs=2"]
    own.append('+methods.NSE-one-pass.hparams.rewrite_module_tmp="nowhere.{}"')
    own[own.index(f"model.source={folder_of(settings)}")] = f"model={folder_of(settings)}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", str(forked_programs_with_easyedit / "python"))
        return folder / "run", finished(folder / "run", own, folder / "home")


def test_facts_without_a_true_target_can_be_compared(with_a_failure, settings):
    run = json.loads((with_a_failure[0] / "run.json").read_text())
    assert run["methods"]["NSE"]["status"] == "done"
    assert run["model"]["name"] == "model"  # the folder's name
    hparams = run["methods"]["NSE"]["hparams"]
    assert (hparams["p"], hparams["mom2_update_weight"]) == (1.0, 15000.0)  # nothing of SmolLM2's
    assert (hparams["model_name"], hparams["device"]) == (folder_of(settings), "cpu")


def test_what_was_measured_of_another_model_is_not_gone_on_with(uninterrupted, settings):
    for name in ("model.safetensors", "tokenizer_config.json"):
        path = Path(folder_of(settings)) / name
        whole = path.read_bytes()
        path.write_bytes(whole + b" ")
        try:
            with pytest.raises(PlanError, match=rf"content of model\.source, {name} was .*choose another `out`"):
                compare(f"out={uninterrupted}", *settings)
        finally:
            path.write_bytes(whole)


def test_a_second_run_does_nothing_again(uninterrupted, settings):
    kept = {path: path.stat().st_mtime_ns for path in uninterrupted.glob("methods/*/*/facts.csv")}
    said = finished(uninterrupted, settings, uninterrupted.parent / "home")
    assert "done before" in said
    assert {path: path.stat().st_mtime_ns for path in uninterrupted.glob("methods/*/*/facts.csv")} == kept


def test_one_method_fails_and_the_rest_goes_on(with_a_failure):
    folder, said = with_a_failure
    written = json.loads((folder / "run.json").read_text())["methods"]
    assert written["NSE"]["status"] == "done"
    assert written["NSE-one-pass"]["status"] == "failed"
    assert "nowhere" in written["NSE-one-pass"]["error"]
    assert "failed" in said
    lines = said.splitlines()  # there is no terminal
    for line in (
        "before: loading the model",
        "NSE: editing, 0 of 2 facts",
        "NSE-one-pass: failed",
        "NSE: done, 2 of 2 facts",
    ):
        assert line in lines
    logs = "".join(path.read_text() for path in folder.glob("methods/*/log.txt"))
    assert "Loading weights" not in said + logs


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("facts=7", "7"), ("data.source=/nowhere.json", "/nowhere.json"), ("methods=[NSE,NOPE]", "NOPE"),
        ("checkpoints=[3]", "checkpoints = [3]"), ("seed=1", "seed was 0, now 1"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(uninterrupted, settings, change, words):
    code, said = ended(uninterrupted, [*settings, change], uninterrupted.parent / "home")
    assert code == 1
    assert words in said
    assert "Traceback" not in said
