"""One cell of a sweep as it was asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nse_plugin.experiments.plan.checks import PlanError, known, made, positive
from nse_plugin.experiments.plan.comparison import ABILITY, DRIFT, EASYEDIT, METRICS, DataChoice, counted
from nse_plugin.experiments.plan.model import ModelChoice, is_bundled
from nse_plugin.hparams import NSEHyperParams
from nse_plugin.hparams.settings import plain_value

if TYPE_CHECKING:
    pass

SCORE = "score"


@dataclass(frozen=True)
class CellPlan:
    """One cell as it was asked for. nse: the fields set over the preset's; the rest as in `conf/sweep.yaml`."""

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
        """Read what hydra composed. Raises PlanError."""
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
        """The cell's own, made of what it sets: `alpha=5,p=0.8`."""
        return ",".join(f"{name}={_short(self.nse[name])}" for name in sorted(self.nse)) or "preset"

    def hparams(self, model: object) -> NSEHyperParams:
        """model: a loaded one, or anything with its `config`. Raises HyperParamsError."""
        from nse_plugin.models.loading import easyedit_device

        chosen = {"seed": self.seed, **self.nse, **({} if self.store is None else {"store": self.store})}
        if self.preset is None:
            whole = NSEHyperParams.for_model(model, **chosen)
        else:
            whole = replace(NSEHyperParams.from_hparams(self.preset), **chosen)
        # what EasyEdit loads by, for the file that the best setting is written to
        named = whole.model_name if whole.model_name and is_bundled(self.model.name) else self.model.source
        return replace(whole, model_name=named, device=easyedit_device(self.model.device))

    def what_decides(self) -> dict[str, Any]:
        """The settings that the results depend on. With what the files hold that they name: `plan.inputs`."""
        config = asdict(self)
        return {name: config[name] for name in ("model", "data", "metrics", "nse", "preset", "facts", "round", "seed")}


def objectives() -> tuple[str, ...]:
    """The names that `objective` takes."""
    from nse_plugin.evaluation.metrics.probability import METRICS as SHARES  # imports torch

    return (*SHARES, SCORE)


def _short(value: object) -> str:
    return json.dumps(value, separators=(",", ":")).replace('"', "").replace("/", "_")
