"""`nse compare ... save_models=true`: the edits of each method are kept."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from commands import started
from method_files import SETTINGS

from nse_plugin import EditPatch, EditSession
from nse_plugin.cli import main
from nse_plugin.experiments.plan import PlanError
from nse_plugin.experiments.run.comparison import compare
from nse_plugin.models.loading import load
from nse_plugin.session import read_rounds

if importlib.util.find_spec("easyeditor") is None and not os.environ.get("EASYEDIT_HOME"):
    pytest.skip("needs EasyEdit: the wheel, or a clone named by EASYEDIT_HOME", allow_module_level=True)
NSE = "{layers: [1, 2], alpha: 0.5, v_num_grad_steps: 4, mom2_n_samples: 8}"
GRACE = {"alg_name": "GRACE", "inner_params": ["model.layers[2].mlp.down_proj.weight"], "n_iter": 3}
METHODS = ("NSE", "FT-L", "GRACE")


@pytest.fixture(scope="module")
def settings(tiny_experiment, tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("presets")
    names = ("layer_module_tmp", "attn_module_tmp", "ln_f_module", "lm_head_module")
    modules = dict(zip(names, ("model.layers.{}", "model.layers.{}.self_attn", "model.norm", "lm_head"), strict=True))
    modules |= {"rewrite_module_tmp": "model.layers.{}.mlp.down_proj", "mlp_module_tmp": "model.layers.{}.mlp"}
    common = {"alg_name": "FT", "model_name": "llama", "device": 0, "model_parallel": False}
    ft = {**common, **modules, **SETTINGS["FT"], "max_length": 40}
    for name, preset in {"FT-L": ft, "GRACE": GRACE}.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(preset))
    return [
        *tiny_experiment, "methods=[NSE,FT-L,GRACE]", f"+methods.NSE.hparams={NSE}", "metrics=[probability]",
        *(f"methods.{name}.preset={folder / f'{name}.yaml'}" for name in ("FT-L", "GRACE")),
    ]  # fmt: skip


def source_of(settings: list[str]) -> str:
    return next(word.partition("=")[2] for word in settings if word.startswith("model.source="))


@pytest.fixture(scope="module")
def kept(settings, tmp_path_factory, forked_programs_with_easyedit) -> Path:
    folder = tmp_path_factory.mktemp("kept")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NSE_HOME", str(folder / "home"))
        patch.setattr(sys, "executable", str(forked_programs_with_easyedit / "python"))
        compare(f"out={folder / 'run'}", *settings, "save_models=true")
    return folder / "run"


def test_nse_s_edits_are_a_session(kept, settings, capsys):
    session = str(kept / "methods" / "NSE" / "session")
    model, tokenizer = load(source_of(settings))
    with EditSession.open(session, model, tokenizer) as found:
        assert [len(one.facts) for one in found.rounds] == [2, 2, 2]
        assert found.check()["holds"].dtype == bool
        residuals = [residual for one in found.rounds for residual in one.report.frame["residual"]]
    facts = pd.read_csv(kept / "facts.csv").query("method == 'NSE'")
    assert facts["case_id"].tolist() == [fact.case_id for one in read_rounds(session) for fact in one.facts]
    assert facts["residual"].tolist() == pytest.approx(residuals, rel=1e-4)
    assert main(["log", "--session", session, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 3
    assert main(["check", "--model", source_of(settings), "--session", session, "--json"]) in (0, 3)
    assert len(json.loads(capsys.readouterr().out)) == 6


def test_changed_weights_are_a_patch(kept, settings, tmp_path, capsys):
    patch = EditPatch.load(kept / "methods" / "FT-L" / "edits.patch")
    assert list(patch.columns) == [2]
    assert len(patch.facts) == 6
    file, source, out = str(kept / "methods" / "FT-L" / "edits.patch"), source_of(settings), str(tmp_path / "edited")
    assert main(["patch", "apply", file, "--model", source, "--out", out]) == 0
    before, after = (load(folder)[0].model.layers[2].mlp.down_proj.weight for folder in (source, out))
    assert not torch.equal(before, after)
    assert main(["patch", "show", file]) == 0
    assert "FT" in capsys.readouterr().out


def test_of_what_wraps_layers_it_is_said_that_nothing_is_kept(kept):
    said = json.loads((kept / "run.json").read_text())["methods"]
    assert {name: said[name]["kept"] for name in ("NSE", "FT-L")} == {"NSE": "session", "FT-L": "edits.patch"}
    assert said["GRACE"]["kept"].startswith("its edits are more than changed weights, and a patch")
    assert not (kept / "methods" / "GRACE" / "edits.patch").exists()


def of_nse(settings: list[str], kept: Path, out: Path) -> list[str]:
    """The settings for NSE alone, in a folder where the unedited model was measured already."""
    shutil.copytree(kept / "methods" / "before", out / "methods" / "before")
    return [word.replace("[NSE,FT-L,GRACE]", "[NSE]") for word in settings if not word.startswith("methods.")]


def test_results_are_as_without(kept, settings, tmp_path, monkeypatch, forked_workers):
    """And where nothing was asked for, nothing is kept; which is said when it is asked for later."""
    monkeypatch.setenv("NSE_HOME", str(kept.parent / "home"))
    settings = [f"out={tmp_path}", *of_nse(settings, kept, tmp_path)]
    compare(*settings)
    found, expected = (pd.read_csv(folder / "facts.csv").query("method == 'NSE'") for folder in (tmp_path, kept))
    pd.testing.assert_frame_equal(found.reset_index(drop=True), expected.reset_index(drop=True))
    assert not (tmp_path / "methods" / "NSE" / "session").exists()
    with pytest.raises(PlanError, match="is of a run that is done and kept no edits; choose another `out`"):
        compare(*settings, "save_models=true")


@pytest.mark.parametrize("from_the_beginning", [True, False])
def test_a_session_comes_through_a_kill(kept, settings, tmp_path, forked_workers, from_the_beginning):
    """Also where the first part of the run kept nothing: it is made again."""
    home, first = kept.parent / "home", "true" if from_the_beginning else "false"
    settings = [f"out={tmp_path}", *of_nse(settings, kept, tmp_path)]
    shutil.rmtree(tmp_path / "methods" / "before")  # of another list of checkpoints
    settings.append("checkpoints=[2,4]")
    process = started(["compare", *settings, f"save_models={first}"], home, start_new_session=True)
    give_up = time.monotonic() + 200
    while not (tmp_path / "methods/NSE/checkpoint-000002").is_dir() and time.monotonic() < give_up:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=100)
    assert not (tmp_path / "methods/NSE/ended.json").exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NSE_HOME", str(home))
        compare(*settings, "save_models=true")
    sessions = [folder / "methods" / "NSE" / "session" for folder in (kept, tmp_path)]
    assert [one.after for one in read_rounds(sessions[0])] == [one.after for one in read_rounds(sessions[1])]
    model, tokenizer = load(source_of(settings))
    EditSession.open(sessions[1], model, tokenizer).close()


def test_a_value_that_is_no_answer_is_refused(settings, tmp_path):
    with pytest.raises(PlanError, match="save_models = 'maybe' cannot be used: give true or false"):
        compare(f"out={tmp_path / 'run'}", *settings, "save_models=maybe")
