"""`nse tune`: NSE's hyperparameters for a model that has no preset, within a time that is given.

Two rounds of successive halving (Jamieson and Talwalkar 2016, arXiv 1502.07943): settings are tried on a few facts, the
better third of them on twice as many, and so on until one is left. First where the value is made, `layers` and `v_lr`,
for which every setting needs its own z; then how it is written, `mom2_update_weight`, `p` and `alpha`, which all read
the same z from the store. What is found is then scored once on facts that played no part in it.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from nse_plugin.experiments.plan import DataChoice, ModelChoice, PlanError
from nse_plugin.experiments.plan.checks import check_rounds
from nse_plugin.experiments.run.cell import OBJECTIVES, CellPlan, cells, check_before, loaded, run_cell
from nse_plugin.facts import Fact
from nse_plugin.facts.files import load_facts
from nse_plugin.hparams import NSEHyperParams
from nse_plugin.hparams.files import preset_text
from nse_plugin.models.frozen import frozen
from nse_plugin.models.layout import Layout
from nse_plugin.models.loading import easyedit_device
from nse_plugin.models.prompts import without_end
from nse_plugin.moments.provider import second_moments
from nse_plugin.support.files import written_whole
from nse_plugin.support.progress import bar, duration
from nse_plugin.support.suggestions import number_of

# Where the published layers begin, as shares of the model's depth, and one further up.
STARTS = (0.05, 0.13, 0.2, 0.28, 0.4)
WIDE = 32  # models of so many layers or more are edited in five of them, others in three
# Said in full, so that nothing comes from a preset that the model may have already.
FIXED: dict[str, Any] = {
    "v_num_grad_steps": 20,
    "mom2_dataset": "self",
    "mom2_n_samples": 128,
    "tokens_per_batch": 8192,
}
CLAMPED_AFTER = 8  # steps of Adam in which the middle v_lr moves delta to where `clamp_norm_factor` stops it
# The most likely value first: when the time is short, the last ones are not tried.
LEARNING_RATES = (1.0, 1 / 3, 3.0)  # of that v_lr
LAMBDAS = (600.0, 2400.0, 150.0, 15000.0)
SHARES = (1.0, 0.8, 0.6)
RESIDUALS = (0.1, 0.2, 0.05)  # alpha, of the norm of the hidden states
FEWEST, MOST, HELD_OUT = 4, 64, 40  # facts of a first rung, of any, and of the last score
KEPT = 3  # one setting of so many goes on
ONLY_FIRST = "only the first guess was tried"
# What takes time, in forward passes of one prompt (as measured on SmolLM2-135M and a CPU): the text for the second
# moments is written and read; a fact's z is optimised, the fact written and scored.
PROMPTS_OF_THE_MOMENTS = 1000
PROMPTS_OF_A_FACT = 40


@dataclass(frozen=True)
class _Trial:
    setting: dict[str, Any]
    score: float
    facts: int


def tune(
    model: ModelChoice,
    facts: str,
    *,
    seconds: float,
    out: Path,
    round_size: int = 10,
    skip_bad: bool = False,
    chat: bool | str = False,
    tell: Callable[[str], None] = lambda line: None,
) -> Path:
    """Find hyperparameters for a model. Returns the YAML they were written to, with how each was found.

    facts: a file or a known name, as `load_facts` reads; skip_bad: leave its malformed records out. seconds: the
    budget. The second moments, one setting of each stage and the last score, on held-out facts, are not cut short: an
    estimate of their time is given first, and the search has the rest. round_size: facts written at a time. chat: where
    they are written, and asked, as `NSEHyperParams.chat` says. tell: called with a line of progress at a time.
    A later run with the same `out` reads what is there. Raises PlanError, and what loading raises.
    """
    end = time.monotonic() + seconds
    available = _enough_facts(facts, skip_bad, round_size)
    held_out = min(HELD_OUT, len(available) // 3)
    data = DataChoice(facts, skip_bad=skip_bad)
    trials = _Trials(model, data, round_size, out, len(available) - held_out, tell, chat)
    any_setting = {"layers": [0], "alpha": 1.0}
    check_before(trials.plan("where-8", any_setting, trials.fewest))
    loaded_model, tokenizer = loaded(model)
    _ = _hidden_norms(loaded_model, tokenizer, available[:1])  # the first forward pass is slower than others
    started = time.monotonic()
    norms = _hidden_norms(loaded_model, tokenizer, available[:FEWEST])
    prompt = (time.monotonic() - started) / FEWEST
    trials.seconds_per_fact = PROMPTS_OF_A_FACT * prompt
    windows = _windows(len(norms))
    places = _places(windows, norms, loaded_model)
    _announce(seconds, PROMPTS_OF_THE_MOMENTS * prompt, trials, held_out, len(places), tell)

    _measure_moments(model, sorted(set(itertools.chain(*windows))), trials.store)
    rates = len(LEARNING_RATES)
    tell(f"where: {number_of(len(places), 'setting')} (windows of layers: {len(windows)}, learning rates: {rates})")
    fixed = {**FIXED, **({"chat": chat} if chat else {}), "mom2_update_weight": 600.0, "p": 1.0}
    now = time.monotonic()
    half = now + (end - held_out * trials.seconds_per_fact - now) / 2
    where = trials.halved("where", [{**fixed, **place} for place in places], half)
    ways = _ways(where[0].setting, norms)
    last = held_out * trials.seconds_per_fact  # as measured by now
    tell(f"how: {number_of(len(ways), 'setting')} (lambda: {len(LAMBDAS)}, p: {len(SHARES)}, alpha: {len(RESIDUALS)})")
    how = trials.halved("how", ways, end - last)

    best = how[0].setting
    tell(f"held-out: scoring the best setting on {held_out} facts, about {duration(last)}")
    score = trials.score("held-out", best, held_out, skip=len(available) - held_out)
    scores = ", ".join(f"{name} {100 * value:.1f}" for name, value in score.items())
    found = [
        f"NSE for {model.name}, found by `nse tune`. On {held_out} facts that played no part in it: {scores}.",
        "score: the harmonic mean of efficacy, generalization and specificity.",
    ]
    if len(where) == len(how) == 1:
        found.append(f"No search: {ONLY_FIRST}. A larger --budget goes on from here.")
        tell(found[-1])
    return _write_preset(model, out, best, found, _reasons(where, how, chat))


def _enough_facts(source: str, skip_bad: bool, round_size: int) -> list[Fact]:
    """The facts to tune on. Raises PlanError when there are too few."""
    available = load_facts(source, skip_bad=skip_bad).facts
    if len(available) < 4 * FEWEST:
        raise PlanError(f"{source} holds {number_of(len(available), 'fact')}: tuning needs {4 * FEWEST} at least.")
    check_rounds(available, round_size)
    return available


def _write_preset(
    model: ModelChoice, out: Path, best: Mapping[str, Any], found: Sequence[str], why: Mapping[str, str]
) -> Path:
    """Write the YAML, with what was found as comments."""
    hparams = NSEHyperParams(**best, model_name=model.source, device=easyedit_device(model.device))
    preset = out / f"{model.name}.yaml"
    with written_whole(preset) as path:
        path.write_text(preset_text(hparams.to_dict(), found, why), encoding="utf-8")
    return preset


def _places(windows: Sequence[list[int]], norms: Sequence[float], model: Any) -> list[dict[str, Any]]:
    """The settings of the first stage: where to edit, and with which learning rate. All windows before another rate."""
    steep = {window[-1]: _rate(norms[window[-1]], model) for window in windows}
    return [
        {"layers": window, "v_lr": _rounded(share * steep[window[-1]]), "alpha": _rounded(0.1 * norms[window[-1]])}
        for share, window in itertools.product(LEARNING_RATES, windows)
    ]


def _ways(chosen: Mapping[str, Any], norms: Sequence[float]) -> list[dict[str, Any]]:
    """The settings of the second stage: how to edit there."""
    return [
        {**chosen, "mom2_update_weight": weight, "p": p, "alpha": _rounded(share * norms[chosen["layers"][-1]])}
        for share, p, weight in itertools.product(RESIDUALS, SHARES, LAMBDAS)
    ]


def _reasons(where: Sequence[_Trial], how: Sequence[_Trial], chat: bool | str) -> dict[str, str]:
    """How each field's value was found."""
    return {
        "layers": _told(where, "layers"), "v_lr": _told(where, "v_lr"),
        "mom2_update_weight": _told(how, "mom2_update_weight"), "p": _told(how, "p"), "alpha": _told(how, "alpha"),
        "v_num_grad_steps": "not tuned", **({"chat": "as given; the facts were asked likewise"} if chat else {}),
    }  # fmt: skip


