"""What the model of a session writes after a prompt, before and after the session's edits."""

from __future__ import annotations

from collections.abc import Sequence

from nse_plugin.models.writing.generation import encoded, greedy_answers
from nse_plugin.session.session import EditSession

_PROMPTS_AT_ONCE = 64


def before_and_after(session: EditSession, prompts: Sequence[str], tokens: int) -> list[tuple[str, str]]:
    """Greedy continuations of each prompt, without it: of the unedited model and of the edited one.

    tokens: the most that are written; the end of the text ends a continuation earlier. Raises ValueError for a prompt
    that has no tokens or leaves no room for that many.
    """
    after = _answers(session, prompts, tokens)
    with session.unedited():
        before = _answers(session, prompts, tokens)
    return list(zip(before, after, strict=True))


def _answers(session: EditSession, prompts: Sequence[str], tokens: int) -> list[str]:
    model, tokenizer = session.model, session.tokenizer
    rows = [encoded(model, tokenizer, prompt, tokens) for prompt in prompts]
    ends = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    batches = (rows[first : first + _PROMPTS_AT_ONCE] for first in range(0, len(rows), _PROMPTS_AT_ONCE))
    return tokenizer.batch_decode([ids for batch in batches for ids in greedy_answers(model, batch, tokens, ends)])
