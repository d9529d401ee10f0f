"""`nse tune`: find NSE's hyperparameters for a model that has no preset, within a given time.

Two stages of successive halving (Jamieson and Talwalkar 2016, arXiv 1502.07943): settings are tried on a few facts, the
best third of them on twice as many, and so on until one is left. The first stage tunes where values are computed,
`layers` and `v_lr`, for which every setting needs its own z; the second tunes how they are written,
`mom2_update_weight`, `p` and `alpha`, for which all settings read the same z from the store. The best setting is then
scored once on facts that were not used in the search.
"""

from __future__ import annotations

import itertools
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
from nse_plugin.hparams.proposed import START, proposed_alpha, proposed_layers, proposed_rate, rounded, width
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

# First edited layers, as shares of the model's depth: those of published settings, and a later one.
STARTS = (0.05, START, 0.2, 0.28, 0.4)
# Given explicitly, so that nothing comes from a preset that the model may already have.
FIXED: dict[str, Any] = {
    "v_num_grad_steps": 20,
    "mom2_dataset": "self",
    "mom2_n_samples": 128,
    "tokens_per_batch": 8192,
}
# The most likely values come first: if time is short, the last ones are not tried.
LEARNING_RATES = (1.0, 1 / 3, 3.0)  # factors of the middle v_lr
LAMBDAS = (600.0, 2400.0, 150.0, 15000.0)
SHARES = (1.0, 0.8, 0.6)
RESIDUALS = (0.1, 0.2, 0.05)  # alpha, as shares of the norm of the hidden states
HELD_OUT = 40  # facts on which the best setting is scored
# Costs, in forward passes of one prompt (measured with SmolLM2-135M on a CPU): generating and reading the text for the
# second moments; optimising a fact's z, writing the fact and scoring it.
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
    """Find hyperparameters for a model, and write them to a YAML file, with comments on how each was found. Returns the
    path of the file.

    facts: a file or a known name, as for `load_facts`. skip_bad: skip malformed records. seconds: the budget. The
    second moments, one setting of each stage and the final score on held-out facts are never cut short: their time is
    estimated and reported first, and the search has the rest. round_size: facts written at a time. chat: whether facts
    are written and asked in a chat, as in `NSEHyperParams.chat`. report_progress: called with one line at a time.
    A later run with the same `out` reuses the existing results. Raises PlanError, and whatever loading raises.
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
    kinds = f"windows of layers: {len(windows)}, learning rates: {rates}"
    report_progress(f"where: {number_of(len(places), 'setting')} ({kinds})")
    fixed = {**FIXED, **({"chat": chat} if chat else {}), "mom2_update_weight": 600.0, "p": 1.0}
    now = time.monotonic()
    half = now + (end - held_out * trials.seconds_per_fact - now) / 2
    where = trials.halved("where", [{**fixed, **place} for place in places], half)
    ways, last = _ways(where[0].setting, norms), held_out * trials.seconds_per_fact  # with the seconds measured so far
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
    """Return the hidden norms by layer, and the seconds that one prompt takes."""
    _ = _hidden_norms(model, tokenizer, facts[:1])  # warm-up: the first forward pass is slower
    started = time.monotonic()
    norms = _hidden_norms(model, tokenizer, facts)
    return norms, (time.monotonic() - started) / len(facts)


def _enough_facts(source: str, skip_bad: bool, round_size: int) -> list[Fact]:
    """Read the facts to tune on. Raises DatasetError, or PlanError if there are too few or NSE refuses a round."""
    available = load_facts(source, skip_bad=skip_bad).facts
    if len(available) < 4 * FEWEST:
        raise PlanError(f"{source} holds {number_of(len(available), 'fact')}: tuning needs {4 * FEWEST} at least.")
    check_rounds(available, round_size)
    return available


def _write_preset(
    model: ModelChoice, out: Path, best: Mapping[str, Any], found: Sequence[str], why: Mapping[str, str]
) -> Path:
    """Write the YAML file. found: comments at its beginning. why: comments by field."""
    hparams = NSEHyperParams(**best, model_name=model.source, device=easyedit_device(model.device))
    preset = out / f"{model.name}.yaml"
    with written_whole(preset) as path:
        path.write_text(preset_text(hparams.to_dict(), found, why), encoding="utf-8")
    return preset


def _places(windows: Sequence[list[int]], norms: Sequence[float], model: nn.Module) -> list[dict[str, Any]]:
    """Return the settings of the first stage: where to edit and with which learning rate, one rate after the other."""
    clamp, size = NSEHyperParams(layers=[0], alpha=1.0).clamp_norm_factor, Layout.of(model).hidden_size
    steep = {window[-1]: proposed_rate(norms[window[-1]], size, clamp) for window in windows}
    return [
        {"layers": window, "v_lr": rounded(share * steep[window[-1]]), "alpha": proposed_alpha(norms[window[-1]])}
        for share, window in itertools.product(LEARNING_RATES, windows)
    ]


def _ways(chosen: Mapping[str, Any], norms: Sequence[float]) -> list[dict[str, Any]]:
    """Return the settings of the second stage: how to write, with the layers and v_lr that were chosen."""
    return [
        {**chosen, "mom2_update_weight": weight, "p": p, "alpha": rounded(share * norms[chosen["layers"][-1]])}
        for share, p, weight in itertools.product(RESIDUALS, SHARES, LAMBDAS)
    ]


def _reasons(where: Sequence[Trial], how: Sequence[Trial], chat: bool | str) -> dict[str, str]:
    """Return how the value of each field was found, by field."""
    return {
        "layers": _told(where, "layers"), "v_lr": _told(where, "v_lr"),
        "mom2_update_weight": _told(how, "mom2_update_weight"), "p": _told(how, "p"), "alpha": _told(how, "alpha"),
        "v_num_grad_steps": "not tuned", **({"chat": "as given; the facts were asked likewise"} if chat else {}),
    }  # fmt: skip


def _announce(
    budget: float, moments: float, trials: Trials, held_out: int, settings: int, report_progress: Callable[[str], None]
) -> None:
    """Report the time needed in any case, and the time of a search if the budget is too small for one."""
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
    """Return windows of consecutive layers to edit, from the first half of a model; the proposed one first."""
    size = width(layers)
    starts = sorted({min(round(start * layers), layers - size - 1) for start in STARTS})
    windows = [list(range(start, start + size)) for start in starts if start >= 0]
    return sorted(windows, key=lambda window: window != proposed_layers(layers))


def _measure_moments(model: ModelChoice, layers: list[int], store: str) -> None:
    """Measure C0 of all layers that will be tried into the store, in one pass over the text."""
    edited, tokenizer = loaded(model)
    wanted = NSEHyperParams(layers=layers, alpha=1.0, store=store, **FIXED)
    second_moments(Layout.of(edited, wanted.rewrite_module_tmp), tokenizer, wanted)


@torch.inference_mode()
def _hidden_norms(model: nn.Module, tokenizer: PreTrainedTokenizerBase, facts: Sequence[Fact]) -> list[float]:
    """Return the mean norm of every layer's output at the last token of the prompts."""
    norms = torch.zeros(len(Layout.of(model).layers), dtype=torch.float64)
    device = input_device(model)
    with frozen(model):
        for fact in facts:
            ids = torch.tensor([without_end(tokenizer, fact.text)], device=device)
            states = model(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states[1:]
            norms += torch.stack([state[0, -1].double().norm() for state in states]).cpu()
    return (norms / len(facts)).tolist()


def _told(trials: Sequence[Trial], field: str) -> str:
    """Describe how a field's value was found: the best score of each value, and on how many facts."""
    best: dict[str, Trial] = {}
    for trial in trials:
        best.setdefault(str(trial.setting[field]), trial)
    scores = [f"{value}: {100 * trial.score:.1f} on {trial.facts}" for value, trial in best.items()]
    return f"best score of each value, and on how many facts: {'; '.join(scores)}"
