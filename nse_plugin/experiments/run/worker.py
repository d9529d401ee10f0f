"""One method of a comparison, in its own process: `python -m nse_plugin.experiments.run.worker <folder> <method>`.

Each method has its own process because EasyEdit's methods keep state in module globals and change settings permanently.
So each method gets a freshly loaded model and its own memory, and its crash does not affect other methods. Progress
goes to standard output (`channel`); output of the methods goes to standard error.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import random
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from nse_plugin.evaluation.metrics.chat import Chat
from nse_plugin.evaluation.suite import measure
from nse_plugin.experiments.measure.reference import Reference
from nse_plugin.experiments.measure.suite import MetricSuite, facts_frame, measure_before, peak_memory, written_texts
from nse_plugin.experiments.plan import BEFORE, MethodChoice, Plan, inputs, preset_of, read_facts
from nse_plugin.experiments.record import Checkpoint, Record
from nse_plugin.experiments.run import channel
from nse_plugin.experiments.run.locks import alone
from nse_plugin.facts import Fact
from nse_plugin.hparams import NSEHyperParams
from nse_plugin.models.chat import BOTH
from nse_plugin.models.identity import ModelIdentity
from nse_plugin.models.loading import easyedit_device, load
from nse_plugin.support.progress import progress_listener
from nse_plugin.support.suggestions import in_a_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLAN = "plan.json"
MOMENTS = "second moments"  # beginning of the description of their progress
EXPECTED = 0.8  # Efficacy of a working method on the facts it has just written
ReportProgress = Callable[[dict[str, Any]], None]


def main() -> int:
    """Run the method named on the command line. Returns 0, or 1 if it failed."""
    folder, name = Path(sys.argv[1]), sys.argv[2]
    report_progress = functools.partial(channel.report, channel.own_output())
    plan = Plan.from_config(json.loads((folder / PLAN).read_text(encoding="utf-8")))
    record = Record(folder / "methods" / name)
    # Another run may use this folder, or one whose parent was killed, which ends when it next has something to report.
    with alone(record.folder / "lock", lambda: report_progress({"doing": "waiting for another run on this folder"})):
        return _run_and_note(plan, name, record, report_progress)


def _run_and_note(plan: Plan, name: str, record: Record, report_progress: ReportProgress) -> int:
    if record.is_done:  # by the other process
        return 0
    started = time.monotonic()
    try:
        run(plan, name, record, report_progress)
    except BrokenPipeError:  # the parent has ended: a stopped run is not a result
        return 1
    except Exception as error:  # a failed method is a result: its row shows the error
        traceback.print_exc()
        record.end(status="failed", error=in_a_line(error), note=None, seconds=time.monotonic() - started)
        return 1
    return 0


def run(plan: Plan, name: str, record: Record, report_progress: ReportProgress) -> None:
    """Write the plan's facts with one method, round by round, and measure at the checkpoints; or measure the unedited
    model if `name` is `plan.BEFORE`."""
    _seed(plan.seed)
    loaded = read_facts(plan.data, plan.facts)
    asked = inputs.of_method(plan, name, loaded)
    record.check_for(asked, begun=True)  # the files may have changed since the run was planned, hours ago
    record.open_for(asked)
    facts = loaded.facts
    report_progress({"doing": "loading the model"})
    model, tokenizer = load(plan.model.source, plan.model.dtype, plan.model.device)
    if name == BEFORE:
        report_progress({"doing": "measuring"})
        measure_before(MetricSuite(plan.metrics, plan.seed, plan.model), record, model, tokenizer, facts)
    else:
        _Run(plan, plan.methods[name], record, model, tokenizer, facts, report_progress).to_the_end()


class _Run:
    """Run the rounds of one method, starting at its last checkpoint."""

    def __init__(
        self,
        plan: Plan,
        choice: MethodChoice,
        record: Record,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        facts: list[Fact],
        report_progress: ReportProgress,
    ) -> None:
        from nse_plugin.baselines.hparams import load_hparams
        from nse_plugin.baselines.runner import EasyEditRunner
        from nse_plugin.experiments.run.keeping import KeptEdits

        before = Record(record.folder.parent / BEFORE)
        assert before.ended is not None
        if before.ended["weights"] != ModelIdentity(model).full():
            raise RuntimeError("the model is not the one that was measured before: its weights have changed since.")
        self._plan, self._choice, self._record, self._report_progress = plan, choice, record, report_progress
        self._model, self._tokenizer, self._facts = model, tokenizer, facts
        self._reference = Reference.load(before)
        self._suite = MetricSuite(plan.metrics, plan.seed, plan.model)
        _ = self._suite.instruments, self._suite.text  # read their files now, not hours later
        overrides = dict(choice.hparams)
        if choice.alg_name == "NSE":
            own = {"seed": plan.seed} if plan.store is None else {"seed": plan.seed, "store": plan.store}
            overrides = {**own, **overrides}
        preset = preset_of(choice, plan.model)
        if preset is None:
            self._hparams = NSEHyperParams.for_model(
                model, **{"model_name": plan.model.source, **overrides, "device": easyedit_device(plan.model.device)}
            )
        else:
            self._hparams = load_hparams(choice.alg_name, preset, overrides, model)
        self._method = EasyEditRunner(model, tokenizer, choice.alg_name, self._hparams, plan.seed, plan.store)
        self._kept = KeptEdits(record.folder, self._method, tokenizer, plan.model) if plan.save_models else None
        self._edited = pd.DataFrame()  # one row per fact edited so far
        self._note: str | None = None
        self._measuring = 0.0  # seconds of measuring

    def to_the_end(self) -> None:
        resumed = self._resumed()
        if self._kept is not None:
            self._kept.begin(anew=resumed == 0)
        for start in range(resumed, len(self._facts), self._choice.round):
            self._report_progress({"doing": "editing", "edits": start})
            chunk = self._facts[start : start + self._choice.round]
            with progress_listener(functools.partial(self._on_progress, start)):
                frame = self._method.edit(chunk)
            if self._kept is not None:
                self._kept.add_round()
            frame = frame.assign(round=start // self._choice.round + 1)
            self._edited = pd.concat([self._edited, frame], ignore_index=True)
            edits = start + len(chunk)
            if start == 0:
                self._look_at_first_round(chunk)
            if edits in self._plan.checkpoints and edits not in self._record.edits:
                self._report_progress({"doing": "measuring", "edits": edits})
                self._measure(edits)
        self._report_progress({"doing": "done", "edits": len(self._facts)})
        notes = [self._note] if self._note else []
        if self._method.values_from_store:
            count = self._method.values_from_store
            notes.append(f"{count} of its values z came out of the store: its seconds do not hold them.")
        note, hparams = " ".join(notes) or None, _json_fields(self._hparams)
        kept = None if self._kept is None else self._kept.finish(self._facts, hparams)
        self._record.end(status="done", error=None, note=note, hparams=hparams, kept=kept)

    def _resumed(self) -> int:
        """Restore the method from its last checkpoint, and return how many facts had been written. A method whose state
        cannot be saved starts anew unless all facts had been written; so does a method whose edits are to be kept but
        were not, e.g. because `save_models` is new."""
        for edits in reversed(self._record.edits):
            state = self._record.state(edits)
            if state is not None and self._kept is not None and not self._kept.leads_to(state):
                continue
            if state is not None or edits == len(self._facts):
                checkpoint = self._record.load(edits)
                if state is not None:
                    with progress_listener(functools.partial(self._on_progress, edits)):
                        self._method.resume(state)
                self._method.seconds.update(checkpoint.costs["seconds"])
                self._measuring = self._method.seconds.pop("measure")
                self._note = checkpoint.costs["note"]
                self._method.values_from_store = checkpoint.costs["values_from_store"]
                self._edited = checkpoint.facts[["case_id", "round", "status", "residual"]]
                return edits
        return 0

    def _on_progress(self, edits: int, what: str | None) -> None:
        """Report the measuring of second moments without `edits`: it is done once per model, and not part of the
        estimated time."""
        if what is None:
            self._report_progress({"doing": "editing", "edits": edits})
        elif what.startswith(MOMENTS):
            self._report_progress({"doing": f"measuring {what.rpartition(',')[0]}"})

    def _look_at_first_round(self, facts: Sequence[Fact]) -> None:
        """Measure the first round: a method that cannot write it is broken here or badly configured; note that."""
        compared = all(fact.target_true is not None for fact in facts)
        family, metric = ("probability", "efficacy") if compared else ("accuracy", "rewrite_accuracy")
        template = getattr(self._hparams, "chat", False)
        if template not in (False, BOTH):  # facts written only in a chat are asked in a chat
            family, metric = "chat", "chat_first_token"
        chat = Chat(template if isinstance(template, str) else None, facts=0)
        rounds = [1] * len(facts)
        found = measure(self._model, self._tokenizer, facts, [family], rounds=rounds, chat=chat).overall[metric]
        if found < EXPECTED:
            self._note = (
                f"{metric} right after its first round of {len(facts)} was {found:.2f}, where a working method has "
                f"{EXPECTED} or more: its hyperparameters do not fit this model, or it is broken here."
            )

    def _measure(self, edits: int) -> None:
        started = time.monotonic()
        rounds = self._edited["round"]
        measured, tables = self._suite.measure(
            self._model, self._tokenizer, self._facts, self._reference, rounds.tolist()
        )
        self._measuring += time.monotonic() - started
        frame = facts_frame(self._facts[:edits]).assign(round=rounds, age=rounds.max() - rounds)
        frame = pd.concat([frame, measured.facts], axis="columns")
        frame = frame.assign(status=self._edited["status"], residual=self._edited["residual"])
        costs = {
            "seconds": {**self._method.seconds, "measure": self._measuring},
            "peak_memory_mib": peak_memory(self._plan.model.device),
            "note": self._note,
            "values_from_store": self._method.values_from_store,
        }
        checkpoint = Checkpoint(edits, frame, written_texts(self._facts, measured), measured.overall, costs, tables)
        self._record.save(checkpoint, self._method.state())


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _json_fields(hparams: Any) -> dict[str, object]:
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(hparams), default=str))
    return plain


if __name__ == "__main__":
    sys.exit(main())
