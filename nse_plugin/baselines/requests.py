"""EasyEdit's requests, created from facts and read as texts, and tokenizers for its algorithms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from nse_plugin.facts import Fact, FactError
from nse_plugin.facts.texts import SLOT

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def request_of(fact: Fact, hparams: Any) -> dict[str, object]:
    """Convert a fact to the request that EasyEdit's editors pass to an algorithm.

    Algorithms that look up the subject replace every occurrence of it in the prompt by `{}`. They get the prompt that
    already has its one `{}`, which all of them accept.
    """
    request: dict[str, Any] = {
        "prompt": fact.prompt if hasattr(hparams, "fact_token") else fact.text,
        "subject": fact.subject,
        "target_new": fact.target_new.strip(" "),
        "ground_truth": fact.target_true or "<|endoftext|>",  # EasyEdit's placeholder if there is none
    }
    besides = {"case_id": fact.case_id, "separator": fact.separator, "aliases": list(fact.aliases) or None}
    return request | {name: value for name, value in besides.items() if value is not None}


def padded_tokenizer(tokenizer: PreTrainedTokenizerBase, alg_name: str, side: str) -> PreTrainedTokenizerBase:
    """Return a copy of the tokenizer that has a pad token and pads on `side`, from which the algorithm counts no
    positions."""
    tokenizer = deepcopy(tokenizer)
    tokenizer.padding_side = side
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if alg_name == "FT":
        # FT ignores target tokens equal to `unk_token`. It was written for GPT-2, where these are the padding. Give
        # other tokenizers one token for both, which is the BOS if they put one before the target: it is ignored too.
        first = tokenizer("a")["input_ids"][0]
        if first == tokenizer.bos_token_id:
            tokenizer.pad_token = tokenizer.bos_token
        tokenizer.unk_token = tokenizer.pad_token
    return tokenizer


def prompts_and_targets(requests: Sequence[Mapping[str, object]]) -> list[tuple[str, str, str]]:
    """Return `(prompt with the subject written out, target, separator)` of every request.

    requests: `prompt` (with the subject written out, or with `{}` and a `subject`) and `target_new`; `separator` if it
    is not the space that EasyEdit puts between them.
    Raises FactError if a text is missing, or a prompt has `{}` and there is no subject.
    """
    return [_prompt_and_target(request, number) for number, request in enumerate(requests)]


def _prompt_and_target(request: Mapping[str, Any], number: int) -> tuple[str, str, str]:
    prompt, target, subject = (request.get(name) for name in ("prompt", "target_new", "subject"))
    for name, text in (("prompt", prompt), ("target_new", target)):
        if not isinstance(text, str) or not text.strip():
            raise FactError(f"request {number}: {name} is {text!r}: give it as a non-empty string.")
    assert isinstance(prompt, str)
    assert isinstance(target, str)
    separator = request.get("separator", " ")
    if SLOT not in prompt:
        return prompt, target, separator
    if not isinstance(subject, str):
        raise FactError(f"request {number}: subject is {subject!r}: prompt {prompt!r} has a '{{}}' for it, so give it.")
    return prompt.replace(SLOT, subject), target, separator
