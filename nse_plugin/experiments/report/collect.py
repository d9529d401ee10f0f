"""Collect the records of all methods into tidy tables, from which figures and pages are made."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import torch

from nse_plugin.experiments.plan import BEFORE, Plan
from nse_plugin.experiments.record import Checkpoint, Record
from nse_plugin.experiments.report.summary import with_intervals
from nse_plugin.support.files import written_whole


def record_of(plan: Plan, name: str) -> Record:
    """Return the record of one method of a comparison."""
    return Record(plan.out / "methods" / name)


def write_tables(plan: Plan) -> pd.DataFrame:
    """Write summary.csv, facts.csv, texts.csv and the instruments' tables from the checkpoints that exist so far.
    Returns the summary.

    summary: columns method, edits, metric, value, and low and high of the 95% interval (empty if the metric has none).
    Other tables: columns method, edits and those of the checkpoint's table, with one row per fact, text, etc.
    """
    summary: list[tuple[str, int, str, float]] = []
    tables: dict[str, list[pd.DataFrame]] = {"facts": [], "texts": []}
    for name in (BEFORE, *plan.methods):
        record = record_of(plan, name)
        for edits in record.edits:
            checkpoint = record.load(edits)
            summary += [(name, edits, metric, value) for metric, value in means(checkpoint).items()]
            for file, table in {**checkpoint.tables, "facts": checkpoint.facts, "texts": checkpoint.texts}.items():
                tables.setdefault(file, []).append(table.assign(method=name, edits=edits))
    joined = {name: _concatenated(frames) for name, frames in tables.items()}
    frame = with_intervals(pd.DataFrame(summary, columns=["method", "edits", "metric", "value"]), joined["facts"])
    for file, table in {"summary": frame, **joined}.items():
        with written_whole(plan.out / f"{file}.csv") as path:
            table.to_csv(path, index=False, float_format="%.6g")
    return frame


def means(checkpoint: Checkpoint) -> dict[str, float]:
    """Return every metric of a checkpoint as one number: metrics of the model, seconds, and peak memory in MiB."""
    costs = checkpoint.costs
    parts = {"seconds": "edit", **{f"seconds_{part}": part for part in ("values", "update", "moments")}}
    seconds = {metric: costs["seconds"][part] for metric, part in parts.items() if part in costs["seconds"]}
    if "seconds" in seconds:  # not counted: second moments are reused by every later run on the model
        seconds["seconds"] -= seconds.get("seconds_moments", 0.0)
    return {**checkpoint.overall, **seconds, "peak_memory_mib": costs["peak_memory_mib"]}


def write_run(plan: Plan, started: datetime, data: Mapping[str, object], command: str | None, *, worked: bool) -> None:
    """Write run.json: the whole configuration, versions, host, and how each method ended.

    started: start of this call. data: description of the facts. command: the command line, for the report. worked:
    whether this call had anything left to run. If so, its duration is added to that of earlier calls, and time in which
    both ran is counted once.
    """
    path = plan.out / "run.json"
    began = until = datetime.now(UTC)
    seconds = 0.0
    if path.is_file():
        earlier = json.loads(path.read_text(encoding="utf-8"))
        began, seconds = datetime.fromisoformat(earlier["started"]), earlier["seconds"]
        until = datetime.fromisoformat(earlier.get("ended", earlier["started"]))  # not recorded by earlier versions
    if worked or not path.is_file():
        now = datetime.now(UTC)
        both = min(now, until) - max(started, began)
        seconds += (now - started - max(both, timedelta(0))).total_seconds()
        began, until = min(began, started), now
    methods = {}
    for name, choice in plan.methods.items():
        record = record_of(plan, name)
        ended = record.ended or {"status": "running", "error": None, "note": None}
        costs = record.load(record.edits[-1]).costs if record.edits else {"seconds": {}, "peak_memory_mib": None}
        methods[name] = {
            **{key: ended.get(key) for key in ("status", "error", "note", "hparams", "kept")},
            "alg_name": choice.alg_name,
            "seconds": costs["seconds"],
            "peak_memory_mib": costs["peak_memory_mib"],
        }
    before = record_of(plan, BEFORE).ended or {}
    written = {
        **({} if command is None else {"command": command}),
        "config": plan.as_config(),
        "versions": _versions(),
        "host": _host(),
        "data": dict(data),
        "model": {"name": plan.model.name, "weights": before.get("weights")},
        "started": began.isoformat(timespec="seconds"),
        "ended": until.isoformat(timespec="seconds"),
        "seconds": seconds,
        "methods": methods,
    }
    with written_whole(plan.out / "run.json") as path:
        path.write_text(json.dumps(written, indent=1), encoding="utf-8")


def _concatenated(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    joined = pd.concat([frame for frame in frames if len(frame)] or frames, ignore_index=True)
    return joined[["method", "edits", *(column for column in joined if column not in ("method", "edits"))]]


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in ("nse-plugin", "torch", "transformers", "easyeditor", "hydra-core"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    if os.environ.get("EASYEDIT_HOME"):
        versions["easyeditor"] = f"clone in {Path(os.environ['EASYEDIT_HOME']).name}"
    return versions


def _host() -> dict[str, object]:
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"system": platform.platform(), "cores": os.cpu_count(), "threads": torch.get_num_threads(), "gpu": gpu}