def _announce(
    budget: float, moments: float, trials: _Trials, held_out: int, settings: int, tell: Callable[[str], None]
) -> None:
    """Say what the budget must hold in any case, and what a search takes."""
    setting, last = trials.fewest * trials.seconds_per_fact, held_out * trials.seconds_per_fact
    needed = moments + setting + last
    tell(
        f"Budget: {duration(budget)}. This cannot be cut short, about {duration(needed)}: the second moments where "
        f"they are not kept yet ({duration(moments)}), a setting on {trials.fewest} facts ({duration(setting)}), the "
        f"last score on {held_out} held-out facts ({duration(last)})."
    )
    if budget < needed + setting:
        search = duration(needed + 2 * settings * setting)
        tell(
            f"That leaves no time for a search: only the first guess is tried; among all {settings} it would take "
            f"about {search}."
        )


class _Trials:
    """Settings tried as cells of a sweep, a folder for every number of facts."""

    def __init__(
        self,
        model: ModelChoice,
        data: DataChoice,
        size: int,
        out: Path,
        available: int,
        tell: Callable[[str], None],
        chat: bool | str = False,
    ) -> None:
        self._model, self._data, self._size, self._out, self._tell = model, data, size, out, tell
        self._metrics: dict[str, dict[str, Any]] = {"probability": {"chat": chat} if chat else {}}
        self._available = available
        self.store = str(out / "store")
        self.seconds_per_fact = 0.0  # of a setting whose z are not there yet: an estimate until the first was tried

    @property
    def fewest(self) -> int:
        """The facts of the first rung."""
        return min(FEWEST * 2, self._available)

    def halved(self, stage: str, settings: Sequence[dict[str, Any]], deadline: float) -> list[_Trial]:
        """All settings, the best first: those that went further before those that did not."""
        started, count = time.monotonic(), self.fewest
        going, out_of_it = list(settings), list[_Trial]()
        while True:
            rung = self._rung(stage, going, count, deadline)
            if len(rung) < len(going):
                only = f"; {ONLY_FIRST}" if len(rung) == 1 else ""
                self._tell(f"{stage}: out of time after {len(rung)} of {len(going)} settings on {count} facts{only}")
            rung.sort(key=lambda trial: trial.score, reverse=True)
            if rung[0].score == 0.0:
                raise PlanError(f"{stage}: every setting scored 0 on {count} facts; {self._why(stage, count)}")
            self._tell(
                f"{stage}: best of {len(rung)} on {count} facts: {rung[0].setting}, score {100 * rung[0].score:.1f}"
            )
            kept = math.ceil(len(rung) / KEPT)
            taken = time.monotonic() - started
            more = min(2 * count, MOST, self._available)
            enough = kept == 1 and len(rung) == 1
            if enough or more == count or time.monotonic() + taken * kept * more / (len(rung) * count) > deadline:
                return [*rung, *reversed(out_of_it)]
            out_of_it += reversed(rung[kept:])
            going, count, started = [trial.setting for trial in rung[:kept]], more, time.monotonic()

    def _rung(self, stage: str, settings: Sequence[dict[str, Any]], count: int, deadline: float) -> list[_Trial]:
        """The settings, in their order, on `count` facts: the first in any case, the rest while there is time."""
        rung: list[_Trial] = []
        left = duration(max(0.0, deadline - time.monotonic()))
        with bar(f"{stage}: settings on {count} facts, {left} at most", len(settings)) as advance:
            for setting in settings:
                if rung and time.monotonic() > deadline:
                    break
                rung.append(_Trial(setting, self.score(f"{stage}-{count}", setting, count)["score"], count))
                advance(1)
        return rung

    def _why(self, stage: str, count: int) -> str:
        errors = [(record.ended or {}).get("error") for record in cells(self._out / f"{stage}-{count}")]
        told = [error for error in errors if error]
        return f"the first: {told[0]}" if told else "their rephrase and locality prompts are needed, and other layers."

    def score(self, folder: str, setting: dict[str, Any], facts: int, skip: int = 0) -> dict[str, float]:
        """Efficacy, Generalization, Specificity and score of a setting; zeros where it cannot be run."""
        checkpoint = run_cell(self.plan(folder, setting, facts, skip))
        if checkpoint is not None and not checkpoint.costs["values_from_store"]:
            seconds = checkpoint.costs["seconds"]
            self.seconds_per_fact = sum(seconds[part] for part in ("values", "update", "measure")) / facts
        overall = {} if checkpoint is None else checkpoint.overall
        return {name: overall.get(name, 0.0) for name in OBJECTIVES}

    def plan(self, folder: str, setting: dict[str, Any], facts: int, skip: int = 0) -> CellPlan:
        """A cell of so many facts."""
        return CellPlan(
            model=self._model, data=replace(self._data, skip=skip), metrics=self._metrics, nse=setting,
            preset=None, facts=facts, round=self._size, seed=0, store=self.store, objective=("score",),
            out=self._out / folder,
        )  # fmt: skip


