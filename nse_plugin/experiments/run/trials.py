"""Successive halving: try settings on more and more facts, and keep the better ones."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nse_plugin.experiments.plan import DataChoice, ModelChoice, PlanError
from nse_plugin.experiments.run.cell import OBJECTIVES, CellPlan, cells, run_cell
from nse_plugin.support.progress import bar, duration

FEWEST, MOST = 4, 64  # half the facts of the first rung; most facts of any rung
KEPT = 3  # one in this many settings is kept
ONLY_FIRST = "only the first guess was tried"


@dataclass(frozen=True)
class Trial:
    """A setting and its score on a number of facts."""

    setting: dict[str, Any]
    score: float
    facts: int


class Trials:
    """Try settings as cells of sweeps, with one folder for each stage and number of facts."""

    def __init__(
        self,
        model: ModelChoice,
        data: DataChoice,
        size: int,
        out: Path,
        available: int,
        report_progress: Callable[[str], None],
        chat: bool | str = False,
    ) -> None:
        self._model, self._data, self._size, self._out, self._report_progress = model, data, size, out, report_progress
        self._metrics: dict[str, dict[str, Any]] = {"probability": {"chat": chat} if chat else {}}
        self._available = available
        self.store = str(out / "store")
        self.seconds_per_fact = 0.0  # for a setting whose z are not stored yet; an estimate until one was tried

    @property
    def fewest(self) -> int:
        """Number of facts on the first rung."""
        return min(FEWEST * 2, self._available)

    def halved(self, stage: str, settings: Sequence[dict[str, object]], deadline: float) -> list[Trial]:
        """Try settings by successive halving until `deadline`. Returns the last trial of each setting, best first;
        settings tried on more facts come before others. A setting is left out if there was no time for it on the
        first rung. Raises PlanError if every setting of a rung scored 0."""
        started, count = time.monotonic(), self.fewest
        going, before, others = list(settings), list[Trial](), list[Trial]()
        while True:
            rung = self._rung(stage, going, count, deadline)
            others += before[len(rung) :]
            if len(rung) < len(going):
                only = f"; {ONLY_FIRST}" if len(rung) == 1 else ""
                self._report_progress(
                    f"{stage}: out of time after {len(rung)} of {len(going)} settings on {count} facts{only}"
                )
            rung.sort(key=lambda trial: trial.score, reverse=True)
            if rung[0].score == 0.0:
                raise PlanError(f"{stage}: every setting scored 0 on {count} facts; {self._why(stage, count)}")
            self._report_progress(
                f"{stage}: best of {len(rung)} on {count} facts: {rung[0].setting}, score {100 * rung[0].score:.1f}"
            )
            kept = math.ceil(len(rung) / KEPT)
            taken = time.monotonic() - started
            more = min(2 * count, MOST, self._available)
            enough = kept == 1 and len(rung) == 1
            if enough or more == count or time.monotonic() + taken * kept * more / (len(rung) * count) > deadline:
                return sorted([*rung, *others], key=lambda trial: (trial.facts, trial.score), reverse=True)
            others += rung[kept:]
            before, going = rung[:kept], [trial.setting for trial in rung[:kept]]
            count, started = more, time.monotonic()

    def _rung(self, stage: str, settings: Sequence[dict[str, object]], count: int, deadline: float) -> list[Trial]:
        """Try the settings in order on `count` facts: the first in any case, the rest while there is time."""
        rung: list[Trial] = []
        left = duration(max(0.0, deadline - time.monotonic()))
        with bar(f"{stage}: settings on {count} facts, {left} at most", len(settings)) as advance:
            for setting in settings:
                if rung and time.monotonic() > deadline:
                    break
                rung.append(Trial(setting, self.score(f"{stage}-{count}", setting, count)["score"], count))
                advance(1)
        return rung

    def _why(self, stage: str, count: int) -> str:
        errors = [(record.ended or {}).get("error") for record in cells(self._out / f"{stage}-{count}")]
        reasons = [error for error in errors if error]
        return (
            f"the first: {reasons[0]}"
            if reasons
            else "their rephrase and locality prompts are needed, and other layers."
        )

    def score(self, folder: str, setting: dict[str, object], facts: int, skip: int = 0) -> dict[str, float]:
        """Return efficacy, generalization, specificity and score of a setting; zeros if it cannot be run."""
        checkpoint = run_cell(self.plan(folder, setting, facts, skip))
        if checkpoint is not None and not checkpoint.costs["values_from_store"]:
            seconds = checkpoint.costs["seconds"]
            self.seconds_per_fact = sum(seconds[part] for part in ("values", "update", "measure")) / facts
        overall = {} if checkpoint is None else checkpoint.overall
        return {name: overall.get(name, 0.0) for name in OBJECTIVES}

    def plan(self, folder: str, setting: dict[str, object], facts: int, skip: int = 0) -> CellPlan:
        """Return the plan of a cell with `facts` facts, after the first `skip` of them."""
        return CellPlan(
            model=self._model, data=replace(self._data, skip=skip), metrics=self._metrics, nse=setting,
            preset=None, facts=facts, round=self._size, seed=0, store=self.store, objective=("score",),
            out=self._out / folder,
        )  # fmt: skip
