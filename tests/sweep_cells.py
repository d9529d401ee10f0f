"""Finished cells of a sweep with known scores."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console

from nse_plugin.evaluation.metrics.probability import harmonic_mean
from nse_plugin.experiments.plan.cell import CellPlan
from nse_plugin.experiments.plan.configuration import composed
from nse_plugin.experiments.record import Checkpoint, Record
from nse_plugin.experiments.report.sweep import write_sweep
from nse_plugin.hparams import NSEHyperParams

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


def plan_of(settings: list[str], out: Path, *more: str) -> CellPlan:
    return CellPlan.from_config(composed("sweep", [*settings, f"out={out}", *more]))
