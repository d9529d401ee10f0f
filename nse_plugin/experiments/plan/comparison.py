"""Plan of a comparison: checked when it is created, saved beside the results, and shared by all processes."""

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
# Each family has a file of settings. (evaluation.families, which lists most of them, imports torch.)
_FILES = (resources.files("nse_plugin.experiments.conf") / "metrics").iterdir()
METRICS = tuple(sorted(Path(file.name).stem for file in _FILES))


@dataclass(frozen=True)
class DataChoice:
    """Facts to read with `nse_plugin.facts.files.load_facts`. source: a file or a known name. skip: number of facts to
    skip at the beginning."""

    source: str
    skip: int = 0
    skip_bad: bool = False
    snippets: str | None = None


@dataclass(frozen=True)
class MethodChoice:
    """A method of a comparison.

    alg_name: name in EasyEdit's registry. preset: folder under hparams/, or a .yaml file. round: facts written at a
    time. hparams: fields that override the preset's.
    """

    alg_name: str
    preset: str
    round: int
    hparams: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """Plan of a comparison.

    metrics: settings by family. facts: how many facts of the data are written. round: facts written at a time, if the
    method does not say otherwise. checkpoints: numbers of edits after which everything is measured, including the last.
    store: folder in which NSE's values are kept for other runs; None: they are not kept. save_models: keep the edits of
    each method, as a session or a patch. out: the results folder.
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
        """Read a configuration composed by hydra, or returned by `as_config`. Raises PlanError or DatasetError."""
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
        """Return the plan as plain values for JSON; `from_config` reads them back."""
        config: dict[str, Any] = dataclasses.asdict(self)
        return {**config, "checkpoints": list(self.checkpoints), "out": str(self.out)}

    def what_decides(self, method: str) -> dict[str, Any]:
        """Return the settings that a method's results depend on; the rest (jobs, save_models, out, the other methods)
        may change between runs. `plan.inputs` adds the contents of the files they name."""
        config = self.as_config()
        chosen = {key: config[key] for key in ("model", "data", "metrics", "facts", "checkpoints", "seed")}
        return chosen if method == BEFORE else {**chosen, "method": config["methods"][method]}


def read_facts(data: DataChoice, count: int | None) -> Loaded:
    """Read the first `count` of the chosen facts; None: all. Raises DatasetError."""
    return load_facts(data.source, count, data.skip_bad, data.snippets, data.skip)


def counted(data: DataChoice, asked: object) -> Any:
    """Return the number of facts asked for, with "all" or null replaced by the number there are. Raises
    DatasetError."""
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
