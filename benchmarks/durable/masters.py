"""Float32 master copies of a bfloat16 model's edited matrices: how far a session drifts from a float32 session, with
and without them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from copy import deepcopy
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from benchmarks.durable import growth
from benchmarks.durable.rounds import Base
from nse_plugin import EditSession, Fact, NSEHyperParams
from nse_plugin.facts.files import DEMO, load_facts
from nse_plugin.models.layout import Layout
from nse_plugin.models.loading import EMBEDDED, load
from nse_plugin.session import transaction


def add(commands: Any) -> None:
    """Add the command and its options. commands: argparse's subparsers."""
    command = commands.add_parser("masters", help="what master copies of bfloat16 matrices save: ten minutes")
    command.add_argument("model", nargs="?", default=EMBEDDED, metavar="MODEL", help="%(default)s by default")
    command.add_argument("--hparams", metavar="FILE", help="hyperparameters; by default the model's preset, fast")
    command.add_argument("--facts", default=DEMO, metavar="FILE", help="where its facts are from")
    command.add_argument("--rounds", type=int, default=20, help="on MODEL; %(default)s by default")
    command.add_argument("--tiny-rounds", type=int, default=200, help="on a random model; %(default)s by default")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> bool:
    """Print one line per model and weight of C0 (lambda)."""
    targets = ("France", "Italy", "Spain")
    facts = [Fact("{} is a town of", f"town {n}", targets[n % 3], case_id=n) for n in range(options.tiny_rounds)]
    for weight in (200.0, 2.0):
        parts = growth.base(), growth.tokenizer_of(), growth.settings(mom2_update_weight=weight)
        _show(f"random Llama, lambda {weight:g}", *parts, facts, growth.moments_of())
    model, tokenizer = load(options.model)
    hparams = Base(options.model, options.hparams).hparams_of(model)
    _show(options.model, model, tokenizer, hparams, load_facts(options.facts, options.rounds).facts, None)
    return True


def _show(name: str, model: Any, tokenizer: Any, hparams: NSEHyperParams, facts: Sequence[Fact], moments: Any) -> None:
    """Print the drift of two bfloat16 sessions from a float32 one.

    All three make rounds of one fact with the same values, and start from the same weights, rounded to bfloat16.
    """
    model = model.bfloat16().float()
    exact = EditSession(model, tokenizer, hparams, moments, undoable=False)
    values = [exact.values([fact]) for fact in facts]
    moments, templates, before = exact.moments, exact.templates, _weights(exact)
    rounded, with_masters = (EditSession(_coarse(model), tokenizer, hparams, moments, templates) for _ in range(2))
    for fact, z in zip(facts, values, strict=True):
        exact.edit_with_values([fact], z)
        with_masters.edit_with_values([fact], z)
        with mock.patch.object(transaction, "masters_of", return_value={}):
            rounded.edit_with_values([fact], z)
    after = _weights(exact)
    change = (after - before).norm()
    far = [float((_weights(session) - after).norm() / change) for session in (rounded, with_masters)]
    print(
        f"{name}, {len(facts)} rounds: change {float(change / before.norm()):.2g} of W_0; distance to float32 "
        f"{far[0]:.3f} rounded in every pass, {far[1]:.3f} with master copies",
        flush=True,
    )


def _coarse(model: Any) -> Any:
    """Return a copy in bfloat16."""
    return deepcopy(model).bfloat16()


def _weights(session: EditSession) -> Tensor:
    """Return all edited matrices as one float32 vector."""
    layout = Layout.of(session.model, session.hparams.rewrite_module_tmp)
    matrices = layout.output_matrices(session.hparams.layers).values()
    return torch.cat([matrix.weight.detach().float().flatten() for matrix in matrices])
