"""Output of `nse edit --dry-run`: conflicts, the tokens of the facts, and an estimate of the time."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from nse_plugin.models.prompts import encode_fact
from nse_plugin.support.progress import duration
from nse_plugin.support.suggestions import number_of

if TYPE_CHECKING:
    from nse_plugin.facts import Fact
    from nse_plugin.session import EditSession

COLUMNS = {
    "prompt": "prompt", "subject": "subject's tokens", "lookup": "written at", "target": "target's tokens",
}  # fmt: skip
STEP = 0.6  # forward passes of the whole prompt that a step in one context takes (SmolLM2-135M on a CPU)


def show(session: EditSession, facts: Sequence[Fact], arguments: argparse.Namespace) -> None:
    """Print the output, as tables or JSON."""
    from nse_plugin.cli.tables import print_json, print_table

    against = [
        {"prompt": new.text, "target": new.target_new, "stands": old.target_new}
        for new, old in session.conflicts(facts)
    ]
    rows = [_tokens(session, fact) for fact in facts]
    seconds = predicted_seconds(session, facts)
    if arguments.json:
        print_json({"conflicts": against, "facts": rows, "seconds": seconds})
        return
    print_table(rows, COLUMNS)
    if against:
        print_table(against, {"prompt": "conflict", "target": "new target", "stands": "an earlier round's"})
    conflicts = number_of(len(against), "conflict") + (f" ({arguments.on_conflict})" if against else "")
    print(f"{number_of(len(facts), 'fact')}, {conflicts}; about {duration(seconds)}. Nothing was written.")


def _tokens(session: EditSession, fact: Fact) -> dict[str, object]:
    row = encode_fact(session.tokenizer, fact, ["{}"]).rewrites[0]

    def words(ids: Sequence[int]) -> str:
        return "|".join(session.tokenizer.batch_decode([[token] for token in ids]))

    subject = session.tokenizer(fact.subject, add_special_tokens=False).input_ids
    return {
        "prompt": fact.text,
        "subject": words(subject),
        "lookup": words([row.ids[row.lookup]]),
        "target": words(row.targets),
    }


def predicted_seconds(session: EditSession, facts: Sequence[Fact]) -> float:
    """Estimate the seconds that a round of these facts takes.

    The time per fact is that of the session's last round; before the first round, it is the time of a forward pass of
    the prompts, for every step and context.
    """
    if session.rounds:
        return float(session.rounds[-1].report.frame["seconds"].mean()) * len(facts)
    some = [torch.tensor([session.tokenizer(fact.text).input_ids]) for fact in facts[:4]]
    device = next(session.model.parameters()).device
    with torch.inference_mode():
        session.model(some[0].to(device))
        started = time.monotonic()
        for ids in some:
            session.model(ids.to(device))
        forward = (time.monotonic() - started) / len(some)
    fast = session.hparams.solver == "fast"
    contexts = 2 if fast else len(session.templates)
    steps = session.hparams.v_num_grad_steps * (0.6 if fast else 1.0)
    return float(forward * contexts * steps * STEP * len(facts))