def _windows(layers: int) -> list[list[int]]:
    """Consecutive layers to edit, in the first half of a model."""
    width = 5 if layers >= WIDE else 3
    starts = sorted({min(round(start * layers), layers - width - 1) for start in STARTS})
    return [list(range(start, start + width)) for start in starts if start >= 0]


def _measure_moments(model: ModelChoice, layers: list[int], store: str) -> None:
    """C0 of all layers that will be tried, into the store: one pass over the text serves them all."""
    edited, tokenizer = loaded(model)
    wanted = NSEHyperParams(layers=layers, alpha=1.0, store=store, **FIXED)
    second_moments(Layout.of(edited, wanted.rewrite_module_tmp), tokenizer, wanted)


@torch.inference_mode()
def _hidden_norms(model: Any, tokenizer: Any, facts: Sequence[Fact]) -> list[float]:
    """The mean norm of every layer's output at the prompts' last token."""
    norms = torch.zeros(len(Layout.of(model).layers), dtype=torch.float64)
    device = model.get_input_embeddings().weight.device
    with frozen(model):
        for fact in facts:
            ids = torch.tensor([without_end(tokenizer, fact.text)], device=device)
            states = model(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states[1:]
            norms += torch.stack([state[0, -1].double().norm() for state in states]).cpu()
    return (norms / len(facts)).tolist()


def _rate(norm: float, model: Any) -> float:
    """The v_lr that moves delta to its bound in `CLAMPED_AFTER` steps: Adam moves every coordinate by v_lr."""
    clamp = NSEHyperParams(layers=[0], alpha=1.0).clamp_norm_factor
    return clamp * norm / (CLAMPED_AFTER * math.sqrt(Layout.of(model).hidden_size))


def _rounded(value: float) -> float:
    return float(f"{value:.2g}")


def _told(trials: Sequence[_Trial], field: str) -> str:
    """How the value of a field was found: the best score of every value, on as many facts as it came to."""
    best: dict[str, _Trial] = {}
    for trial in trials:
        best.setdefault(str(trial.setting[field]), trial)
    told = [f"{value}: {100 * trial.score:.1f} on {trial.facts}" for value, trial in best.items()]
    return f"best score of each value, and on how many facts: {'; '.join(told)}"
