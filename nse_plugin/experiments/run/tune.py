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
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from nse_plugin.experiments.plan import DataChoice, ModelChoice, PlanError
from nse_plugin.experiments.plan.checks import check_rounds
from nse_plugin.experiments.run.cell import check_before, loaded
from nse_plugin.experiments.run.trials import FEWEST, ONLY_FIRST, Trial, Trials
from nse_plugin.facts import Fact
from nse_plugin.facts.files import load_facts
from nse_plugin.hparams import NSEHyperParams
from nse_plugin.hparams.files import preset_text
from nse_plugin.models.frozen import frozen
from nse_plugin.models.inputs import input_device
from nse_plugin.models.layout import Layout
from nse_plugin.models.loading import easyedit_device
from nse_plugin.models.prompts import without_end
from nse_plugin.moments.provider import second_moments
from nse_plugin.support.files import written_whole
from nse_plugin.support.progress import duration
from nse_plugin.support.suggestions import number_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Where the published layers begin, as shares of the model's depth, and one further up.
STARTS = (0.05, 0.13, 0.2, 0.28, 0.4)
WIDE = 32  # models of this many layers or more are edited in five of them, others in three
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
HELD_OUT = 40  # facts of the last score
# What takes time, in forward passes of one prompt (as measured on SmolLM2-135M and a CPU): the text for the second
# moments is written and read; a fact's z is optimised, the fact written and scored.
PROMPTS_OF_THE_MOMENTS = 1000
PROMPTS_OF_A_FACT = 40


