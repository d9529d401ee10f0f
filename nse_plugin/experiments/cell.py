"""One cell of a sweep: facts written round after round with one setting of NSE, and the final model measured.

A process that runs many cells loads the model once: a cell puts the weights back as it found them, bit for bit. What
all cells need, the unedited model's scores and the values z, is made by the first that needs it, while others wait.
"""

from __future__ import annotations

import functools
import hashlib
import json
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock

from nse_plugin.addresses import VALUE_SETTINGS
from nse_plugin.evaluation.families import FAMILIES
from nse_plugin.evaluation.probability import METRICS
from nse_plugin.experiments.measuring import Reference, Yardstick, measure_before, told
from nse_plugin.experiments.plan import BEFORE, DataChoice, ModelChoice, PlanError, known, made, positive, read_facts
from nse_plugin.experiments.record import Checkpoint, Record
from nse_plugin.hparams import NSEHyperParams, plain_value
from nse_plugin.models.layout import Layout
from nse_plugin.models.loading import easyedit_device, load
from nse_plugin.session import EditSession
from nse_plugin.timing import timed

SCORE = "score"
OBJECTIVES = (*METRICS, SCORE)
CELLS, LOCKS = "cells", "locks"
SHARED = ("model", "data", "metrics", "facts", "seed")  # of what was asked, alike for the unedited model and all cells


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
        for name in ("facts", "round"):
            positive(name, config[name])
        known("metrics", config["metrics"], list(FAMILIES))
        known("objective", dict.fromkeys(config["objective"]), list(OBJECTIVES))
        if not config["objective"] or "probability" not in config["metrics"]:
            raise PlanError("objective is empty, or metrics has no probability: a sweep needs both to find its best.")
        return cls(
            model=made(ModelChoice, "model", config["model"]),
            data=made(DataChoice, "data", config["data"]),
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

    def hparams(self, model: Any) -> NSEHyperParams:
        """Raises HyperParamsError."""
        chosen = {"seed": self.seed, **self.nse, **({} if self.store is None else {"store": self.store})}
        if self.preset is None:
            whole = NSEHyperParams.for_model(model, **chosen)
        else:
            whole = replace(NSEHyperParams.from_hparams(self.preset), **chosen)
        # what EasyEdit loads by, for the file that the best setting is written to
        named = whole.model_name or self.model.source
        return replace(whole, model_name=named, device=easyedit_device(self.model.device))

    def asked(self) -> dict[str, Any]:
        """All that the results depend on."""
        config = asdict(self)
        return {name: config[name] for name in ("model", "data", "metrics", "nse", "preset", "facts", "round", "seed")}


def cells(out: Path) -> list[Record]:
    """All cells of a sweep's folder, by name."""
    return [Record(path) for path in sorted((out / CELLS).glob("*")) if path.is_dir()]


def check_before(plan: CellPlan) -> None:
    """What can be known before any cell is run. Raises PlanError, DatasetError or HyperParamsError."""
    facts = _facts(plan.data, plan.facts)
    needed = set(METRICS) if SCORE in plan.objective else set(plan.objective)
    for metric, field in (("generalization", "rephrase_prompts"), ("specificity", "locality_prompts")):
        if metric in needed and not any(getattr(fact, field) for fact in facts):
            raise PlanError(f"objective = {list(plan.objective)}: none of the facts of {plan.data.source} has {field}.")
    if plan.preset is not None:
        NSEHyperParams.from_hparams(plan.preset)
    Yardstick(plan.metrics, plan.seed, plan.model).check(facts)
    for record in cells(plan.out):
        record.open_for({name: value for name, value in plan.asked().items() if name != "nse"})


def run_cell(plan: CellPlan) -> Checkpoint | None:
    """Run a cell, or read what it was; None when it failed: its record says why. Raises PlanError."""
    record = Record(plan.out / CELLS / plan.name)
    record.open_for(plan.asked())
    with FileLock(record.folder / "lock"):  # a sweeper may draw a cell twice
        return _run(plan, record)


def _run(plan: CellPlan, record: Record) -> Checkpoint | None:
    if record.is_done:
        return record.load(plan.facts)
    try:
        checkpoint, hparams = _edited_and_measured(plan)
    except PlanError:
        raise
    except Exception as error:  # a setting that cannot be run is a result, and the others go on
        trace = "".join(traceback.format_exception(error))
        record.log.write_text(trace, encoding="utf-8")
        record.end(status="failed", error=" ".join(f"{type(error).__name__}: {error}".split()))
        return None
    record.save(checkpoint, state=None)
    record.end(status="done", error=None, hparams=hparams.to_dict())
    return checkpoint


def _edited_and_measured(plan: CellPlan) -> tuple[Checkpoint, NSEHyperParams]:
    model, tokenizer = loaded(plan.model)
    facts = _facts(plan.data, plan.facts)
    yardstick = Yardstick(plan.metrics, plan.seed, plan.model)
    reference = _reference(plan, yardstick, model, tokenizer)
    hparams = plan.hparams(model)
    session = EditSession(model, tokenizer, hparams)
    matrices = Layout.of(model, hparams.rewrite_module_tmp).output_matrices(hparams.layers)
    seconds = {"moments": 0.0, "values": 0.0, "update": 0.0, "measure": 0.0}
    try:
        values = None
        if hparams.rewind:
            settings = {name: getattr(hparams, name) for name in (*VALUE_SETTINGS, "solver", "layers", "seed")}
            with nullcontext() if plan.store is None else _alone(plan.out, "values", settings):
                with timed(seconds, "moments"):
                    _ = session.moments
                with timed(seconds, "values"):
                    values = session.values(facts)
        rounds = []
        for number, start in enumerate(range(0, len(facts), plan.round), 1):
            chosen = slice(start, start + plan.round)
            report = session.edit_with_values(facts[chosen], None if values is None else values[chosen])
            rounds.append(report.frame[["status", "residual"]].assign(round=number))
            for part, taken in report.seconds.items():
                seconds[part] += taken
        with timed(seconds, "measure"):
            measured, tables = yardstick.measure(model, tokenizer, facts, reference)
    finally:
        session.state.originals.restore(matrices)
    frame = pd.concat([told(facts), measured.facts, pd.concat(rounds, ignore_index=True)], axis="columns")
    costs = {"seconds": seconds, "values_from_store": session.values_from_store}
    return Checkpoint(len(facts), frame, measured.texts, measured.overall, costs, tables), hparams


@functools.lru_cache(maxsize=1)
def loaded(choice: ModelChoice) -> tuple[Any, Any]:
    """The model and its tokenizer, once a process: cells leave it as it was."""
    return load(choice.source, choice.dtype, choice.device)


@functools.lru_cache(maxsize=1)
def _facts(data: DataChoice, count: int) -> list[Any]:
    return read_facts(data, count).facts


def _reference(plan: CellPlan, yardstick: Yardstick, model: Any, tokenizer: Any) -> Reference:
    """What the unedited model says, measured by the first cell."""
    record = Record(plan.out / BEFORE)
    with _alone(plan.out, BEFORE, {}):
        record.open_for({name: value for name, value in plan.asked().items() if name in SHARED})
        if not record.is_done:
            measure_before(yardstick, record, model, tokenizer, _facts(plan.data, plan.facts))
    return Reference.load(record)


@contextmanager
def _alone(out: Path, what: str, settings: Mapping[str, Any]) -> Iterator[None]:
    """Within, no other cell of the sweep does the same, on whatever host."""
    (out / LOCKS).mkdir(parents=True, exist_ok=True)
    mark = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    with FileLock(out / LOCKS / f"{what}-{mark}"):
        yield


def _short(value: Any) -> str:
    return json.dumps(value, separators=(",", ":")).replace('"', "").replace("/", "_")
