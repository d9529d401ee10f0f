"""One method of a comparison, in a process of its own: `python -m nse_plugin.experiments.worker <folder> <method>`.

A process of its own, because EasyEdit's methods keep state in module globals and change settings for good: each method
meets the model as it was loaded, its memory is its own, and when it dies the others live. What happens is told on
standard output, a JSON object a line; whatever the methods print goes to standard error.
"""

from __future__ import annotations

import dataclasses
import json
import random
import resource
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from nse_plugin.datasets import load_facts
from nse_plugin.easyedit.evaluator import easyedit_reference, easyedit_scores
from nse_plugin.evaluation.families import Measured, measure
from nse_plugin.evaluation.locality import from_json, locality_reference, to_json
from nse_plugin.evaluation.probability import score_facts
from nse_plugin.evaluation.teacher_forcing import Predictions
from nse_plugin.experiments.plan import BEFORE, EASYEDIT, MethodChoice, Plan
from nse_plugin.experiments.record import Checkpoint, Record
from nse_plugin.facts import Fact
from nse_plugin.home import written_whole
from nse_plugin.models.fingerprint import model_fingerprint
from nse_plugin.models.loading import load

PLAN = "plan.json"
FLUENCY_FACTS = 20
EXPECTED = 0.8  # Efficacy of a working method on the facts it has just written
Tell = Callable[[dict[str, Any]], None]


@dataclasses.dataclass(frozen=True)
class Reference:
    """What the unedited model says, for the metrics that compare with it. easyedit: as its evaluator puts it."""

    locality: Predictions
    easyedit: list[Any]

    def save(self, record: Record) -> None:
        with written_whole(record.folder / "reference.json") as path:
            kept = {"locality": to_json(self.locality), "easyedit": self.easyedit}
            path.write_text(json.dumps(kept), encoding="utf-8")

    @classmethod
    def load(cls, record: Record) -> Reference:
        kept = json.loads((record.folder / "reference.json").read_text(encoding="utf-8"))
        return cls(from_json(kept["locality"]), kept["easyedit"])


def main() -> int:
    folder, name = Path(sys.argv[1]), sys.argv[2]
    told, sys.stdout = sys.stdout, sys.stderr

    def tell(what: dict[str, Any]) -> None:
        print(json.dumps(what), file=told, flush=True)  # fails, and ends this process, when nobody listens any more

    plan = Plan.from_config(json.loads((folder / PLAN).read_text(encoding="utf-8")))
    record = Record(folder / "methods" / name)
    started = time.monotonic()
    try:
        run(plan, name, record, tell)
    except Exception as error:  # a method that fails is a result: its row says why
        traceback.print_exc()
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        record.end(status="failed", error=reason, note=None, seconds=time.monotonic() - started)
        return 1
    return 0


def run(plan: Plan, name: str, record: Record, tell: Tell) -> None:
    """Write the plan's facts with one method, round after round, and measure at the checkpoints."""
    _seed(plan.seed)
    facts = load_facts(
        plan.data.source, limit=plan.facts, skip_bad=plan.data.skip_bad, snippets=plan.data.snippets
    ).facts
    tell({"doing": "loading the model"})
    model, tokenizer = load(plan.model.source, plan.model.dtype, plan.model.device)
    if name == BEFORE:
        _run_before(plan, record, model, tokenizer, facts, tell)
    else:
        _Run(plan, plan.methods[name], record, model, tokenizer, facts, tell).to_the_end()


def _run_before(plan: Plan, record: Record, model: Any, tokenizer: Any, facts: Sequence[Fact], tell: Tell) -> None:
    """Measure the unedited model, and keep what the others are compared with."""
    tell({"doing": "measuring"})
    started = time.monotonic()
    reference = Reference(locality_reference(model, tokenizer, facts), [])
    if EASYEDIT in plan.metrics:
        reference = Reference(reference.locality, easyedit_reference(model, tokenizer, facts))
    reference.save(record)
    measured = _measured(plan, model, tokenizer, facts, reference, edits=None)
    costs = {"seconds": {"measure": time.monotonic() - started}, "peak_memory_mib": _peak_memory(plan)}
    frame = pd.concat([_told(facts), measured.facts], axis="columns")
    record.save(Checkpoint(0, frame, _texts(facts, measured), measured.overall, costs), state=None)
    record.end(status="done", error=None, note=None, weights=model_fingerprint(model))


def _measured(
    plan: Plan, model: Any, tokenizer: Any, facts: Sequence[Fact], reference: Reference, edits: int | None
) -> Measured:
    """The first `edits` facts (None: all) by every family the plan asks for."""
    settings = plan.metrics.get("perplexity", {})
    text = Path(settings["text"]) if settings.get("text") else resources.files("nse_plugin.data") / "held_out.txt"
    measured = measure(
        model,
        tokenizer,
        facts,
        [family for family in plan.metrics if family != EASYEDIT],
        edited=edits,
        reference=reference.locality,
        text=text.read_text(encoding="utf-8"),
        text_tokens=settings.get("tokens"),
        fluency_facts=plan.metrics.get("fluency", {}).get("facts", FLUENCY_FACTS),
        seed=plan.seed,
    )
    if EASYEDIT not in plan.metrics:
        return measured
    own = easyedit_scores(reference.easyedit[:edits], model, tokenizer, facts[:edits])
    overall = {**measured.overall, **{str(name): float(mean) for name, mean in own.mean().dropna().items()}}
    return dataclasses.replace(measured, facts=pd.concat([measured.facts, own], axis="columns"), overall=overall)


