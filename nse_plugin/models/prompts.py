"""Facts as token ids: each prompt is tokenised once, with the relevant positions marked.

The tokenizer's padding side and pad token are never used: rows are padded by `pad_right`, so any tokenizer state gives
the same edits.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nse_plugin.facts import Fact, FactError
from nse_plugin.facts.texts import SLOT, continuation
from nse_plugin.models.chat import PLAIN, Frame

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class EncodedPrompt:
    """One row of tokens.

    ids: the prompt, and all target tokens but the last. lookup: index of the subject's last token.
    targets: the target's token ids, predicted by the last `len(targets)` positions; empty without a target.
    context: how many of the first ids belong to the template; all of them are before `lookup`.
    """

    ids: tuple[int, ...]
    lookup: int
    targets: tuple[int, ...] = ()
    context: int = 0

    @property
    def to_lookup(self) -> tuple[int, ...]:
        """The tokens up to and including the subject's last one, on which alone keys and residuals depend."""
        return self.ids[: self.lookup + 1]

    def followed_by(self, tokens: Sequence[int]) -> EncodedPrompt:
        """Return the row with more target tokens at its end."""
        targets = (*self.targets, *tokens)
        return replace(self, ids=(*self.ids[: len(self.ids) + 1 - len(self.targets)], *targets[:-1]), targets=targets)


@dataclass(frozen=True)
class FactPrompts:
    """All rows of one fact: the rewrite prompt in every context template (the bare one first), and "{} is a".

    `essence` ends at the subject's last token: the KL term needs nothing after it. text: the prompt with the subject
    and the target. members: the number of facts whose rows these are, one fact after the other. in_chat: whether the
    prompts are part of a chat.
    """

    rewrites: tuple[EncodedPrompt, ...]
    essence: EncodedPrompt
    text: str = ""
    members: int = 1
    in_chat: bool = False

    @classmethod
    def joint(cls, facts: Sequence[FactPrompts]) -> FactPrompts:
        """Join facts that share one value: the rows of all, and the essence of the first."""
        if len(facts) == 1:
            return facts[0]
        rows = tuple(row for fact in facts for row in fact.rewrites)
        return cls(rows, facts[0].essence, "; ".join(fact.text for fact in facts), len(facts))


def encode_fact(
    tokenizer: PreTrainedTokenizerBase,
    fact: Fact,
    templates: Sequence[str],
    max_positions: int | None = None,
    vocabulary: int | None = None,
    frame: Frame = PLAIN,
    ending: Sequence[int] = (),
) -> FactPrompts:
    """Tokenise a fact in every context template.

    templates: strings with one `{}`, the first of them "{}" itself. max_positions, vocabulary: limits of the model;
    None: no limit. frame: plain text or a chat, placed around the text with its context. ending: tokens that must
    follow the target, as part of it.
    Raises FactError if a row is longer than the model's positions or has a token that the model does not know, or if
    the tokenizer drops the target or the end of the subject.
    """
    start = fact.prompt.index(SLOT)
    end = start + len(fact.subject.rstrip())
    text, in_chat = fact.text, frame is not PLAIN
    separator = frame.separator if in_chat else fact.separator
    target = continuation(text + frame.after, fact.target_new, separator)
    rewrites = []
    for template in templates:
        before, after = frame.before + template.split(SLOT)[0], template.split(SLOT)[1] + frame.after
        row = _encode(tokenizer, before + text + after, len(before) + end, target).followed_by(ending)
        rewrites.append(replace(row, context=_alike(row.to_lookup[:-1], without_end(tokenizer, before))))
    subject = frame.before + fact.subject
    essence = _encode(tokenizer, f"{subject} is a", len(subject.rstrip()), None)
    longest = max(len(row.ids) for row in rewrites)
    if max_positions is not None and longest > max_positions:
        raise FactError(
            f"fact {fact.text!r:.60} is {longest} tokens long in its longest context, and the model has "
            f"{max_positions} positions: shorten the prompt or the target."
        )
    if vocabulary is not None:
        _check_known(tokenizer, fact, [*rewrites, essence], vocabulary)
    return FactPrompts(tuple(rewrites), essence, f"{text}{target}" + " (in a chat)" * in_chat, in_chat=in_chat)


def _check_known(
    tokenizer: PreTrainedTokenizerBase, fact: Fact, rows: Sequence[EncodedPrompt], vocabulary: int
) -> None:
    largest = max(token for row in rows for token in (*row.ids, *row.targets))
    if largest >= vocabulary:
        raise FactError(
            f"fact {fact.text!r:.60} has the token {tokenizer.convert_ids_to_tokens(largest)!r} ({largest}), and the "
            f"model has embeddings for {vocabulary} tokens: give its own tokenizer, or resize its embeddings "
            "(model.resize_token_embeddings)."
        )


