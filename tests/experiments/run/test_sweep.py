"""`nse sweep` on a tiny saved model: z once, the same numbers from every launcher, an honest best."""

from __future__ import annotations

import itertools
import json
import logging
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from rich.console import Console

from nse_plugin.cli import main
from nse_plugin.evaluation.intervals import wilson
from nse_plugin.evaluation.metrics.probability import METRICS, harmonic_mean, score_facts
from nse_plugin.experiments.plan import PlanError
from nse_plugin.experiments.plan.configuration import composed
from nse_plugin.experiments.record import Checkpoint, Record
from nse_plugin.experiments.report import sweep as sweep_report
from nse_plugin.experiments.report.columns import TO
from nse_plugin.experiments.report.sweep import write_sweep
from nse_plugin.experiments.run import cell as cell_module
from nse_plugin.experiments.run.cell import CellPlan, run_cell
from nse_plugin.experiments.run.sweep import sweep
from nse_plugin.facts.files import load_facts
from nse_plugin.hparams import NSEHyperParams
from nse_plugin.method.update import UpdateError
from nse_plugin.models.loading import load
from nse_plugin.session import EditSession, value_source
from nse_plugin.session import round as round_module

GRID = ["nse.p=0.4,1.0", "nse.alpha=0.05,1"]
BASIC = "hydra/launcher=basic"


@pytest.fixture
def settings(tiny_experiment, tmp_path) -> list[str]:
    return [
        *tiny_experiment, "nse.layers=[1,2]", "nse.v_num_grad_steps=4", "nse.mom2_n_samples=8",
        f"store={tmp_path / 'store'}",
    ]  # fmt: skip


def plan_of(settings: list[str], out: Path, *more: str) -> CellPlan:
    return CellPlan.from_config(composed("sweep", [*settings, f"out={out}", *more]))


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


def test_a_cell_is_a_session_on_a_fresh_model(settings, tmp_path):
    """And the next cell meets the weights as they were."""
    for p in (0.4, 1.0):
        plan = plan_of(settings, tmp_path / "out", f"nse.p={p}", "nse.alpha=0.05")
        found = run_cell(plan)
        model, tokenizer = load(plan.model.source, "float32", "cpu")
        before = {name: weight.clone() for name, weight in model.named_parameters()}
        cached = cell_module.loaded(plan.model)[0]
        assert all(torch.equal(weight, before[name]) for name, weight in cached.named_parameters())
        facts = load_facts(plan.data.source, limit=6).facts
        session = EditSession(model, tokenizer, plan.hparams(model))
        reports = [session.edit(facts[start : start + 2]) for start in (0, 2, 4)]
        expected = score_facts(model, tokenizer, facts)
        for metric in METRICS:
            assert found.facts[metric].tolist() == expected[metric].tolist()
        assert np.allclose(found.facts["residual"], pd.concat([one.frame for one in reports])["residual"], rtol=1e-4)


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


# -- the uncertainty ---------------------------------------------------------------------------------------------


MEASURED = ("efficacy", "generalization", "specificity", "score")


def fabricated(out: Path, efficacy: list[float], *, asked: dict | None = None, metrics=MEASURED, **fields) -> None:
    """A finished cell whose facts have this Efficacy, and are right otherwise."""
    hparams = NSEHyperParams(**{"layers": [1], "alpha": 1, **fields})
    record = Record(out / "cells" / ",".join(f"{name}={value}" for name, value in fields.items()))
    if asked is not None:
        record.open_for(asked)
    count = len(efficacy)
    facts = pd.DataFrame(
        {"efficacy": efficacy, "generalization": [1.0] * count, "specificity": [np.nan, *[1.0] * (count - 1)]}
    )
    mean = float(np.mean(efficacy))
    overall = {"efficacy": mean, "generalization": 1.0, "specificity": 1.0, "score": harmonic_mean(mean, 1.0, 1.0)}
    facts, overall = facts[[name for name in facts if name in metrics]], {name: overall[name] for name in metrics}
    costs = {"seconds": dict.fromkeys(("moments", "values", "update", "measure"), 1.0), "values_from_store": 0}
    record.save(Checkpoint(count, facts, pd.DataFrame(columns=["prompt", "text"]), overall, costs), None)
    record.end(status="done", error=None, hparams=hparams.to_dict())


def found_in(out: Path, objective: str = "score") -> tuple[str, NSEHyperParams]:
    """What a sweep says of its cells, and its best.yaml."""
    write_sweep(out, [objective], Console(quiet=True))
    said = json.loads((out / "sweep.json").read_text())["found"]
    assert (out / "best.yaml").read_text().startswith(f"# {said}\n")
    return said, NSEHyperParams.from_hparams(out / "best.yaml")


