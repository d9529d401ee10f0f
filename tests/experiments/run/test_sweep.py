"""`nse sweep` on a tiny saved model: z is computed once, launchers agree, and the best is chosen fairly."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import pandas as pd
import pytest
from sweep_cells import plan_of

from nse_plugin.cli import main
from nse_plugin.experiments.plan import PlanError
from nse_plugin.experiments.run.cell import run_cell
from nse_plugin.experiments.run.sweep import sweep
from nse_plugin.hparams import NSEHyperParams
from nse_plugin.method.update import UpdateError
from nse_plugin.session import round as round_module
from nse_plugin.session import value_source

GRID = ["nse.p=0.4,1.0", "nse.alpha=0.05,1"]
BASIC = "hydra/launcher=basic"


def test_a_grid_computes_each_value_once(settings, tmp_path, capsys, monkeypatch):
    computed = []
    real = value_source.optimize_values
    monkeypatch.setattr(value_source, "optimize_values", lambda *a: computed.append(len(a[1])) or real(*a))
    sweep([*settings, *GRID, BASIC, f"out={tmp_path / 'out'}"])
    assert computed == [6]
    said = capsys.readouterr().out
    assert "4 cells: 6 values z computed, 18 read from the store" in said
    assert "alpha=0.05,layers=[1,2],mom2_n_samples=8,p=0.4,v_num_grad_steps=4: efficacy " in said
    frame = pd.read_csv(tmp_path / "out" / "sweep.csv")
    assert frame.columns.tolist() == ["alpha", "p", "metric", "value", "low", "high"]
    assert frame[frame["metric"] == "score"][["alpha", "p"]].to_numpy().tolist() == [
        [0.05, 0.4], [0.05, 1.0], [1.0, 0.4], [1.0, 1.0],
    ]  # fmt: skip
    assert {"efficacy", "generalization", "specificity", "score"} <= set(frame["metric"])
    within = frame.dropna()
    assert ((within["low"] <= within["value"] + 1e-6) & (within["value"] <= within["high"] + 1e-6)).all()
    assert (tmp_path / "out" / "sweep.png").stat().st_size > 10_000

    assert not logging.getLogger("nse_plugin.session").disabled  # hydra would silence everybody

    chosen = NSEHyperParams.from_hparams(tmp_path / "out" / "best.yaml")
    assert chosen.alpha in (0.05, 1.0)
    assert chosen.p in (0.4, 1.0)
    assert (chosen.layers, chosen.v_num_grad_steps, chosen.store) == ([1, 2], 4, None)
    assert (Path(chosen.model_name).is_dir(), chosen.device) == (True, "cpu")  # what EasyEdit loads by
    assert (tmp_path / "out" / "best.yaml").read_text().startswith("# Best of 4 cells on 6 facts: alpha = ")

    modified = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "cells").rglob("facts.csv")}
    sweep([*settings, "nse.p=0.4,0.7,1.0", "nse.alpha=0.05,1", BASIC, f"out={tmp_path / 'out'}"])
    assert len(modified) == 4
    assert all(path.stat().st_mtime_ns == written for path, written in modified.items())  # only the new ones were run
    assert len(pd.read_csv(tmp_path / "out" / "sweep.csv")["p"].unique()) == 3
    assert computed == [6]


def test_without_a_store_every_cell_computes_its_own(settings, tmp_path):
    sweep([*settings, *GRID, BASIC, f"out={tmp_path / 'with'}"])
    sweep([*settings[:-1], "store=null", *GRID, BASIC, f"out={tmp_path / 'without'}"])
    costs = json.loads((tmp_path / "without" / "sweep.json").read_text())
    assert (costs["values_computed"], costs["values_read"]) == (24, 0)
    assert (tmp_path / "with" / "sweep.csv").read_text() == (tmp_path / "without" / "sweep.csv").read_text()


def test_joblib_gives_the_same_table(settings, tmp_path, capfd):
    settings = [word for word in settings if not word.startswith("store=")]
    theirs = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", f"store={tmp_path / 'theirs'}"]
    sweep([*settings, *GRID, *theirs, f"out={tmp_path / 'joblib'}"])
    assert "4 cells: 6 values z computed, 18 read from the store" in capfd.readouterr().out
    sweep([*settings, *GRID, BASIC, f"store={tmp_path / 'ours'}", f"out={tmp_path / 'basic'}"])
    assert (tmp_path / "joblib" / "sweep.csv").read_text() == (tmp_path / "basic" / "sweep.csv").read_text()


def test_a_sweeper_that_learns(settings, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    sweep(
        [
            *settings, BASIC, "hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=1",
            "hydra.sweeper.direction=[maximize,maximize]", "objective=[generalization,specificity]",
            "nse.p=interval(0.3,1.0)", "nse.alpha=0.05", f"out={tmp_path / 'out'}",
        ]
    )  # fmt: skip
    frame = pd.read_csv(tmp_path / "out" / "sweep.csv")
    assert 1 <= len(frame["p"].unique()) <= 3
    assert frame["p"].between(0.3, 1.0).all()
    assert (tmp_path / "out" / "front.png").stat().st_size > 5_000


def test_a_cell_that_cannot_be_run_is_told_and_the_others_are_run(settings, tmp_path, capsys, monkeypatch):
    real = round_module.edit_layers

    def failing(*arguments):
        if arguments[5].p < 0.9:  # the hyperparameters
            raise UpdateError("layer 1 cannot be solved for")
        return real(*arguments)

    monkeypatch.setattr(round_module, "edit_layers", failing)
    sweep([*settings, "nse.p=0.5,1.0", "nse.alpha=1", BASIC, f"out={tmp_path / 'out'}"])
    said = capsys.readouterr().out
    assert re.search(r"p=0\.5\S* failed: layer 1 cannot be solved for\n", said)
    assert "1 cell: " in said
    assert "p=0.5" in str(list(json.loads((tmp_path / "out" / "sweep.json").read_text())["failed"]))
    with pytest.raises(PlanError, match="No cell of .* could be run"):
        sweep([*settings, "nse.p=0.5", "nse.alpha=1", BASIC, f"out={tmp_path / 'none'}"])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("nse.p=0.5,1.5", r"p = 1\.5 cannot be used"),
        ("nse.p=interval(0,1.5)", r"p = 1\.5 cannot be used"),
        ("nse.layers=[1,2],[2,9]", r"layers = \[2, 9\] cannot be used: .* has \d layers"),
        ("preset=llama3-8b,llama9-8b", "llama9-8b"),
    ],
)
def test_every_cell_is_checked_before_one_is_run(settings, tmp_path, given, said):
    with pytest.raises(ValueError, match=said):
        sweep([*settings, "nse.alpha=1", given, BASIC, f"out={tmp_path / 'out'}"])
    assert not (tmp_path / "out" / "cells").exists()


def test_a_store_that_is_a_file_is_refused_before_anything_runs(settings, tmp_path, capsys):
    assert main(["sweep", *settings, "nse.alpha=1", f"store={__file__}/x", f"out={tmp_path / 'out'}"]) == 1
    assert f"{__file__} is a file; name a folder." in capsys.readouterr().err
    assert not (tmp_path / "out" / "cells").exists()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("nse.alfa=1,2", "There is no setting 'nse.alfa'; did you mean 'nse.alpha'?"),
        ("data.sorce=x", "There is no setting 'data.sorce'; did you mean 'data.source'?"),
        ("nothing.like=it", "There is no setting 'nothing.like': `nse sweep --help` shows them all."),
        ("objective=[fluency]", "objective: 'fluency' is not known; known are efficacy"),
        ("metrics=[accuracy]", "metrics has no probability"),
        ("round=0", "round = 0 cannot be used: give an integer above 0."),
        ("preset=llama9", "No hyperparameter file 'llama9'"),
        ("data=nope", "data: 'nope' is not known; there are counterfact, demo, same_subject, "),
        ("nse.p=[0.5", "no viable alternative"),
        ("facts=7", "has 6 facts, and 7 are asked for: take 6 or fewer, or facts=all for every one."),
        ("data.source=/nowhere.json", "/nowhere.json"),
    ],
)
def test_mistakes_are_one_sentence_before_anything_runs(settings, tmp_path, capsys, wrong, words):
    assert main(["sweep", *settings, wrong, f"out={tmp_path / 'out'}"]) == 1
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


def test_another_sweep_does_not_mix_with_this_one(settings, tmp_path, capsys):
    out = tmp_path / "out"
    run_cell(plan_of(settings, out, "nse.alpha=1"))
    for change in ("facts=5", "round=3"):
        assert main(["sweep", *settings, BASIC, f"out={out}", "nse.alpha=2,3", change]) == 1
        now = change.split("=")[1]
        assert f"now {now}): choose another `out`" in capsys.readouterr().err


def test_scores_that_no_fact_can_have_are_told_beforehand(settings, tmp_path, capsys):
    facts = tmp_path / "bare.json"
    bare = {"prompt": "{} is in", "subject": "Rome", "target_new": "Japan", "target_true": "Italy"}
    facts.write_text(json.dumps([bare]))
    own = [word for word in settings if not word.startswith(("data.source", "facts"))]
    own += [f"data.source={facts}", "facts=1", "nse.alpha=1", f"out={tmp_path / 'out'}", BASIC]
    assert main(["sweep", *own]) == 1
    assert "none of the facts of" in capsys.readouterr().err
    assert main(["sweep", *own, "objective=[efficacy]"]) == 0


def test_one_setting_in_two_spellings_is_one_cell(settings, tmp_path):
    out = tmp_path / "out"
    assert plan_of(settings, out, "nse.p=1").name == plan_of(settings, out, "nse.p=1.0").name
    sweep([*settings, "nse.p=1,1.0", "nse.alpha=1,2", "nse.max_iterations=3", BASIC, f"out={out}"])
    assert len(pd.read_csv(out / "sweep.csv").query("metric == 'score'")) == 2
