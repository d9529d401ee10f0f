"""Facts as training examples for EasyEdit's trainer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nse_plugin.facts import Fact, FactError
from nse_plugin.models.prompts import split_target

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Examples(torch.utils.data.Dataset[int]):
    """A dataset of `count` examples for EasyEdit's trainer. It repeats the facts, each time with their next locality
    prompt."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, facts: Sequence[Fact], device: torch.device, count: int
    ) -> None:
        if not facts:
            raise FactError("facts is empty: training MEND needs facts to train on, and others to validate on.")
        for fact in facts:
            if not fact.locality_prompts:
                raise FactError(
                    f"fact {fact.case_id} ({fact.text!r:.60}): locality_prompts is empty: MEND learns from them what "
                    "must not change, so give at least one, or leave the fact out."
                )
        self._tokenizer, self._facts, self._device, self._count = tokenizer, facts, device, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> int:
        if index >= self._count:
            raise IndexError(index)
        return index

    def collate_gpt_fn(self, indices: Sequence[int]) -> dict[str, dict[str, Tensor]]:
        """Return one fact as a batch: the edit (labels: the target) and a text that must not change (labels: its next
        tokens).

        Each has input_ids and attention_mask [1, S] and labels [1, t], for the last t tokens.
        """
        (index,) = indices
        fact = self._facts[index % len(self._facts)]
        question, answer = fact.locality_prompts[index // len(self._facts) % len(fact.locality_prompts)]
        prompt, target = split_target(self._tokenizer, *fact.asked(fact.text, fact.target_new))
        untouched = [token for part in split_target(self._tokenizer, *fact.asked(question, answer)) for token in part]
        return {
            "edit_inner": self._batch(prompt + target, target),
            "loc": self._batch(untouched, [*untouched[1:], -100]),
            "cond": {},
        }

    def _batch(self, ids: list[int], labels: list[int]) -> dict[str, Tensor]:
        row = torch.tensor([ids], device=self._device)
        wanted = torch.tensor([labels], device=self._device)
        return {"input_ids": row, "attention_mask": torch.ones_like(row), "labels": wanted}
