"""How much work the value step spends on a fact: all that the paper asks for, or an honest part of it.

`fast` is an approximation, measured in benchmarks/README.md: the loss is averaged over the bare prompt and the first
`CONTEXTS` of the generated contexts, and Adam makes `STEPS` times as many updates, each `1 / STEPS` times as long, so
that delta may travel as far. The contexts are samples of one mean, and Adam moves along nearly one line here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from nse_plugin.hparams import NSEHyperParams
from nse_plugin.models.prompts import FactPrompts

CONTEXTS = 1
STEPS = 0.6


def as_solved(prompts: Sequence[FactPrompts], hparams: NSEHyperParams) -> tuple[list[FactPrompts], NSEHyperParams]:
    """The rows and the settings that `hparams.solver` optimises with."""
    if hparams.solver == "exact":
        return list(prompts), hparams
    updates = max(1, round(STEPS * (hparams.v_num_grad_steps - 1)))
    fewer = [replace(fact, rewrites=fact.rewrites[: 1 + CONTEXTS]) for fact in prompts]
    return fewer, replace(hparams, v_num_grad_steps=updates + 1, v_lr=hparams.v_lr / STEPS)