RIGHT, WRONG = [1.0] * 30, [0.0] * 30


def test_noise_is_told_from_a_difference(tmp_path):
    rng = np.random.default_rng(0)
    good = (rng.random(100) < 0.9).astype(float)
    shuffled = good.copy()
    shuffled[np.flatnonzero(good == 1)[0]] = 0.0  # one fact worse: noise
    bad = np.where(np.arange(100) % 2, good, 0.0)  # half of them worse: none
    for p, efficacy in ((0.4, bad), (0.7, shuffled), (1.0, good)):
        fabricated(tmp_path, efficacy.tolist(), p=p)
    found, _ = found_in(tmp_path)
    assert found.startswith("Best of 3 cells on 100 facts: p = 1.0, score ")
    assert found.endswith("1 of the other 2 are not worse beyond the noise of these facts.")
    frame = pd.read_csv(tmp_path / "sweep.csv")
    efficacy = frame[(frame["metric"] == "efficacy") & (frame["p"] == 1.0)].iloc[0]
    error = 1.96 * good.std() / 10  # of a mean of a hundred
    assert efficacy["value"] - efficacy["low"] == pytest.approx(error, abs=0.02)
    assert efficacy["high"] - efficacy["value"] == pytest.approx(error, abs=0.02)
    sure = frame[(frame["metric"] == "specificity") & (frame["p"] == 1.0)].iloc[0]
    assert (sure["low"], sure["value"], sure["high"]) == (pytest.approx(wilson(1.0, 99).low, abs=1e-5), 1.0, 1.0)


def drawn_of(out: Path, monkeypatch, objective: str = "score") -> Figure:
    """A sweep's sweep.png as the figure it was."""
    figures = {}
    monkeypatch.setattr(sweep_report, "_save", lambda figure, file: figures.update({file.name: figure}))
    found_in(out, objective)
    figures["sweep.png"].draw_without_rendering()
    return figures["sweep.png"]


def names_along(axis) -> list[str]:
    return [label.get_text() for label in axis.get_ticklabels()]


def test_values_stand_in_order_at_equal_distances_under_their_names(tmp_path, monkeypatch):
    windows = [[10, 11, 12, 13], [3, 4, 5], [3, 9], [10, 11]]
    for layers in windows:
        fabricated(tmp_path, RIGHT[:20] + WRONG[:10], layers=layers)
    figure = drawn_of(tmp_path, monkeypatch)
    assert len(figure.axes) == 4
    assert names_along(figure.axes[0].xaxis) == [f"3{TO}5", "3, 9", "10, 11", f"10{TO}13"]
    assert all(name.endswith("%") for name in names_along(figure.axes[0].yaxis))
    for axes in figure.axes:
        low, high = axes.get_ylim()
        ends = [end for lines in axes.collections for line in lines.get_segments() for end in line[:, 1]]
        assert len(ends) == 8
        assert low < min(ends) < max(ends) < high
    assert "orange: best.yaml" in figure.get_suptitle()


def test_cells_of_the_same_value_stand_next_to_each_other(tmp_path, monkeypatch):
    for p, alpha, beta in itertools.product((0.5, 1.0), (1, 20), (15, 15000)):
        fabricated(tmp_path, RIGHT, p=p, alpha=alpha, mom2_update_weight=beta)
    figure = drawn_of(tmp_path, monkeypatch)
    assert len(figure.axes) == 12
    for axes in figure.axes:
        places = [place for line in axes.lines for place in line.get_xdata()]
        assert len(set(places)) == 8
        assert {round(place) for place in places} == {0, 1}


def test_a_grid_of_two_fields_is_a_heat_map_and_cells_all_over_are_not(tmp_path, monkeypatch):
    for p, bound in itertools.product((0.5, 1.0), (None, 4.0)):
        fabricated(tmp_path / "grid", RIGHT, p=p, upper_bound=bound)
    maps = drawn_of(tmp_path / "grid", monkeypatch)
    assert [len(axes.images) for axes in maps.axes] == [1, 1, 1, 1]
    assert sorted(names_along(maps.axes[0].xaxis) + names_along(maps.axes[0].yaxis)) == ["0.5", "1", "4", "null"]
    for place in range(6):
        fabricated(tmp_path / "learnt", RIGHT, p=0.5 + place / 20, alpha=1 + place)
    panels = drawn_of(tmp_path / "learnt", monkeypatch)
    assert [len(axes.images) for axes in panels.axes] == [0] * 8


