"""Sessions in a folder, on tiny models."""

from __future__ import annotations

from pathlib import Path

import torch
from tiny import TEMPLATES, tiny_model, tiny_moments, tiny_tokenizer

from nse_plugin import EditSession, Fact, NSEHyperParams

LAYERS = [1, 2]
SUBJECTS = [
    f"{first} {second}" for second in ("France", "Rome", "Lyon", "Japan") for first in ("old", "cold", "He", "the")
]
TARGETS = ("Lyon", "Rome", "an old town", "Japan", "French")
# The second replaces the first.
COLD = Fact("{} is", "Rome", "cold", case_id="cold")
WET = Fact("{} is", "Rome", "wet", case_id="wet")
OTHER = Fact("{} is a town of", "Lyon", "Japan", case_id="other")


def hparams(**changes):
    settings = {
        "layers": LAYERS, "alpha": 0.5, "p": 0.8, "mom2_update_weight": 2.0, "v_lr": 0.1,
        "v_num_grad_steps": 3, "max_iterations": 2, "device": "cpu", **changes,
    }  # fmt: skip
    return NSEHyperParams(**settings)


def rounds_of(count):
    """Rounds of one fact and of two, some about a subject that an earlier round has."""
    one = [
        Fact("{} is a town of", SUBJECTS[place % len(SUBJECTS)], TARGETS[place % len(TARGETS)], case_id=2 * place)
        for place in range(count)
    ]
    two = [
        Fact("The capital of {} is", SUBJECTS[(place * 7) % len(SUBJECTS)], TARGETS[place % 3], case_id=2 * place + 1)
        for place in range(count)
    ]
    return [[one[place]] if place % 3 else [one[place], two[place]] for place in range(count)]


def base(kind="llama", dtype=torch.float32):
    return tiny_model(kind, dtype)


def opened(folder, model, **changes):
    """A session in a folder; begun with the hyperparameters above, gone on with the folder's own."""
    settings = None if (Path(folder) / "session.json").exists() else hparams(**changes)
    templates = None if settings is None else TEMPLATES
    return EditSession.open(folder, model, tiny_tokenizer(), settings, tiny_moments(base(), LAYERS), templates)


def in_memory(model, **changes):
    return EditSession(model, tiny_tokenizer(), hparams(**changes), tiny_moments(base(), LAYERS), TEMPLATES)


def edited(model):
    """The edited matrices, copied."""
    matrices = EditSession(model, tiny_tokenizer(), hparams())._edited.matrices
    return [matrix.weight.detach().clone() for matrix in matrices.values()]


def equal(one, other):
    """To the bit."""
    return all(torch.equal(a.view(torch.uint8), b.view(torch.uint8)) for a, b in zip(one, other, strict=True))


def go_on(folder, kind, dtype, count):
    """Make the rounds of a session that are not made yet."""
    with opened(folder, base(kind, getattr(torch, dtype))) as session:
        for facts in rounds_of(count)[len(session.rounds) :]:
            session.edit(facts, author="somebody", reason="a test")


def begun(where, model, tmp_path, **changes):
    """A session in memory or in a folder."""
    return in_memory(model, **changes) if where == "memory" else opened(tmp_path / "session", model, **changes)


def of_rounds(rounds, kind="llama", dtype=torch.float32, **changes):
    """A session in memory that has made these rounds."""
    session = in_memory(base(kind, dtype), **changes)
    for facts in rounds:
        session.edit(facts)
    return session


def other_attention(model):
    model.model.layers[3].self_attn.o_proj.weight.data[0, 0] += 1


def other_matrix(model):
    model.model.layers[1].mlp.down_proj.weight.data[0, 0] += 1