class _Run:
    """The rounds of one method, from its last checkpoint on."""

    def __init__(
        self,
        plan: Plan,
        choice: MethodChoice,
        record: Record,
        model: Any,
        tokenizer: Any,
        facts: list[Fact],
        tell: Tell,
    ) -> None:
        from nse_plugin.easyedit.methods import Method, load_hparams, preset_path

        before = Record(record.folder.parent / BEFORE)
        assert before.ended is not None
        if before.ended["weights"] != model_fingerprint(model):
            raise RuntimeError("the model is not the one that was measured before: its weights have changed since.")
        self._plan, self._choice, self._record, self._tell = plan, choice, record, tell
        self._model, self._tokenizer, self._facts = model, tokenizer, facts
        self._reference = Reference.load(before)
        overrides = dict(choice.hparams)
        if choice.alg_name == "NSE":
            overrides.setdefault("store", plan.store)
        preset = Path(choice.preset) if choice.preset.endswith(".yaml") else preset_path(choice.preset, plan.model.name)
        self._hparams = load_hparams(choice.alg_name, preset, overrides, model)
        self._method = Method(model, tokenizer, choice.alg_name, self._hparams)
        self._edited = pd.DataFrame()  # a row per fact edited so far
        self._note: str | None = None
        self._measuring = 0.0  # seconds

    def to_the_end(self) -> None:
        for start in range(self._resumed(), len(self._facts), self._choice.round):
            self._tell({"doing": "editing", "edits": start})
            chunk = self._facts[start : start + self._choice.round]
            frame = self._method.edit(chunk).assign(round=start // self._choice.round + 1)
            self._edited = pd.concat([self._edited, frame], ignore_index=True)
            edits = start + len(chunk)
            if start == 0:
                self._look_at_first_round(chunk)
            if edits in self._plan.checkpoints and edits not in self._record.edits:
                self._tell({"doing": "measuring", "edits": edits})
                self._measure(edits)
        self._tell({"doing": "done", "edits": len(self._facts)})
        self._record.end(status="done", error=None, note=self._note, hparams=_plain(self._hparams))

    def _resumed(self) -> int:
        """Put the method where its last checkpoint left it; returns how many facts are written by then."""
        for edits in reversed(self._record.edits):
            state = self._record.state(edits)
            if state is not None:
                checkpoint = self._record.load(edits)
                self._method.resume(state)
                self._method.seconds.update(checkpoint.costs["seconds"])
                self._measuring = self._method.seconds.pop("measure")
                self._note = checkpoint.costs["note"]
                self._edited = checkpoint.facts[["case_id", "round", "status", "residual"]]
                return edits
        return 0

    def _look_at_first_round(self, facts: Sequence[Fact]) -> None:
        """A method that cannot write a first round is broken here, or ill set: say so beside its figures."""
        efficacy = float(score_facts(self._model, self._tokenizer, facts)["efficacy"].mean())
        if efficacy < EXPECTED:
            self._note = (
                f"Efficacy right after its first round of {len(facts)} was {efficacy:.2f}, where a working method has "
                f"{EXPECTED} or more: its hyperparameters do not fit this model, or it is broken here."
            )

    def _measure(self, edits: int) -> None:
        started = time.monotonic()
        measured = _measured(self._plan, self._model, self._tokenizer, self._facts, self._reference, edits)
        self._measuring += time.monotonic() - started
        rounds = self._edited["round"]
        frame = _told(self._facts[:edits]).assign(round=rounds, age=rounds.max() - rounds)
        frame = pd.concat([frame, measured.facts], axis="columns")
        frame = frame.assign(status=self._edited["status"], residual=self._edited["residual"])
        costs = {
            "seconds": {**self._method.seconds, "measure": self._measuring},
            "peak_memory_mib": _peak_memory(self._plan),
            "note": self._note,
        }
        checkpoint = Checkpoint(edits, frame, _texts(self._facts, measured), measured.overall, costs)
        self._record.save(checkpoint, self._method.state())


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _peak_memory(plan: Plan) -> float:
    """MiB: of the process, or of the GPU's memory where the model is on one."""
    if plan.model.device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(plan.model.device) / 2**20
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def _told(facts: Sequence[Fact]) -> pd.DataFrame:
    fields = {"case_id": "case_id", "prompt": "text", "target_true": "target_true", "target_new": "target_new"}
    frame = pd.DataFrame({name: [getattr(fact, field) for fact in facts] for name, field in fields.items()})
    return frame.assign(case_id=[number if value is None else value for number, value in enumerate(frame["case_id"])])


def _texts(facts: Sequence[Fact], measured: Measured) -> pd.DataFrame:
    told = _told(facts)["case_id"]
    return measured.texts.assign(case_id=told.loc[measured.texts["fact"]].to_numpy())[["case_id", "prompt", "text"]]


def _plain(hparams: Any) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(hparams), default=str))
    return plain


if __name__ == "__main__":
    sys.exit(main())
