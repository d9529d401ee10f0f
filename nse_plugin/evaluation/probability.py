"""Efficacy, Generalization and Specificity: is the new target more probable than the true one?

The definitions are those of ROME (Meng et al. 2022, arXiv 2202.05262, section 3.4) and MEMIT (arXiv
2210.07229, section 5.2.2), which the NSE paper uses too. P(target) is the geometric mean over the target's
tokens, so that targets of different lengths compare.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from nse_plugin.facts import Fact, FactError
from nse_plugin.models.frozen import frozen
from nse_plugin.models.prompts import pad_right, split_target
from nse_plugin.models.replay import batches_by_length

METRICS = ("efficacy", "generalization", "specificity")


def score_facts(model: Any, tokenizer: Any, facts: Sequence[Fact], tokens_per_batch: int = 1024) -> pd.DataFrame:
    """Score every fact on the model as it is now; one row a fact, in the order given.

    Columns: `case_id`; `efficacy`, 1.0 when P(target_new) > P(target_true) after the fact's own prompt, else
    0.0; `generalization`, the same, averaged over its rephrase prompts; `specificity`, the share of its
    locality prompts with P(true answer) > P(target_new). NaN where a fact has no such prompts.

    Raises FactError when there are no facts, or one has no target_true.
    """
    if not facts:
        raise FactError("facts is empty: scoring needs at least one fact.")
    contests: list[tuple[int, str, str, str, str]] = []  # row, metric, prompt, who should win, who lose
    for row, fact in enumerate(facts):
        if fact.target_true is None:
            raise FactError(f"fact {fact.case_id}: target_true is None: scoring needs it, please give it.")
        contests.append((row, "efficacy", fact.text, fact.target_new, fact.target_true))
        for prompt in fact.rephrase_prompts:
            contests.append((row, "generalization", prompt, fact.target_new, fact.target_true))
        for prompt, answer in fact.locality_prompts:
            contests.append((row, "specificity", prompt, answer, fact.target_new))

    pairs = [(prompt, target) for _, _, prompt, winner, loser in contests for target in (winner, loser)]
    logprobs = mean_log_probabilities(model, tokenizer, pairs, tokens_per_batch).view(-1, 2)
    won = pd.DataFrame({
        "row": [contest[0] for contest in contests],
        "metric": [contest[1] for contest in contests],
        "won": (logprobs[:, 0] > logprobs[:, 1]).double().numpy(),
    })  # fmt: skip
    means = won.pivot_table(index="row", columns="metric", values="won", aggfunc="mean")
    frame = means.reindex(index=range(len(facts)), columns=list(METRICS))
    frame = frame.rename_axis(index=None, columns=None)
    frame.insert(0, "case_id", [fact.case_id for fact in facts])
    return frame


def mean_scores(frame: pd.DataFrame) -> dict[str, float]:
    """The mean of each metric over a `score_facts` frame, NaN skipped: {"efficacy": 0.98, ...}."""
    return {metric: float(frame[metric].mean()) for metric in METRICS}


def mean_log_probabilities(
    model: Any, tokenizer: Any, pairs: Sequence[tuple[str, str]], tokens_per_batch: int = 1024
) -> Tensor:
    """Mean log-probability per target token (natural log) of each `(prompt, target)` pair.

    The target follows the prompt after one space. Rows are built from token ids and padded on the right, so
    the tokenizer's padding side and pad token play no part, and batching changes nothing but rounding.
    tokens_per_batch bounds rows x longest row of one forward pass.

    Returns a float32 tensor on the CPU, shape [len(pairs)].
    """
    encoded = [split_target(tokenizer, prompt.rstrip(), target) for prompt, target in pairs]
    # A target's last token is predicted, never read: one-token targets of a prompt share their row.
    readers: dict[tuple[int, ...], list[int]] = {}
    for index, (prompt_ids, target_ids) in enumerate(encoded):
        readers.setdefault((*prompt_ids, *target_ids[:-1]), []).append(index)

    means = torch.empty(len(pairs))
    device = model.get_input_embeddings().weight.device
    with frozen(model), torch.inference_mode():
        unique = list(readers)
        for chosen in batches_by_length([len(row) for row in unique], tokens_per_batch):
            rows = [unique[i] for i in chosen]
            read = [(row, index) for row, ids in enumerate(rows) for index in readers[ids]]
            # The head, wide as it is, runs only at positions that some row is read at.
            wanted = sorted({place for row, index in read for place in _places(rows[row], encoded[index][1])})
            column = {place: number for number, place in enumerate(wanted)}
            ids, mask = pad_right(rows, device)
            keep = torch.tensor(wanted, device=device)
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=keep).logits
            for row, index in read:
                target = torch.tensor(encoded[index][1], device=device)
                columns = [column[place] for place in _places(rows[row], encoded[index][1])]
                means[index] = logits[row, columns].float().log_softmax(dim=-1).gather(1, target[:, None]).mean()
    return means


def _places(row: Sequence[int], target: Sequence[int]) -> range:
    """The positions of a row whose logits predict the target's tokens."""
    return range(len(row) - len(target), len(row))
