"""A comparison as it was asked for: checked when made, kept beside its results, the same for every process."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nse_plugin.datasets import Loaded, load_facts
from nse_plugin.evaluation.families import FAMILIES
from nse_plugin.spelling import did_you_mean

BEFORE = "before"  # the unedited model's name among the methods
EASYEDIT, ABILITY, DRIFT = "easyedit", "ability", "drift"
METRICS = (*FAMILIES, EASYEDIT, ABILITY, DRIFT)
DTYPES = ("float32", "float64", "bfloat16", "float16")


class PlanError(ValueError):
    """A comparison that cannot be run as asked; the message names the setting, its value and the remedy."""


@dataclass(frozen=True)
class ModelChoice:
    """name: names the presets. source: a folder, a hub name, or `embedded`. dtype, device: as torch names them."""

    name: str
    source: str
    dtype: str = "float32"
    device: str = "cpu"


@dataclass(frozen=True)
class DataChoice:
    """What `nse_plugin.datasets.load_facts` reads: a file, or a known name. skip: the first so many are left out."""

    source: str
    skip: int = 0
    skip_bad: bool = False
    snippets: str | None = None


@dataclass(frozen=True)
class MethodChoice:
    """alg_name: in EasyEdit's registry. preset: folder under hparams/, or a .yaml. hparams: fields set over its own.

    round: facts written at a time.
    """

    alg_name: str
    preset: str
    round: int
    hparams: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """facts: how many of the data's. checkpoints: edits after which everything is measured, the end among them.

    metrics: settings by family. store: where NSE's values are kept for other runs; None: nowhere. out: the
    results folder.
    """

    model: ModelChoice
    data: DataChoice
    methods: Mapping[str, MethodChoice]
    metrics: Mapping[str, Mapping[str, Any]]
    facts: int
    round: int
    checkpoints: tuple[int, ...]
    seed: int
    jobs: int
    store: str | None
    out: Path

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Plan:
        """Read what hydra composed (or `as_config` wrote). Raises PlanError."""
        config = {key: value for key, value in config.items() if key != "experiment"}
        known("setting", config, [spec.name for spec in dataclasses.fields(cls)])
        for name in ("facts", "round", "jobs"):
            positive(name, config[name])
        if not isinstance(config["seed"], int) or config["seed"] < 0:
            raise PlanError(f"seed = {config['seed']!r} cannot be used: give an integer, 0 or more.")
        facts, size = config["facts"], config["round"]
        if not config.get("methods"):
            raise PlanError("methods is empty: give at least one, e.g. methods=[NSE,MEMIT].")
        methods: dict[str, MethodChoice] = {}
        for name, choice in config["methods"].items():
            if name == BEFORE or "/" in name:
                raise PlanError(f"methods.{name}: a method cannot have this name; give another.")
            chosen = made(
                MethodChoice,
                f"methods.{name}",
                {"hparams": {}, **choice, "round": size if choice.get("round") is None else choice["round"]},
            )
            positive(f"methods.{name}.round", chosen.round)
            methods[name] = chosen
        known("metrics", config["metrics"], list(METRICS))
        model = made(ModelChoice, "model", config["model"])
        if model.dtype not in DTYPES:
            raise PlanError(f"model.dtype = {model.dtype!r} cannot be used: give one of {', '.join(DTYPES)}.")
        return cls(
            model=model,
            data=made(DataChoice, "data", config["data"]),
            methods=methods,
            metrics={name: dict(settings or {}) for name, settings in config["metrics"].items()},
            facts=facts,
            round=size,
            checkpoints=_checkpoints(config["checkpoints"], facts, methods),
            seed=config["seed"],
            jobs=config["jobs"],
            store=config["store"],
            out=Path(config["out"]),
        )

    def as_config(self) -> dict[str, Any]:
        """Plain values, as JSON holds them; `from_config` reads them back."""
        config: dict[str, Any] = dataclasses.asdict(self)
        return {**config, "checkpoints": list(self.checkpoints), "out": str(self.out)}

    def what_decides(self, method: str) -> dict[str, Any]:
        """All that a method's results depend on; the rest (jobs, out, the other methods) may change between runs."""
        config = self.as_config()
        chosen = {key: config[key] for key in ("model", "data", "metrics", "facts", "checkpoints", "seed")}
        return chosen if method == BEFORE else {**chosen, "method": config["methods"][method]}


def read_facts(data: DataChoice, count: int) -> Loaded:
    """The first `count` facts of what was chosen. Raises DatasetError."""
    return load_facts(data.source, count, data.skip_bad, data.snippets, data.skip)


def preset_of(choice: MethodChoice, model: ModelChoice) -> Path:
    """A method's file of hyperparameters for a model. Raises HyperParamsError when none comes with this package."""
    from nse_plugin.easyedit.method_hparams import preset_path

    return Path(choice.preset) if choice.preset.endswith(".yaml") else preset_path(choice.preset, model.name)


def made(kind: type[Any], where: str, values: Mapping[str, Any]) -> Any:
    """A dataclass of these values. Raises PlanError for one it has not, or has and is not given."""
    known(where, values, [spec.name for spec in dataclasses.fields(kind)])
    try:
        return kind(**values)
    except TypeError as error:
        raise PlanError(f"{where}: {str(error).split(' ', 1)[-1]}.") from None


def known(where: str, given: Mapping[str, Any], names: list[str]) -> None:
    """Raise PlanError for the first name given that is none of `names`."""
    for name in given:
        if name not in names:
            hint = did_you_mean(name, names, f"known are {', '.join(names)}.")
            raise PlanError(f"{where}: {name!r} is not known; {hint}")


def positive(name: str, value: Any) -> None:
    """Raise PlanError unless the value is an integer above 0."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise PlanError(f"{name} = {value!r} cannot be used: give an integer above 0.")


def _checkpoints(given: Sequence[Any], facts: int, methods: Mapping[str, MethodChoice]) -> tuple[int, ...]:
    for edits in given:
        positive("checkpoints", edits)
        if edits > facts:
            raise PlanError(f"checkpoints = {list(given)} cannot be used: there are only {facts} facts.")
        for name, choice in methods.items():
            if edits % choice.round and edits != facts:
                raise PlanError(
                    f"checkpoints = {list(given)} cannot be used: {name} writes {choice.round} facts at a time, and no "
                    f"round of it ends at {edits}."
                )
    return tuple(sorted({*given, facts}))
