"""A model's prediction of a target, each of whose tokens is predicted from the prompt and the tokens before it.

One batched pass answers for all the metrics of probability, accuracy and locality: they only read different things
out of the same predictions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from nse_plugin.facts import Pair
from nse_plugin.models.batching import batches_by_length, padding_is_safe
from nse_plugin.models.frozen import frozen
from nse_plugin.models.inputs import input_device
from nse_plugin.models.positions import check_room, max_positions
from nse_plugin.models.prompts import pad_right, split_target

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Prediction:
    """Of one target after one prompt.

    log_probability: mean over the target's tokens (natural logarithm), so that targets of different lengths compare.
    target: the target's token ids. best: at each of them, the token the model holds most likely; -1 where its logits
    are not numbers.
    """

    log_probability: float
    target: tuple[int, ...]
    best: tuple[int, ...]

    @classmethod
    def of(cls, logits: Tensor, target: Sequence[int]) -> Prediction:
        """logits: [n, vocabulary], at each of the target's n tokens."""
        logits = logits.float()
        following = torch.tensor(target, device=logits.device)[:, None]
        mean = logits.log_softmax(dim=-1).gather(1, following).mean()
        best = logits.argmax(dim=-1).masked_fill(logits.isnan().any(dim=-1), -1)
        return cls(float(mean), tuple(target), tuple(best.tolist()))

    @property
    def is_said(self) -> bool:
        """Whether each of the target's tokens is the most likely one."""
        return self.best == self.target

    @property
    def is_begun(self) -> bool:
        """Whether the target's first token is the most likely one."""
        return self.best[0] == self.target[0]

    @property
    def probability(self) -> float:
        """The geometric mean of the target tokens' probabilities."""
        return math.exp(self.log_probability)

    @property
    def accuracy(self) -> float:
        """The share of the target's tokens that the model holds most likely."""
        return share_of_equal(self.best, self.target)


Predictions = Mapping[Pair, Prediction]


def predict(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, pairs: Iterable[Pair], tokens_per_batch: int = 1024
) -> dict[Pair, Prediction]:
    """The prediction of every distinct pair of a prompt and a target, joined by `facts.continuation`.

    pairs: `(prompt, target)` or `(prompt, target, separator)`, as `Fact.asked` makes them.

    Rows are built from token ids and padded on the right, so the tokenizer's padding side and pad token play no
    part, and batching changes nothing but rounding. tokens_per_batch bounds rows x longest row of one forward pass.
    Raises ValueError for a pair that takes more tokens than the model has positions.
    """
    unique = list(dict.fromkeys(pairs))
    encoded = [split_target(tokenizer, *pair) for pair in unique]
    positions = max_positions(model.config)
    for (prompt, target, *_), (before, after) in zip(unique, encoded, strict=True):
        check_room(prompt, len(before) + len(after) - 1, f" with the target {target!r:.30}", positions)
    return dict(zip(unique, predict_tokens(model, encoded, tokens_per_batch), strict=True))


def predict_tokens(
    model: nn.Module, encoded: Sequence[tuple[Sequence[int], Sequence[int]]], tokens_per_batch: int = 1024
) -> list[Prediction]:
    """The prediction of every target, each given as the token ids of its prompt and its own."""
    # A target's last token is predicted, never read: one-token targets of a prompt share their row.
    readers: dict[tuple[int, ...], list[int]] = {}
    for index, (prompt_ids, target_ids) in enumerate(encoded):
        readers.setdefault((*prompt_ids, *target_ids[:-1]), []).append(index)

    predictions: dict[int, Prediction] = {}
    device = input_device(model)
    with frozen(model), torch.inference_mode():
        different = list(readers)
        lengths = [len(row) for row in different]
        for chosen in batches_by_length(
            lengths, tokens_per_batch, padded=padding_is_safe(model, max(lengths, default=0))
        ):
            rows = [different[i] for i in chosen]
            read = [(row, index) for row, ids in enumerate(rows) for index in readers[ids]]
            # The head, wide as it is, runs only at positions that some row is read at.
            wanted = sorted({place for row, index in read for place in _places(rows[row], encoded[index][1])})
            column = {place: number for number, place in enumerate(wanted)}
            ids, mask = pad_right(rows, device)
            keep = torch.tensor(wanted, device=device)
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=keep).logits
            for row, index in read:
                target = encoded[index][1]
                at_target = logits[row, [column[place] for place in _places(rows[row], target)]]
                predictions[index] = Prediction.of(at_target, target)
    return [predictions[index] for index in range(len(encoded))]


def _places(row: Sequence[int], target: Sequence[int]) -> range:
    """The positions of a row whose logits predict the target's tokens."""
    return range(len(row) - len(target), len(row))


def share_of_equal(one: Sequence[int], other: Sequence[int]) -> float:
    """At how many of their places, of all, two rows of token ids of the same length agree."""
    return mean_or_nan([float(a == b) for a, b in zip(one, other, strict=True)])


def mean_or_nan(values: Sequence[float]) -> float:
    """The mean; NaN, which tables leave empty, when there is nothing to average."""
    return float(np.mean(values)) if len(values) else math.nan
