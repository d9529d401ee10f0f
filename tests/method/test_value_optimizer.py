"""The steps of the solvers that optimise values."""

from __future__ import annotations

import dataclasses

import oracles
import pytest
from oracles import relative
from tiny import tiny_moments

from nse_plugin.session import EditSession

pytestmark = pytest.mark.usefixtures("all_in_double")


def test_the_fast_solver_takes_fewer_and_longer_steps_in_one_generated_context(
    llama, tokenizer, facts, templates, hparams
):
    """10 updates become 6, twice as long, by an Adam that forgets sooner; of two generated contexts the first stays."""
    fast = dataclasses.replace(hparams, v_num_grad_steps=11, v_lr=0.1, solver="fast")
    found = EditSession(llama, tokenizer, fast, tiny_moments(llama, [1, 2]), templates).values(facts)
    taken = dataclasses.replace(hparams, v_num_grad_steps=7, v_lr=0.2)
    for fact, z in zip(facts, found, strict=True):
        assert relative(z, oracles.value(llama, tokenizer, fact, templates[:2], taken, betas=(0.6, 0.9))) <= 1e-10