@pytest.mark.parametrize("alphas", [(1,), (1, 2)])
def test_a_metric_that_was_not_measured_has_no_panel(tmp_path, monkeypatch, alphas):
    for p, alpha in itertools.product((0.5, 1.0), alphas):
        fabricated(tmp_path, RIGHT, metrics=("efficacy",), p=p, alpha=alpha)
    figure = drawn_of(tmp_path, monkeypatch, "efficacy")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["Efficacy"]


def test_numbers_are_in_percent(tmp_path):
    fabricated(tmp_path, RIGHT[:10] + WRONG[:10], p=0.5)
    fabricated(tmp_path, WRONG[:20], p=0.6)
    found, _ = found_in(tmp_path, "efficacy")
    assert "p = 0.5, efficacy 50.0 (95% interval 29.9 to 70.1)." in found


def test_without_a_difference_the_preset_is_kept(tmp_path):
    for p in (0.4, 0.8, 1.0):
        fabricated(tmp_path, RIGHT, p=p, model_name="smollm2-135m")
    found, best = found_in(tmp_path)
    assert "no difference: keep the preset" in found
    assert "best.yaml has p = 0.8: as good within that noise, and it changes the preset least." in found
    assert best.p == 0.8  # of SmolLM2's preset


def test_a_preset_that_is_not_there_is_not_to_be_kept(tmp_path):
    for p, wrong in ((0.5, 0), (1.0, 1)):
        fabricated(tmp_path, WRONG[:wrong] + RIGHT[wrong:], p=p, model_name="unknown")
    found, best = found_in(tmp_path)
    assert "preset" not in found
    assert found.endswith("best.yaml has p = 1.0: as good within that noise, and it changes the defaults least.")
    assert best.p == 1.0


def test_one_is_one_cell(tmp_path):
    fabricated(tmp_path, [1.0, 1.0], p=0.5)
    assert found_in(tmp_path)[0].startswith("Best of 1 cell on 2 facts: ")


def test_within_the_noise_the_presets_own_cell_comes_before_the_best(tmp_path):
    for p, alpha, wrong in ((0.6, 5, 0), (0.8, 5, 1), (0.8, 15, 2), (0.6, 15, 25)):
        fabricated(tmp_path, WRONG[:wrong] + RIGHT[wrong:], p=p, alpha=alpha, model_name="smollm2-135m")
    found, best = found_in(tmp_path)
    assert (best.alpha, best.p) == (15, 0.8)
    assert found.startswith("Best of 4 cells on 30 facts: alpha = 5.0, p = 0.6, score 100.0")
    assert "2 of the other 3 are not worse beyond the noise of these facts." in found
    assert "keep the preset" not in found


def test_a_difference_that_is_there_leaves_the_preset(tmp_path):
    fabricated(tmp_path, WRONG[:10] + RIGHT[10:], p=0.8, model_name="smollm2-135m")
    fabricated(tmp_path, RIGHT, p=0.6, model_name="smollm2-135m")
    found, best = found_in(tmp_path)
    assert found.endswith("Every other cell is worse beyond the noise of these facts.")
    assert best.p == 0.6


@pytest.mark.parametrize(
    ("preset", "model", "kept"), [("own.yaml", "smollm2-135m", 0.4), (None, "gpt-j-6B", 0.8), (None, "unknown", 1.0)]
)
def test_the_preset_is_the_sweeps_or_the_models(tmp_path, monkeypatch, preset, model, kept):
    """Without either, the fields' own defaults."""
    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text("layers: [1]\nalpha: 1\np: 0.4\n")
    for p in (0.4, 0.6, 0.8, 1.0):
        fabricated(tmp_path / "out", RIGHT, p=p, model_name=model, asked={"preset": preset})
    assert found_in(tmp_path / "out")[1].p == kept


def test_cells_that_failed_are_not_called_worse(tmp_path):
    for p in (0.4, 0.6):
        Record(tmp_path / "cells" / f"p={p}").end(status="failed", error="no such layer")
    fabricated(tmp_path, RIGHT, p=1.0)
    found, _ = found_in(tmp_path)
    assert found.endswith("It is the only cell that was run. 2 of 3 cells failed.")
    fabricated(tmp_path, WRONG, p=0.8)
    found, _ = found_in(tmp_path)
    assert found.endswith("Every other cell is worse beyond the noise of these facts. 2 of 4 cells failed.")
