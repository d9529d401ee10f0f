"""A comparison as it was asked for: checked when made, kept beside its results, the same for every process."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from nse_plugin.experiments.plan.checks import PlanError, known, made, positive
from nse_plugin.experiments.plan.model import ModelChoice
from nse_plugin.facts.files import Loaded, load_facts

BEFORE = "before"  # the unedited model's name among the methods
EASYEDIT, ABILITY, DRIFT = "easyedit", "ability", "drift"
# Each has a file of settings. (evaluation.families, which has most of them, imports torch.)
_FILES = (resources.files("nse_plugin.experiments.conf") / "metrics").iterdir()
METRICS = tuple(sorted(Path(file.name).stem for file in _FILES))


@dataclass(frozen=True)
class DataChoice:
    """What `nse_plugin.facts.files.load_facts` reads: a file, or a known name. skip: how many to leave out first."""

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

    metrics: settings by family. store: where NSE's values are kept for other runs; None: nowhere. save_models: keep
    what each method edited, as a session or a patch. out: the results folder.
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
    save_models: bool
    out: Path

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Plan:
        """Read what hydra composed (or `as_config` wrote). Raises PlanError."""
        config = {key: value for key, value in config.items() if key != "experiment"}
        known("setting", config, [spec.name for spec in dataclasses.fields(cls)])
        data = made(DataChoice, "data", config["data"])
        config["facts"] = counted(data, config["facts"])
        for name in ("facts", "round", "jobs"):
            positive(name, config[name])
        if not isinstance(config["seed"], int) or config["seed"] < 0:
            raise PlanError(f"seed = {config['seed']!r} cannot be used: give an integer, 0 or more.")
        if not isinstance(config["save_models"], bool):
            raise PlanError(f"save_models = {config['save_models']!r} cannot be used: give true or false.")
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
        return cls(
            model=ModelChoice.from_config(config["model"]),
            data=data,
            methods=methods,
            metrics={name: dict(settings or {}) for name, settings in config["metrics"].items()},
            facts=facts,
            round=size,
            checkpoints=_checkpoints(config["checkpoints"], facts, methods),
            seed=config["seed"],
            jobs=config["jobs"],
            store=config["store"],
            save_models=config["save_models"],
            out=Path(config["out"]),
        )

    def as_config(self) -> dict[str, Any]:
        """Plain values, as JSON holds them; `from_config` reads them back."""
        config: dict[str, Any] = dataclasses.asdict(self)
        return {**config, "checkpoints": list(self.checkpoints), "out": str(self.out)}

    def what_decides(self, method: str) -> dict[str, Any]:
        """The settings that a method's results depend on; the rest (jobs, save_models, out, the other methods) may
        change between runs. With what the files hold that they name: `plan.inputs`."""
        config = self.as_config()
        chosen = {key: config[key] for key in ("model", "data", "metrics", "facts", "checkpoints", "seed")}
        return chosen if method == BEFORE else {**chosen, "method": config["methods"][method]}


def read_facts(data: DataChoice, count: int | None) -> Loaded:
    """The first `count` facts of what was chosen; None: all. Raises DatasetError."""
    return load_facts(data.source, count, data.skip_bad, data.snippets, data.skip)


def counted(data: DataChoice, asked: object) -> Any:
    """How many facts are asked for, where "all" of them, or null, is. Raises DatasetError."""
    return len(read_facts(data, None)) if asked in (None, "all") else asked


def _checkpoints(given: Sequence[Any], facts: int, methods: Mapping[str, MethodChoice]) -> tuple[int, ...]:
    for edits in given:
        positive("checkpoints", edits)
        if edits > facts:
            raise PlanError(f"checkpoints = {list(given)} cannot be used: {edits} is more than facts = {facts}.")
        for name, choice in methods.items():
            if edits % choice.round and edits != facts:
                raise PlanError(
                    f"checkpoints = {list(given)} cannot be used: {name} writes {choice.round} facts at a time, and no "
                    f"round of it ends at {edits}."
                )
    return tuple(sorted({*given, facts}))
