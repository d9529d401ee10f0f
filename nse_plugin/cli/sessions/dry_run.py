"""Output of `nse edit --dry-run`: conflicts, the tokens of the facts, and an estimate of the time."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from nse_plugin.facts.names import warn_of_left_out_names
from nse_plugin.models.layout import Layout
from nse_plugin.models.prompts import encode_fact
from nse_plugin.moments.provider import missing_layers
from nse_plugin.replay.sinks import without_sinks
from nse_plugin.session.edited import warn_of_sinks
from nse_plugin.support.progress import duration
from nse_plugin.support.suggestions import number_of

if TYPE_CHECKING:
    from nse_plugin.facts import Fact
    from nse_plugin.session import EditSession

COLUMNS = {
    "prompt": "prompt", "subject": "subject's tokens", "lookup": "written at", "target": "target's tokens",
}  # fmt: skip
STEP = 0.6  # forward passes of the whole prompt that a step in one context takes (SmolLM2-135M on a CPU)


def show(session: EditSession, rounds: Sequence[Sequence[Fact]], arguments: argparse.Namespace) -> int:
    """Print the output, as tables or JSON, and log the warnings that `edit` would log. Returns the exit code: 1 if
    --on-conflict error would refuse the facts, else 0."""
    from nse_plugin.cli.tables import print_json, print_table

    facts = [fact for own in rounds for fact in own]
    against = [
        {"prompt": new.text, "target": new.target_new, "stands": old.target_new}
        for new, old in _conflicts(session, rounds)
    ]
    refused = int(bool(against) and arguments.on_conflict == "error")
    rows = [_tokens(session, fact) for fact in facts]
    warn_of_left_out_names(facts)
    warn_of_sinks(_at_sinks(session, facts))
    seconds, measures = predicted_seconds(session, facts), not _has_moments(session)
    if arguments.json:
        print_json({"conflicts": against, "facts": rows, "seconds": seconds, "measures_second_moments": measures})
        return refused
    print_table(rows, COLUMNS)
    if against:
        print_table(against, {"prompt": "conflict", "target": "new target", "stands": "an earlier round's"})
    conflicts = number_of(len(against), "conflict") + (f" ({arguments.on_conflict})" if against else "")
    more = ", and the second moments of this model are measured first, once (minutes)" if measures else ""
    print(f"{number_of(len(facts), 'fact')}, {conflicts}; about {duration(seconds)}{more}. Nothing was written.")
    return refused


def _conflicts(session: EditSession, rounds: Sequence[Sequence[Fact]]) -> list[tuple[Fact, Fact]]:
    """Return (new fact, fact with another target) for facts of earlier rounds of the session and of this command."""
    known = {new.question: old for new, old in session.conflicts([fact for own in rounds for fact in own])}
    found = []
    for own in rounds:
        found += [(fact, known[fact.question]) for fact in own if fact.question in known]
        known |= {fact.question: fact for fact in own}
    return [(new, old) for new, old in found if new.signature != old.signature]


def _at_sinks(session: EditSession, facts: Sequence[Fact]) -> list[Fact]:
    """Return the facts whose subject ends at an attention sink of the unedited model."""
    prompts = [encode_fact(session.tokenizer, fact, session.templates[:2]) for fact in facts]
    hparams = session.hparams
    with session.unedited():
        layout = Layout.of(session.model, hparams.rewrite_module_tmp)
        found = without_sinks(layout, hparams.layers[-1], prompts, hparams.tokens_per_batch)
    return [fact for fact, asked, own in zip(facts, prompts, found, strict=True) if own is not asked]


def _has_moments(session: EditSession) -> bool:
    """Whether the second moments are known already. A session with rounds has used them."""
    layout = Layout.of(session.model, session.hparams.rewrite_module_tmp)
    return bool(session.rounds) or not missing_layers(layout, session.tokenizer, session.hparams)


def _tokens(session: EditSession, fact: Fact) -> dict[str, object]:
    row = encode_fact(session.tokenizer, fact, ["{}"]).rewrites[0]
    first, begins = row.lookup, fact.prompt.index("{}")
    if session.tokenizer.is_fast:
        offsets = session.tokenizer(fact.text, return_offsets_mapping=True)["offset_mapping"]
        first = next((place for place, (_, end) in enumerate(offsets) if end > begins), first)

    def words(ids: Sequence[int]) -> str:
        return "|".join(session.tokenizer.batch_decode([[token] for token in ids]))

    return {
        "prompt": fact.text,
        "subject": words(row.ids[first : row.lookup + 1]),
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
