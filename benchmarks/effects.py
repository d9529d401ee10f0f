"""How the scores change when less is spent on z: `python -m benchmarks.effects FACTS.json`.

Every variant computes z of the same facts on the unedited model (SmolLM2-135M with its preset), the same update writes
them in rounds, and the final model is scored. `tokens`: how many tokens per fact pass through each layer above l_0 in
the gradient steps. Variants that are not options of the package are patched together here. With one thread, a variant
takes 5 to 20 minutes for 300 facts.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from rich.console import Console
from torch import Tensor
from torch.nn.functional import linear

from benchmarks import show
from benchmarks.clock import cpu_seconds
from benchmarks.setting import Setting
from nse_plugin.evaluation.metrics.probability import mean_scores, score_facts
from nse_plugin.facts import Fact
from nse_plugin.facts.files import DatasetError, load_facts
from nse_plugin.hparams import NSEHyperParams
from nse_plugin.method import value_optimizer, values
from nse_plugin.models.loading import load
from nse_plugin.models.prompts import FactPrompts
from nse_plugin.replay.outputs import Reach
from nse_plugin.replay.suffix import SuffixReplay
from nse_plugin.session import EditSession

ROUND = 50
ENOUGH = 0.9  # probability of the target at which `stop_on_probability` ends a fact's optimisation
DONE = -100.0  # added to a loss to put it below the stopping threshold
SCORES = ("efficacy", "generalization", "specificity", "score")
Scope = Callable[[ExitStack], None]


@dataclass(frozen=True)
class Way:
    """A variant of computing z.

    solver: the option that it starts from. parts: functions that patch the package while z are computed. bfloat16:
    whether z are computed on a bfloat16 model.
    """

    solver: str = "exact"
    parts: Sequence[Scope] = ()
    bfloat16: bool = False


def all_contexts(stack: ExitStack) -> None:
    """Let `fast` use all contexts of `exact`."""
    stack.enter_context(patch.object(value_optimizer, "CONTEXTS", 10**6))


def all_steps(stack: ExitStack) -> None:
    """Let `fast` use the steps of `exact`."""
    for name, value in (("SHARE", 1.0), ("LONGER", 1.0), ("BETAS", {"fast": value_optimizer.BETAS["exact"]})):
        stack.enter_context(patch.object(value_optimizer, name, value))


def stop_on_probability(stack: ExitStack) -> None:
    """Stop optimising a fact once its target's tokens reach the probability `ENOUGH`.

    The probability is the geometric mean over tokens and contexts; the KL and norm terms of the loss are ignored.
    """
    own = values._Batch.nll_and_kl

    def nll_and_kl(batch: values._Batch, delta: Tensor) -> tuple[Tensor, Tensor]:
        nll, kl = own(batch, delta)
        return torch.where(nll < -math.log(ENOUGH), nll + DONE, nll), kl

    stack.enter_context(patch.object(values._Batch, "nll_and_kl", nll_and_kl))


def warm_start(stack: ExitStack) -> None:
    """Start a fact's delta at the mean delta of facts from earlier batches with the same words after the subject."""
    ended: dict[tuple[int, ...], list[Tensor]] = {}
    begin: list[Tensor | None] = []
    own, walk = values._optimize, value_optimizer.DeltaOptimizer

    def relation(fact: FactPrompts) -> tuple[int, ...]:
        row = fact.rewrites[0]
        return row.ids[row.lookup + 1 : len(row.ids) - len(row.targets) + 1]

    class Warm(walk):  # type: ignore[misc, valid-type]
        def __init__(self, h: Tensor, hparams: NSEHyperParams, are_long: Sequence[bool]) -> None:
            super().__init__(h, hparams, are_long)
            for place, delta in enumerate(begin):
                if delta is not None:
                    self.delta[place] = delta

    def optimize(batch: values._Batch, hparams: NSEHyperParams, reach: Reach | None) -> Tensor:
        facts, h = list(batch._prompts), batch.h.clone()
        with torch.no_grad():
            batch.nll_and_kl(torch.zeros_like(h))  # the KL term compares with the distribution without delta
        known = [ended.get(relation(fact)) for fact in facts]
        begin[:] = [torch.stack(deltas).mean(0) if deltas else None for deltas in known]
        z = own(batch, hparams, reach)
        for fact, found, start in zip(facts, z, h, strict=True):
            if found.isfinite().all():
                ended.setdefault(relation(fact), []).append(found - start)
        return z

    stack.enter_context(patch.object(values, "DeltaOptimizer", Warm))
    stack.enter_context(patch.object(values, "_optimize", optimize))