def split_target(
    tokenizer: PreTrainedTokenizerBase, prompt: str, target: str, separator: str | None = None
) -> tuple[list[int], list[int]]:
    """Return the token ids of `prompt` and of `target` as its continuation; separator: as for `facts.continuation`.

    The whole text is tokenised and split at the end of the prompt; spaces there belong to the target. With a fast
    tokenizer, a token that spans the end belongs to the target; a slow tokenizer gives no offsets, so if the prompt's
    own ids are not the beginning of the text's, the two parts are tokenised separately.
    Raises FactError if the tokenizer makes no token of the target.
    """
    before, after = _split(tokenizer, prompt, continuation(prompt, target, separator))
    if not after:
        raise FactError(f"The tokenizer drops the target {target!r}: write it in characters it knows.")
    return before, after


def _split(tokenizer: PreTrainedTokenizerBase, prompt: str, target: str) -> tuple[list[int], list[int]]:
    """Return the token ids of a prompt and of a target that includes its separator. Spaces at the end of the prompt
    belong to the target."""
    text, bare = prompt + target, prompt.rstrip(" ")
    if tokenizer.is_fast:
        encoded = tokenizer(text, return_offsets_mapping=True)
        ids, ends = encoded["input_ids"], [end for _, end in encoded["offset_mapping"]]
        added = [i for i, end in enumerate(ends) if end > len(bare)]  # an end-of-text token is not among them
        return (ids[: added[0]], ids[added[0] : added[-1] + 1]) if added else (ids, [])
    before, whole = without_end(tokenizer, bare), without_end(tokenizer, text)
    return before, whole[len(before) :] if whole[: len(before)] == before else _alone(tokenizer, text[len(bare) :])


def without_end(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the token ids of a text, without the end-of-text or separator tokens that some tokenizers append."""
    ids: list[int] = tokenizer(text)["input_ids"]
    if not ids or ids[-1] not in tokenizer.all_special_ids:
        return ids
    own: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    ends = (end for end in range(len(ids), len(own) - 1, -1) if own and ids[end - len(own) : end] == own)
    return ids[: next(ends, len(ids) - (ids[-1] == tokenizer.eos_token_id))]


def _alone(tokenizer: PreTrainedTokenizerBase, target: str) -> list[int]:
    ids: list[int] = tokenizer(target, add_special_tokens=False)["input_ids"]
    return ids


def _encode(tokenizer: PreTrainedTokenizerBase, prompt: str, subject_end: int, target: str | None) -> EncodedPrompt:
    """Encode a prompt. subject_end: the end of the subject in it. target: with its separator; None: no target."""
    lookup = _token_at(tokenizer, prompt, subject_end)
    own_ids = without_end(tokenizer, prompt)
    if target is None:
        return EncodedPrompt(tuple(own_ids[: lookup + 1]), lookup)
    prompt_ids, target_ids = split_target(tokenizer, prompt, target, separator="")
    if prompt_ids[: lookup + 1] != own_ids[: lookup + 1]:  # the subject's last token would merge with the target
        prompt_ids, target_ids = own_ids, _alone(tokenizer, target)
    return EncodedPrompt((*prompt_ids, *target_ids[:-1]), lookup, tuple(target_ids))


def _alike(ids: Sequence[int], others: Sequence[int]) -> int:
    """Return how many leading ids two rows have in common."""
    pairs = zip(ids, others, strict=False)
    return next((place for place, (one, other) in enumerate(pairs) if one != other), min(len(ids), len(others)))


def _token_at(tokenizer: PreTrainedTokenizerBase, text: str, end: int) -> int:
    """Return the index of the token that holds character `end - 1` of the text."""
    if tokenizer.is_fast:
        offsets = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
        end = _composed_end(text, end, {place for first, last in offsets for place in range(first, last)})
        holding = [i for i, (first, last) in enumerate(offsets) if first < end <= last]
    else:
        holding = list(range(len(without_end(tokenizer, text[:end]))))
    if not holding:
        raise FactError(f"The tokenizer drops the end of {text[:end]!r}: write the subject in characters it knows.")
    return holding[-1]  # a character may take several tokens


def _composed_end(text: str, end: int, held: set[int]) -> int:
    """Return `end`, moved before combining characters that no token holds: a tokenizer that composes "e" and an accent
    gives both the position of the "e". held: the positions of the text that some token holds."""
    while end > 1 and end - 1 not in held and _joins(text[: end - 1], text[end - 1]):
        end -= 1
    return end


def _joins(before: str, letter: str) -> bool:
    """Return whether a letter composes with the text before it (an accent, a part of a Hangul syllable)."""
    composed = unicodedata.normalize("NFC", before[-8:])
    return len(unicodedata.normalize("NFC", before[-8:] + letter)) == len(composed)


def pad_right(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Stack rows of token ids into ids [B, S] and a mask [B, S] of 1 (token) and 0 (padding)."""
    width = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row, dtype=torch.long)
        mask[i, : len(row)] = 1
    return ids.to(device), mask.to(device)
