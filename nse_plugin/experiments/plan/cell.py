"""Plan of one cell of a sweep."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from nse_plugin.experiments.plan.checks import PlanError, known, made, positive
from nse_plugin.experiments.plan.comparison import ABILITY, DRIFT, EASYEDIT, METRICS, DataChoice, counted
from nse_plugin.experiments.plan.model import ModelChoice, is_bundled
from nse_plugin.hparams import NSEHyperParams
from nse_plugin.hparams.settings import plain_value

SCORE = "score"


@dataclass(frozen=True)
class CellPlan:
    """Plan of one cell. nse: hyperparameters that override the preset's; the rest as in `conf/sweep.yaml`."""

    model: ModelChoice
    data: DataChoice
    metrics: Mapping[str, Mapping[str, Any]]
    nse: Mapping[str, Any]
    preset: str | None
    facts: int
    round: int
    seed: int
    store: str | None
    objective: tuple[str, ...]
    out: Path

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> CellPlan:
        """Read a configuration composed by hydra. Raises PlanError, DatasetError or HyperParamsError."""
        known("setting", config, [spec.name for spec in fields(cls)])
        data = made(DataChoice, "data", config["data"])
        config = {**config, "facts": counted(data, config["facts"])}
        for name in ("facts", "round"):
            positive(name, config[name])
        known("metrics", config["metrics"], [name for name in METRICS if name not in (EASYEDIT, ABILITY, DRIFT)])
        known("objective", dict.fromkeys(config["objective"]), list(objectives()))
        if not config["objective"] or "probability" not in config["metrics"]:
            raise PlanError("objective is empty, or metrics has no probability: a sweep needs both to find its best.")
        return cls(
            model=ModelChoice.from_config(config["model"]),
            data=data,
            metrics={name: dict(settings or {}) for name, settings in config["metrics"].items()},
            nse={name: plain_value(name, value) for name, value in config["nse"].items() if value is not None},
            objective=tuple(config["objective"]),
            out=Path(config["out"]),
            **{name: config[name] for name in ("preset", "facts", "round", "seed", "store")},
        )

    @property
    def name(self) -> str:
        """Name of the cell, made of the hyperparameters it sets, e.g. `alpha=5,p=0.8`."""
        return ",".join(f"{name}={_short(self.nse[name])}" for name in sorted(self.nse)) or "preset"

    def hparams(self, model: object) -> NSEHyperParams:
        """Return the cell's hyperparameters. model: a loaded model, or any object with its `config`. Raises
        HyperParamsError."""
        from nse_plugin.models.loading import easyedit_device

        chosen = {"seed": self.seed, **self.nse, **({} if self.store is None else {"store": self.store})}
        if self.preset is None:
            whole = NSEHyperParams.for_model(model, **{"preset": "paper", **chosen})  # sweeps are over its p and alpha
        else:
            whole = NSEHyperParams.from_hparams(self.preset).with_overrides(**chosen)
        # model_name, from which EasyEdit loads the model, for the file with the best setting
        named = whole.model_name if whole.model_name and is_bundled(self.model.name) else self.model.source
        return replace(whole, model_name=named, device=easyedit_device(self.model.device))

    def what_decides(self) -> dict[str, Any]:
        """Return the settings that the results depend on. `plan.inputs` adds the contents of the files they name."""
        config = asdict(self)
        return {name: config[name] for name in ("model", "data", "metrics", "nse", "preset", "facts", "round", "seed")}


def objectives() -> tuple[str, ...]:
    """Return the names that are allowed in `objective`."""
    from nse_plugin.evaluation.metrics.probability import METRICS as SHARES  # imports torch

    return (*SHARES, SCORE)


def _short(value: object) -> str:
    return json.dumps(value, separators=(",", ":")).replace('"', "").replace("/", "_")