def tune(
    model: ModelChoice,
    facts: str,
    *,
    seconds: float,
    out: Path,
    round_size: int = 10,
    skip_bad: bool = False,
    chat: bool | str = False,
    report_progress: Callable[[str], None] = lambda line: None,
) -> Path:
    """Find hyperparameters for a model. Returns the YAML they were written to, with how each was found.

    facts: a file or a known name, as `load_facts` reads; skip_bad: leave its malformed records out. seconds: the
    budget. The second moments, one setting of each stage and the last score, on held-out facts, are not cut short: an
    estimate of their time is given first, and the search has the rest. round_size: facts written at a time. chat: where
    they are written, and asked, as in `NSEHyperParams.chat`. report_progress: called with one line at a time.
    A later run with the same `out` reads what is there. Raises PlanError, and what loading raises.
    """
    end = time.monotonic() + seconds
    available = _enough_facts(facts, skip_bad, round_size)
    held_out = min(HELD_OUT, len(available) // 3)
    data = DataChoice(facts, skip_bad=skip_bad)
    trials = Trials(model, data, round_size, out, len(available) - held_out, report_progress, chat)
    any_setting = {"layers": [0], "alpha": 1.0}
    check_before(trials.plan("where-8", any_setting, trials.fewest))
    loaded_model, tokenizer = loaded(model)
    norms, prompt = _norms_and_seconds(loaded_model, tokenizer, available[:FEWEST])
    trials.seconds_per_fact = PROMPTS_OF_A_FACT * prompt
    windows = _windows(len(norms))
    places = _places(windows, norms, loaded_model)
    _announce(seconds, PROMPTS_OF_THE_MOMENTS * prompt, trials, held_out, len(places), report_progress)

    _measure_moments(model, sorted(set(itertools.chain(*windows))), trials.store)
    rates = len(LEARNING_RATES)
    report_progress(
        f"where: {number_of(len(places), 'setting')} (windows of layers: {len(windows)}, learning rates: {rates})"
    )
    fixed = {**FIXED, **({"chat": chat} if chat else {}), "mom2_update_weight": 600.0, "p": 1.0}
    now = time.monotonic()
    half = now + (end - held_out * trials.seconds_per_fact - now) / 2
    where = trials.halved("where", [{**fixed, **place} for place in places], half)
    ways, last = _ways(where[0].setting, norms), held_out * trials.seconds_per_fact  # as measured by now
    report_progress(
        f"how: {number_of(len(ways), 'setting')} (lambda: {len(LAMBDAS)}, p: {len(SHARES)}, alpha: {len(RESIDUALS)})"
    )
    how = trials.halved("how", ways, end - last)

    best = how[0].setting
    report_progress(f"held-out: scoring the best setting on {held_out} facts, about {duration(last)}")
    score = trials.score("held-out", best, held_out, skip=len(available) - held_out)
    scores = ", ".join(f"{name} {100 * value:.1f}" for name, value in score.items())
    found = [
        f"NSE for {model.name}, found by `nse tune`. On {held_out} facts that played no part in it: {scores}.",
        "score: the harmonic mean of efficacy, generalization and specificity.",
    ]
    if len(where) == len(how) == 1:
        found.append(f"No search: {ONLY_FIRST}. A larger --budget goes on from here.")
        report_progress(found[-1])
    return _write_preset(model, out, best, found, _reasons(where, how, chat))


def _norms_and_seconds(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, facts: Sequence[Fact]
) -> tuple[list[float], float]:
    """The hidden norms by layer, and the seconds that one prompt takes."""
    _ = _hidden_norms(model, tokenizer, facts[:1])  # the first forward pass is slower than others
    started = time.monotonic()
    norms = _hidden_norms(model, tokenizer, facts)
    return norms, (time.monotonic() - started) / len(facts)


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


def _places(windows: Sequence[list[int]], norms: Sequence[float], model: nn.Module) -> list[dict[str, Any]]:
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


def _reasons(where: Sequence[Trial], how: Sequence[Trial], chat: bool | str) -> dict[str, str]:
    """How each field's value was found."""
    return {
        "layers": _told(where, "layers"), "v_lr": _told(where, "v_lr"),
        "mom2_update_weight": _told(how, "mom2_update_weight"), "p": _told(how, "p"), "alpha": _told(how, "alpha"),
        "v_num_grad_steps": "not tuned", **({"chat": "as given; the facts were asked likewise"} if chat else {}),
    }  # fmt: skip


def _announce(
    budget: float, moments: float, trials: Trials, held_out: int, settings: int, report_progress: Callable[[str], None]
) -> None:
    """Say what the budget must hold in any case, and what a search takes."""
    setting, last = trials.fewest * trials.seconds_per_fact, held_out * trials.seconds_per_fact
    needed = moments + setting + last
    report_progress(
        f"Budget: {duration(budget)}. This cannot be cut short, about {duration(needed)}: the second moments where "
        f"they are not kept yet ({duration(moments)}), a setting on {trials.fewest} facts ({duration(setting)}), the "
        f"last score on {held_out} held-out facts ({duration(last)})."
    )
    if budget < needed + setting:
        search = duration(needed + 2 * settings * setting)
        report_progress(
            f"There is no time for a search: only the first guess is tried; among all {settings} it would take "
            f"about {search}."
        )


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
def _hidden_norms(model: nn.Module, tokenizer: PreTrainedTokenizerBase, facts: Sequence[Fact]) -> list[float]:
    """The mean norm of every layer's output at the prompts' last token."""
    norms = torch.zeros(len(Layout.of(model).layers), dtype=torch.float64)
    device = input_device(model)
    with frozen(model):
        for fact in facts:
            ids = torch.tensor([without_end(tokenizer, fact.text)], device=device)
            states = model(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states[1:]
            norms += torch.stack([state[0, -1].double().norm() for state in states]).cpu()
    return (norms / len(facts)).tolist()


def _rate(norm: float, model: nn.Module) -> float:
    """The v_lr that moves delta to its bound in `CLAMPED_AFTER` steps: Adam moves every coordinate by v_lr."""
    clamp = NSEHyperParams(layers=[0], alpha=1.0).clamp_norm_factor
    return clamp * norm / (CLAMPED_AFTER * math.sqrt(Layout.of(model).hidden_size))


def _rounded(value: float) -> float:
    return float(f"{value:.2g}")


def _told(trials: Sequence[Trial], field: str) -> str:
    """How the value of a field was found: the best score of every value, on as many facts as it came to."""
    best: dict[str, Trial] = {}
    for trial in trials:
        best.setdefault(str(trial.setting[field]), trial)
    scores = [f"{value}: {100 * trial.score:.1f} on {trial.facts}" for value, trial in best.items()]
    return f"best score of each value, and on how many facts: {'; '.join(scores)}"
