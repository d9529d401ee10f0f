"""`nse compare`: run every method on the same facts, round by round, and measure the edited models.

The parent process loads no model: it checks the plan, starts a worker process for each method, shows their progress,
and collects their records. If a run is interrupted, the same command resumes it from the last checkpoints.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from datetime import UTC, datetime
from queue import Queue
from typing import Any

import pandas as pd
from rich.console import Console

from nse_plugin.experiments.measure.suite import MetricSuite
from nse_plugin.experiments.plan import BEFORE, ModelChoice, Plan, PlanError, inputs, read_facts
from nse_plugin.experiments.plan.checks import check_rounds
from nse_plugin.experiments.plan.configuration import composed
from nse_plugin.experiments.plan.model import model_config
from nse_plugin.experiments.plan.presets import check_presets
from nse_plugin.experiments.record import PATCH, SESSION, Record, check_writable
from nse_plugin.experiments.report.collect import record_of, write_run, write_tables
from nse_plugin.experiments.report.page.html import write_report
from nse_plugin.experiments.report.screen import show_table
from nse_plugin.experiments.run import channel
from nse_plugin.experiments.run.follow import Followed, follow
from nse_plugin.experiments.run.worker import PLAN
from nse_plugin.store import Store
from nse_plugin.support.files import written_whole


def compare(*overrides: str, console: Console | None = None) -> pd.DataFrame:
    """Run a comparison from Python. overrides: as on the command line, e.g. "methods=[NSE,MEMIT]", "facts=20".

    Returns the frame of summary.csv: columns method, edits, metric, value, low, high. Raises what `run` raises.
    """
    return run(Plan.from_config(composed("compare", overrides)), console)


def configured_model(name: str) -> ModelChoice:
    """Return the model that `model=<name>` chooses. Raises PlanError."""
    return Plan.from_config(composed("compare", [f"model={name}"])).model


def run(plan: Plan, console: Console | None = None, command: str | None = None) -> pd.DataFrame:
    """Run the methods that are not done yet, and write the tables, run.json and report.html into `plan.out`.

    command: the command line, for the report. Returns the frame of summary.csv. Raises PlanError, DatasetError,
    HyperParamsError, QuestionError, TaskError, JudgeError, GGUFError or StoreError if the plan cannot be run, before
    any model is loaded, and RuntimeError if the unedited model could not be measured. A method that fails is reported
    as a row with its error.
    """
    console = console or Console()
    started = datetime.now(UTC)
    loaded = read_facts(plan.data, plan.facts)
    suite = MetricSuite(plan.metrics, plan.seed, plan.model)
    model_config(plan.model.source)
    check_presets(plan.methods, plan.model)
    for choice in plan.methods.values():
        if choice.alg_name == "NSE":
            check_rounds(loaded.facts, choice.round)
    worked = not all(record_of(plan, name).is_done for name in (BEFORE, *plan.methods))
    if worked:
        suite.check(loaded.facts)
        suite.check_lengths(loaded.facts)
    data = {"path": str(loaded.path), "sha256": loaded.sha256, "facts": plan.facts, "skipped": len(loaded.skipped)}
    asked = {name: inputs.of_method(plan, name, loaded) for name in (BEFORE, *plan.methods)}
    for name in asked:  # nothing is written before all records are checked
        record_of(plan, name).check_for(asked[name])
    _check_kept(plan)
    check_writable(plan.out)
    if plan.store is not None:
        Store(plan.store).check_folder()
    for name in asked:
        record_of(plan, name).open_for(asked[name])
    with written_whole(plan.out / PLAN) as path:
        path.write_text(json.dumps(plan.as_config(), indent=1), encoding="utf-8")

    if not record_of(plan, BEFORE).is_done:
        with follow(console, plan.facts) as followed:
            _run_workers(plan, [BEFORE], followed)
        before = record_of(plan, BEFORE)
        if not before.is_done:
            why = (before.ended or {}).get("error")
            raise RuntimeError(f"the unedited model could not be measured: {why}; see {before.log}.")
    open_ones = [name for name in plan.methods if not record_of(plan, name).is_done]
    with follow(console, plan.facts) as followed:
        for name in plan.methods:
            if name not in open_ones:
                followed.update(name, {"doing": "done before", "edits": plan.facts})
        _run_workers(plan, open_ones, followed)

    summary = write_tables(plan)
    write_run(plan, started, data, command, worked=worked)
    report = write_report(plan.out)
    show_table(console, plan.out)
    for name in plan.methods if plan.save_models else ():
        _say_what_is_kept(console, name, record_of(plan, name))
    console.print(f"Report: {report}", soft_wrap=True)
    return summary


def _check_kept(plan: Plan) -> None:
    """Raise PlanError if edits are to be kept and a method is already done without having kept them."""
    for name in plan.methods if plan.save_models else ():
        record = record_of(plan, name)
        if record.is_done and (record.ended or {}).get("kept") is None:
            raise PlanError(
                f"save_models = true cannot be used: {record.folder} is of a run that is done and kept no edits; "
                "choose another `out`, or delete that folder."
            )


def _say_what_is_kept(console: Console, name: str, record: Record) -> None:
    kept = (record.ended or {}).get("kept")
    if kept is not None:
        text = f"{name}: {record.folder / kept if kept in (SESSION, PATCH) else kept}"
        console.print(text, soft_wrap=True, markup=False, highlight=False)


def _run_workers(plan: Plan, names: list[str], followed: Followed) -> None:
    """Run the named methods, `plan.jobs` at a time, each in its own process."""
    waiting, running = list(names), 0
    news: Queue[tuple[str, dict[str, Any] | None]] = Queue()
    with _Children(plan, news) as children:
        while waiting or running:
            while waiting and running < plan.jobs:
                children.start(waiting.pop(0))
                running += 1
            name, what = news.get()
            if what is None:
                running -= 1
                children.note_death(name)
                what = {"doing": (record_of(plan, name).ended or {})["status"]}
            followed.update(name, what)


class _Children:
    """Context manager of the worker processes, which kills those that are still running on exit."""

    def __init__(self, plan: Plan, news: Queue[tuple[str, dict[str, object] | None]]) -> None:
        self._plan, self._news = plan, news
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        cores = (os.cpu_count() or 1) // min(plan.jobs, len(plan.methods)) or 1
        # A worker's standard error is its log file, which progress bars would fill.
        self._environment = {"OMP_NUM_THREADS": str(cores), **os.environ, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}

    def start(self, name: str) -> None:
        record = record_of(self._plan, name)
        (record.folder / "ended.json").unlink(missing_ok=True)  # left by a failed run
        with record.log.open("a", encoding="utf-8") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "nse_plugin.experiments.run.worker", str(self._plan.out), name],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, env=self._environment,
            )  # fmt: skip
        self._processes[name] = process
        threading.Thread(target=self._listen, args=(name, process), daemon=True).start()

    def note_death(self, name: str) -> None:
        """Wait for the end of a worker process, and record a failure if it was killed before recording its end."""
        record, code = record_of(self._plan, name), self._processes.pop(name).wait()
        if record.ended is None:
            cause = f"signal {-code} (out of memory?)" if code < 0 else f"exit code {code}"
            record.end(status="failed", error=f"its process ended with {cause}; see {record.log}", note=None)

    def _listen(self, name: str, process: subprocess.Popen[Any]) -> None:
        """Put a worker's reports into the queue, followed by None when the worker has ended, whatever happens."""
        try:
            for report in channel.reports(process):
                self._news.put((name, report))
        finally:
            self._news.put((name, None))

    def __enter__(self) -> _Children:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait()
