"""`nse sweep`: NSE under many hyperparameters, as a hydra multirun; z is computed once for all of them.

The launcher says where the cells run (`hydra/launcher=basic|joblib|submitit_slurm|ray`), the sweeper which there are
(`hydra/sweeper=optuna`). On several hosts `out` and `store` are folders that all of them see.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep
from hydra.errors import HydraException
from omegaconf import DictConfig
from rich.console import Console

from nse_plugin.experiments.configuration import asks_for_help, check_words, composed, launched, plain
from nse_plugin.experiments.plan import PlanError
from nse_plugin.experiments.plan.cell import CellPlan


def sweep(arguments: Sequence[str]) -> None:
    """Run all cells that `arguments` (as on the command line) ask for, and write the sweep's files into `out`.

    Raises PlanError, DatasetError and HyperParamsError for what cannot be run as asked, before any cell is.
    """
    # a multirun in any case, and hydra wants its options in front of the settings
    check_words(arguments)
    arguments = [word for word in arguments if word not in ("-m", "--multirun")]
    if asks_for_help(arguments):
        launched("sweep", arguments, cell)
        return
    first = CellPlan.from_config(composed("sweep", _first_cell(arguments)))
    # These import torch: a mistake in a setting is found before.
    from nse_plugin.experiments.cell import check_before
    from nse_plugin.experiments.sweep_report import write_sweep

    check_before(first)
    started = time.monotonic()
    launched("sweep", _on_every_core(arguments, first), cell)
    console = Console()
    console.print(f"All cells run after {time.monotonic() - started:.0f} s.", highlight=False)
    write_sweep(first.out, first.objective, console)


def cell(config: DictConfig) -> float | tuple[float, ...]:
    """One of hydra's jobs. Returns the objectives, for a sweeper that learns; 0 of a cell that failed."""
    from nse_plugin.experiments.cell import OBJECTIVES, run_cell

    plan = CellPlan.from_config(plain(config))
    checkpoint = run_cell(plan)
    overall: dict[str, Any] = {} if checkpoint is None else checkpoint.overall
    told = ", ".join(f"{name} {100 * overall[name]:.1f}" for name in OBJECTIVES if name in overall) or "failed"
    print(f"{plan.name}: {told}", flush=True)
    values = tuple(float(overall.get(name, 0.0)) for name in plan.objective)
    return values if len(values) > 1 else values[0]


def _first_cell(arguments: Sequence[str]) -> list[str]:
    """The overrides of the first cell of a grid, so that mistakes are found before any process is started."""
    given = [word for word in arguments if not word.startswith(("-", "hydra"))]
    try:
        overrides = OverridesParser.create().parse_overrides(given)
    except HydraException as error:
        raise PlanError(" ".join(str(error).split())) from None
    chosen = []
    for override in overrides:
        if not override.is_sweep_override():
            chosen.append(str(override.input_line))
        elif override.is_discrete_sweep():
            chosen.append(f"{override.get_key_element()}={next(override.sweep_string_iterator())}")
        elif override.is_interval_sweep():
            value = override.value()
            assert isinstance(value, IntervalSweep)
            chosen.append(f"{override.get_key_element()}={value.start}")
    return chosen


def _on_every_core(arguments: Sequence[str], plan: CellPlan) -> list[str]:
    """With joblib on every core, unless another launcher is chosen, the model is on a GPU, or joblib is missing."""
    cores = os.cpu_count() or 1
    chosen = any(word.startswith("hydra/launcher") for word in arguments)
    joblib = importlib.util.find_spec("hydra_plugins.hydra_joblib_launcher") is not None
    if chosen or cores == 1 or plan.model.device != "cpu" or not joblib:
        return list(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # more threads than cores wait for each other
    counted = any(word.startswith("hydra.launcher.n_jobs") for word in arguments)
    return [*arguments, "hydra/launcher=joblib", *([] if counted else [f"hydra.launcher.n_jobs={cores}"])]
