"""The result of a sweep: the best cell, and which other cells are not significantly worse."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sweep_cells import RIGHT, WRONG, fabricated, found_in

from nse_plugin.evaluation.intervals import wilson
from nse_plugin.experiments.record import Record


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


def test_cells_that_failed_are_not_called_worse(tmp_path):
    for p in (0.4, 0.6):
        Record(tmp_path / "cells" / f"p={p}").end(status="failed", error="no such layer")
    fabricated(tmp_path, RIGHT, p=1.0)
    found, _ = found_in(tmp_path)
    assert found.endswith("It is the only cell that was run. 2 of 3 cells failed.")
    fabricated(tmp_path, WRONG, p=0.8)
    found, _ = found_in(tmp_path)
    assert found.endswith("Every other cell is worse beyond the noise of these facts. 2 of 4 cells failed.")