WAYS: Mapping[str, Way] = {
    "exact": Way(),
    "one-context": Way("fast", (all_steps,)),
    "fewer-steps": Way("fast", (all_contexts,)),
    "fast": Way("fast"),
    "stop-at-0.9": Way("exact", (stop_on_probability,)),
    "fast-warm-start": Way("fast", (warm_start,)),
    "fast-bfloat16": Way("fast", bfloat16=True),
}


def in_bfloat16(model: Any) -> Any:
    """Return a copy with weights and hidden states in bfloat16, and buffers as transformers loads them.

    Matrix products are computed in float32 on the bfloat16 numbers and their results rounded to bfloat16, as a product
    that accumulates in float32 does: a processor without bfloat16 instructions would take twenty times as long.
    """
    copy = deepcopy(model)
    for weight in copy.parameters():
        weight.data = weight.data.to(torch.bfloat16)
    for module in copy.modules():
        if isinstance(module, torch.nn.Linear):
            module.forward = partial(_product, module.weight.data.float(), module.bias)  # type: ignore[method-assign]
    return copy


def _product(weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    return linear(x.float(), weight, None if bias is None else bias.float()).to(x.dtype)


@contextmanager
def counted() -> Iterator[list[int]]:
    """Count the tokens that gradient steps of z run through the upper layers; yields a list with this one number."""
    tokens = [0]

    class Counted(SuffixReplay):
        def _run(self, pack: Any, *rest: Tensor) -> Tensor:
            tokens[0] += pack.start.shape[0] * pack.start.shape[1]
            return super()._run(pack, *rest)

    with patch.object(values, "SuffixReplay", Counted):
        yield tokens


def measure(setting: Setting, facts: Sequence[Fact], way: Way) -> dict[str, float]:
    """Return the scores in percent, and CPU seconds of z and `tokens` per fact. The weights are restored afterwards."""
    model = in_bfloat16(setting.model) if way.bfloat16 else setting.model
    found: list[Tensor] = []
    with ExitStack() as stack:
        for part in way.parts:
            part(stack)
        tokens = stack.enter_context(counted())
        session = dataclasses.replace(setting, model=model).session(solver=way.solver)
        seconds = cpu_seconds(lambda: found.append(session.values(facts).to(setting.model.dtype)))
    with setting.restored():
        session = setting.session(solver=way.solver)
        for start in range(0, len(facts), ROUND):
            written = slice(start, start + ROUND)
            session.edit_with_values(facts[written], found[0][written])
        scores = mean_scores(score_facts(setting.model, setting.tokenizer, facts))
    return {
        **{name: 100 * scores[name] for name in SCORES},
        "z seconds": seconds / len(facts),
        "tokens": tokens[0] / len(facts),
    }


def smollm2() -> Setting:
    """Return SmolLM2-135M with its preset, and with the templates and second moments that a user's session has."""
    model, tokenizer = load("embedded")
    session = EditSession(model, tokenizer, NSEHyperParams.for_model(model, preset="paper"))
    return Setting(model, tokenizer, session.hparams, session.templates, session.moments)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.effects", description=__doc__.splitlines()[0])
    parser.add_argument("facts", help="`counterfact`, or a file of facts with rephrased prompts and neighbours")
    parser.add_argument("--count", type=int, default=300, help="facts; %(default)s")
    parser.add_argument("--only", default=",".join(WAYS), help="some of %(default)s")
    arguments = parser.parse_args()
    chosen = arguments.only.split(",")
    unknown = [name for name in chosen if name not in WAYS]
    if unknown:
        parser.error(f"--only {','.join(unknown)}: choose among {', '.join(WAYS)}")

    try:
        facts = load_facts(arguments.facts, limit=arguments.count).facts
    except DatasetError as error:
        parser.error(str(error))

    torch.set_num_threads(1)
    console = Console()
    setting = smollm2()
    measured: dict[str, dict[str, float]] = {}
    for name in chosen:
        with console.status(name):
            measured[name] = measure(setting, facts, WAYS[name])
        console.print(f"{name}  score {measured[name]['score']:.2f}")
    show.effects(console, f"{len(facts)} facts in rounds of {ROUND}", measured)


if __name__ == "__main__":
    main()
