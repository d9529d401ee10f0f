"""`nse sweep`: run NSE with many hyperparameters as a hydra multirun; each value z is computed once for all of them.

The launcher decides where the cells run (`hydra/launcher=basic|joblib|submitit_slurm|ray`), and the sweeper decides
which cells are run (`hydra/sweeper=optuna`). On several hosts, `out` and `store` must be folders that all hosts share.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.errors import HydraException
from omegaconf import DictConfig
from rich.console import Console

from nse_plugin.experiments.plan import PlanError
from nse_plugin.experiments.plan.cell import CellPlan
from nse_plugin.experiments.plan.configuration import asks_for_help, check_words, composed, launched, plain
from nse_plugin.hparams.settings import plain_value


def sweep(arguments: Sequence[str]) -> None:
    """Run all cells described by `arguments`, as on the command line, and write the sweep's files into `out`.

    Raises PlanError, DatasetError or HyperParamsError, or what `check_before` raises, before any cell is run.
    """
    # conf/sweep.yaml always makes it a multirun, and hydra would want the option before the settings
    check_words(arguments)
    arguments = [word for word in arguments if word not in ("-m", "--multirun")]
    if asks_for_help(arguments):
        launched("sweep", arguments, cell)
        return
    choices = [(override, _choices(override)) for override in _overrides(arguments)]
    first = CellPlan.from_config(composed("sweep", [chosen[0] for _, chosen in choices]))
    # These import torch: a mistake in a setting is reported before.
    from nse_plugin.experiments.plan.presets import check_preset_of_sweep
    from nse_plugin.experiments.report.sweep import write_sweep
    from nse_plugin.experiments.run.cell import check_before

    check_before(first)
    for plan in _cells(first, [chosen for override, chosen in choices if override.is_sweep_override()]):
        check_preset_of_sweep(plan)
    started = time.monotonic()
    launched("sweep", _on_every_core(arguments, first), cell)
    console = Console()
    console.print(f"All cells run after {time.monotonic() - started:.0f} s.", highlight=False)
    write_sweep(first.out, first.objective, console)


def cell(config: DictConfig) -> float | tuple[float, ...]:
    """Run one of hydra's jobs. Returns the objectives, for an optimising sweeper; 0 for a cell that failed."""
    from nse_plugin.experiments.run.cell import OBJECTIVES, run_cell

    plan = CellPlan.from_config(plain(config))
    checkpoint = run_cell(plan)
    overall: dict[str, Any] = {} if checkpoint is None else checkpoint.overall
    scores = ", ".join(f"{name} {100 * overall[name]:.1f}" for name in OBJECTIVES if name in overall) or "failed"
    print(f"{plan.name}: {scores}", flush=True)
    values = tuple(float(overall.get(name, 0.0)) for name in plan.objective)
    return values if len(values) > 1 else values[0]


def _overrides(arguments: Sequence[str]) -> list[Override]:
    """Parse the settings among `arguments`. Raises PlanError."""
    given = [word for word in arguments if not word.startswith(("-", "hydra"))]
    try:
        return OverridesParser.create().parse_overrides(given)
    except HydraException as error:
        raise PlanError(" ".join(str(error).split())) from None


def _choices(override: Override) -> list[str]:
    """Return the settings that an override stands for, one per cell. An interval is represented by its end, since many
    intervals start at a 0 that is itself not allowed."""
    if override.is_discrete_sweep():
        return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
    value = override.value()
    if isinstance(value, IntervalSweep):
        return [f"{override.get_key_element()}={value.end}"]
    return [str(override.input_line)]


def _cells(first: CellPlan, choices: Sequence[Sequence[str]]) -> Iterator[CellPlan]:
    """Yield the cells of a grid, with the hyperparameters and preset of each. Raises HyperParamsError."""
    parser = OverridesParser.create()
    swept = [[parser.parse_override(setting) for setting in chosen] for chosen in choices]
    for cell in itertools.product(*swept):
        given = {override.key_or_group: override.value() for override in cell}
        nse = dict(first.nse)
        for key, value in given.items():
            if key.startswith("nse."):
                name = key.removeprefix("nse.")
                nse[name] = plain_value(name, value)
        preset: Any = given.get("preset", first.preset)
        yield replace(first, preset=preset, nse={name: value for name, value in nse.items() if value is not None})


def _on_every_core(arguments: Sequence[str], plan: CellPlan) -> list[str]:
    """Add the settings that run cells on every core with joblib, unless a launcher is chosen, there is only one core,
    the model is on a GPU, or joblib's launcher is not installed."""
    cores = os.cpu_count() or 1
    chosen = any(word.startswith("hydra/launcher") for word in arguments)
    joblib = importlib.util.find_spec("hydra_plugins.hydra_joblib_launcher") is not None
    if chosen or cores == 1 or plan.model.device != "cpu" or not joblib:
        return list(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # more threads than cores slow each other down
    counted = any(word.startswith("hydra.launcher.n_jobs") for word in arguments)
    return [*arguments, "hydra/launcher=joblib", *([] if counted else [f"hydra.launcher.n_jobs={cores}"])]
