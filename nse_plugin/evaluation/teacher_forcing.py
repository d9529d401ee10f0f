"""Teacher-forced predictions: each token of a target is predicted from the prompt and the target's tokens before it.

One batched pass serves the metrics of probability, accuracy and locality, which are computed from the same predictions.
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
    """A model's prediction of one target after one prompt.

    log_probability: mean over the target's tokens (natural logarithm), so that targets of different lengths are
    comparable. target: the target's token ids. best: the model's most likely token at each of the target's positions;
    -1 if the logits there contain NaN.
    """

    log_probability: float
    target: tuple[int, ...]
    best: tuple[int, ...]

    @classmethod
    def of(cls, logits: Tensor, target: Sequence[int]) -> Prediction:
        """Build from the logits [n, vocabulary] that predict each of the target's n tokens."""
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
        """The share of the target's tokens that are the model's most likely tokens."""
        return share_of_equal(self.best, self.target)


Predictions = Mapping[Pair, Prediction]


def predict(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, pairs: Iterable[Pair], tokens_per_batch: int = 1024
) -> dict[Pair, Prediction]:
    """Predict every distinct pair of a prompt and a target, joined by `facts.continuation`.

    pairs: `(prompt, target)` or `(prompt, target, separator)`, as returned by `Fact.asked`.

    Rows are built from token ids and padded on the right, so the tokenizer's padding side and pad token are not used,
    and batching changes nothing but rounding. tokens_per_batch bounds rows x longest row of one forward pass.
    Raises ValueError if a pair has more tokens than the model has positions.
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
    """Predict every target. encoded: the token ids of each prompt and of its target."""
    readers = _rows(encoded)

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
            # The head is expensive, so it runs only at the positions that some row needs.
            wanted = sorted({place for _, index in read for place in _places(*encoded[index])})
            column = {place: number for number, place in enumerate(wanted)}
            ids, mask = pad_right(rows, device)
            keep = torch.tensor(wanted, device=device)
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=keep).logits
            for row, index in read:
                target = encoded[index][1]
                at_target = logits[row, [column[place] for place in _places(*encoded[index])]]
                predictions[index] = Prediction.of(at_target, target)
    return [predictions[index] for index in range(len(encoded))]


def _rows(encoded: Sequence[tuple[Sequence[int], Sequence[int]]]) -> dict[tuple[int, ...], list[int]]:
    """Return the rows to run, each with the indices of the pairs that are predicted in it.

    A target's last token is predicted but is not an input, so all one-token targets of a prompt need the same row. A
    row that another one begins with is not run: no token attends to later ones.
    """
    needed: dict[tuple[int, ...], list[int]] = {}
    for index, (prompt_ids, target_ids) in enumerate(encoded):
        needed.setdefault((*prompt_ids, *target_ids[:-1]), []).append(index)
    rows: dict[tuple[int, ...], list[int]] = {}
    longest: tuple[int, ...] = ()
    for row in sorted(needed, reverse=True):  # a row comes right after those that begin with it
        if not rows or longest[: len(row)] != row:
            longest = row
        rows.setdefault(longest, []).extend(needed[row])
    return rows


def _places(prompt: Sequence[int], target: Sequence[int]) -> range:
    """Return the positions whose logits predict the target's tokens, in any row that begins with both."""
    return range(len(prompt) - 1, len(prompt) + len(target) - 1)


def share_of_equal(one: Sequence[int], other: Sequence[int]) -> float:
    """Return the share of positions at which two rows of token ids of the same length agree."""
    return mean_or_nan([float(a == b) for a, b in zip(one, other, strict=True)])


def mean_or_nan(values: Sequence[float]) -> float:
    """Return the mean; NaN, which tables leave empty, if there are no values."""
    return float(np.mean(values)) if len(values) else math.nan
