"""One cell of a sweep: write facts round by round with one setting of NSE, and measure the final model.

A process that runs many cells loads the model once: each cell restores the weights bit for bit. What all cells need,
the unedited model's scores and the values z, is computed by the first cell that needs it, while other cells wait.
"""

from __future__ import annotations

import functools
import hashlib
import json
import sys
import traceback
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from nse_plugin.evaluation.metrics.probability import METRICS
from nse_plugin.experiments.measure.reference import Reference
from nse_plugin.experiments.measure.suite import MetricSuite, facts_frame, measure_before
from nse_plugin.experiments.plan import BEFORE, DataChoice, ModelChoice, PlanError, inputs, read_facts
from nse_plugin.experiments.plan.cell import SCORE, CellPlan, objectives
from nse_plugin.experiments.plan.checks import check_rounds
from nse_plugin.experiments.plan.model import model_config
from nse_plugin.experiments.plan.presets import check_preset_of_sweep
from nse_plugin.experiments.record import CELLS, Checkpoint, Record, cells, check_writable
from nse_plugin.experiments.run.locks import alone
from nse_plugin.facts import Fact
from nse_plugin.facts.files import Loaded
from nse_plugin.hparams import NSEHyperParams
from nse_plugin.method.value_cache_key import VALUE_SETTINGS
from nse_plugin.models.chat import BOTH
from nse_plugin.models.layout import Layout
from nse_plugin.models.loading import load
from nse_plugin.session import EditSession
from nse_plugin.store import Store
from nse_plugin.support.suggestions import in_a_line
from nse_plugin.support.timing import timed

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["OBJECTIVES", "SCORE", "CellPlan", "cells", "check_before", "loaded", "run_cell"]

OBJECTIVES = objectives()
LOCKS = "locks"


def check_before(plan: CellPlan) -> None:
    """Check everything that can be checked before any cell is run. Raises PlanError, DatasetError or HyperParamsError,
    and what `MetricSuite.check` and `Store.check_folder` raise."""
    loaded = facts_of(plan)
    facts = loaded.facts
    check_rounds(facts, plan.round)
    needed = set(METRICS) if SCORE in plan.objective else set(plan.objective)
    for metric, field in (("generalization", "rephrase_prompts"), ("specificity", "locality_prompts")):
        if metric in needed and not any(getattr(fact, field) for fact in facts):
            raise PlanError(f"objective = {list(plan.objective)}: none of the facts of {plan.data.source} has {field}.")
    model_config(plan.model.source)
    check_preset_of_sweep(plan)
    suite = MetricSuite(plan.metrics, plan.seed, plan.model)
    suite.check(facts)
    suite.check_lengths(facts)
    asked = inputs.of_sweep(plan, loaded)
    for record in cells(plan.out):
        record.check_for(asked)
    Record(plan.out / BEFORE).check_for(inputs.of_reference(plan, loaded))
    _record(plan).check_for(inputs.of_cell(plan, loaded))
    check_writable(plan.out)
    if plan.store is not None:
        Store(plan.store).check_folder()


def run_cell(plan: CellPlan) -> Checkpoint | None:
    """Run a cell, or read its results if it is done. Returns None if the cell failed: its record has the error. Raises
    PlanError."""
    record = _record(plan)
    record.open_for(inputs.of_cell(plan, facts_of(plan)))
    with alone(record.folder / "lock", lambda: _say(f"{plan.name}: waiting for another run on this folder")):
        return _run(plan, record)


def _record(plan: CellPlan) -> Record:
    return Record(plan.out / CELLS / plan.name)


def _run(plan: CellPlan, record: Record) -> Checkpoint | None:
    if record.is_done:
        return record.load(plan.facts)
    try:
        checkpoint, hparams = _edited_and_measured(plan)
    except PlanError:
        raise
    except Exception as error:  # a setting that cannot be run is a result; other cells continue
        trace = "".join(traceback.format_exception(error))
        record.log.write_text(trace, encoding="utf-8")
        record.end(status="failed", error=in_a_line(error))
        return None
    record.save(checkpoint, state=None)
    record.end(status="done", error=None, hparams=hparams.to_dict())
    return checkpoint


def _edited_and_measured(plan: CellPlan) -> tuple[Checkpoint, NSEHyperParams]:
    model, tokenizer = loaded(plan.model)
    facts = facts_of(plan).facts
    suite = MetricSuite(plan.metrics, plan.seed, plan.model)
    reference = _reference(plan, suite, model, tokenizer)
    hparams = plan.hparams(model)
    session = EditSession(model, tokenizer, hparams, undoable=False)
    matrices = Layout.of(model, hparams.rewrite_module_tmp).output_matrices(hparams.layers)
    seconds = {"moments": 0.0, "values": 0.0, "update": 0.0, "measure": 0.0}
    try:
        values = None
        if hparams.rewind and _have_values_of_their_own(facts, hparams):
            settings = {name: getattr(hparams, name) for name in (*VALUE_SETTINGS, "solver", "layers", "seed")}
            with nullcontext() if plan.store is None else alone(_lock(plan.out, "values", settings)):
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
            numbers = [number for frame in rounds for number in frame["round"]]
            measured, tables = suite.measure(model, tokenizer, facts, reference, numbers)
    finally:
        session.state.originals.restore(matrices)
    frame = pd.concat([facts_frame(facts), measured.facts, pd.concat(rounds, ignore_index=True)], axis="columns")
    costs = {"seconds": seconds, "values_from_store": session.values_from_store}
    return Checkpoint(len(facts), frame, measured.texts, measured.overall, costs, tables), hparams


def _have_values_of_their_own(facts: Sequence[Fact], hparams: NSEHyperParams) -> bool:
    """Return whether no two facts share a value z. A shared value depends on which facts are in the same round, so it
    cannot be computed before the rounds."""
    return len({name.strip() for fact in facts for name in fact.names}) == len(facts) and hparams.chat != BOTH


def loaded(choice: ModelChoice) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load the model and its tokenizer, once per process, since cells restore the weights; again if its files have
    changed."""
    return _loaded(choice, json.dumps(inputs.model_content(choice.source)))


@functools.lru_cache(maxsize=1)
def _loaded(choice: ModelChoice, _content: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    return load(choice.source, choice.dtype, choice.device)


def facts_of(plan: CellPlan) -> Loaded:
    """Read the facts, once per process; again if their files have changed."""
    files = inputs.files_named({"source": plan.data.source, "snippets": plan.data.snippets})
    return _facts(plan.data, plan.facts, json.dumps(files))


@functools.lru_cache(maxsize=1)
def _facts(data: DataChoice, count: int, _contents: str) -> Loaded:
    return read_facts(data, count)


def _reference(plan: CellPlan, suite: MetricSuite, model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> Reference:
    """Return the predictions of the unedited model, which the first cell measures."""
    record = Record(plan.out / BEFORE)
    with alone(_lock(plan.out, BEFORE, {})):
        facts = facts_of(plan)
        record.open_for(inputs.of_reference(plan, facts))
        if not record.is_done:
            measure_before(suite, record, model, tokenizer, facts.facts)
    return Reference.load(record)


def _lock(out: Path, what: str, settings: Mapping[str, object]) -> Path:
    """Return the lock file of a result that several cells need and one of them computes."""
    mark = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    return out / LOCKS / f"{what}-{mark}"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
