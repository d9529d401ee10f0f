"""Greedy continuations of prompts by a session's model, before and after the session's edits."""

from __future__ import annotations

from collections.abc import Sequence

from nse_plugin.models.positions import max_positions
from nse_plugin.models.writing.generation import encoded, greedy_answers
from nse_plugin.session.session import EditSession

_PROMPTS_AT_ONCE = 64


def before_and_after(
    session: EditSession, prompts: Sequence[str], tokens: int, or_fewer: bool = False
) -> list[tuple[str, str]]:
    """Return the greedy continuations of each prompt, without the prompt: (unedited model, edited model).

    tokens: the maximum length of a continuation; an end-of-text token ends it earlier. or_fewer: write fewer tokens
    after a prompt that leaves less room in the model's positions, instead of raising ValueError. Raises ValueError also
    for a prompt without tokens.
    """
    room = 0 if or_fewer else tokens
    rows = [encoded(session.model, session.tokenizer, prompt, room) for prompt in prompts]
    after = _answers(session, rows, tokens)
    with session.unedited():
        before = _answers(session, rows, tokens)
    return list(zip(before, after, strict=True))


def _answers(session: EditSession, rows: Sequence[Sequence[int]], tokens: int) -> list[str]:
    """Continue the rows; rows with room for the same number of tokens are batched together."""
    model, tokenizer = session.model, session.tokenizer
    ends = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    most = max_positions(model.config)
    rooms = [tokens if most is None else min(tokens, most - len(row)) for row in rows]
    texts: dict[int, str] = {}
    for room in sorted(set(rooms)):
        places = [place for place, own in enumerate(rooms) if own == room]
        for first in range(0, len(places), _PROMPTS_AT_ONCE):
            some = places[first : first + _PROMPTS_AT_ONCE]
            written = greedy_answers(model, [rows[place] for place in some], room, ends) if room else [[]] * len(some)
            texts.update(zip(some, tokenizer.batch_decode(written), strict=True))
    return [texts[place] for place in range(len(rows))]
