"""Drift of the next-token distributions on held-out text: mean KL(before || after).

All distributions of a long text cannot be kept (a thousand tokens of a 128k vocabulary are 0.5 GB), so the unedited
model's logits are kept, as the model gave them, at a bounded number of positions, evenly spaced over the text; there
the divergence is exact. Every edited model is asked at the same positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div

from nse_plugin.evaluation.sampling import evenly_spaced
from nse_plugin.evaluation.windows import text_windows
from nse_plugin.models.frozen import frozen
from nse_plugin.models.inputs import input_device
from nse_plugin.models.prompts import pad_right

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class NextTokenReference:
    """What the unedited model predicts, at p positions of a text.

    windows: token ids [w, S] of the windows that hold them, padded on the right. rows, columns: [p] each, the window
    and the place in it whose next token is predicted; by window. logits: [p, vocabulary], in the model's dtype.

    `safetensors.torch.save_file(vars(reference), path)` keeps it, `NextTokenReference(**load_file(path))` reads it.
    """

    windows: Tensor
    rows: Tensor
    columns: Tensor
    logits: Tensor


def next_token_reference(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    positions: int = 256,
    window: int = 512,
    max_tokens: int | None = None,
    tokens_per_batch: int = 1024,
) -> NextTokenReference:
    """The unedited model's logits at `positions` of the places that `perplexity` scores, evenly spaced (all of a few).

    window, max_tokens, tokens_per_batch: as in `perplexity`. Raises ValueError when positions is below 1, window below
    2, or the text has fewer than two tokens.
    """
    if positions < 1:
        raise ValueError(f"positions = {positions} cannot be used: give 1 or more.")
    texts = text_windows(model, tokenizer, text, window, max_tokens)
    places = [(row, column) for row, ids in enumerate(texts) for column in range(len(ids) - 1)]
    chosen = [places[number] for number in evenly_spaced(len(places), positions)]
    read = sorted({row for row, _ in chosen})  # long texts have windows without a chosen position
    windows, _ = pad_right([texts[row] for row in read], torch.device("cpu"))
    rows = torch.tensor([read.index(row) for row, _ in chosen])
    columns = torch.tensor([column for _, column in chosen])
    return NextTokenReference(windows, rows, columns, _logits(model, windows, rows, columns, tokens_per_batch))


def next_token_drift(reference: NextTokenReference, model: nn.Module, tokens_per_batch: int = 1024) -> float:
    """KL(before || after) of the next-token distribution, in nats, mean over the reference's positions.

    Zero, to the last bit, for the unedited model with the same `tokens_per_batch`. model: the edited one.
    Raises ValueError when its vocabulary is not the reference's.
    """
    after = _logits(model, reference.windows, reference.rows, reference.columns, tokens_per_batch)
    if reference.logits.shape[1] != after.shape[1]:
        raise ValueError(
            f"reference has logits of {reference.logits.shape[1]} tokens, and this model's vocabulary has "
            f"{after.shape[1]}: make the reference with next_token_reference on this model before any edit."
        )
    divergences = [
        kl_div(now.double().log_softmax(dim=-1), before.double().log_softmax(dim=-1), reduction="sum", log_target=True)
        for before, now in zip(reference.logits, after, strict=True)
    ]
    return float(torch.stack(divergences).mean())


def _logits(model: nn.Module, windows: Tensor, rows: Tensor, columns: Tensor, tokens_per_batch: int) -> Tensor:
    """Logits [p, vocabulary] at windows[rows, columns], on the CPU.

    No mask: attention is causal, and nothing past a window's end is read. The head, wide as it is, runs only at
    columns that some window of the batch is read at.
    """
    device = input_device(model)
    per_batch = max(1, tokens_per_batch // windows.shape[1])
    parts = []
    with frozen(model), torch.no_grad():
        for first in range(0, len(windows), per_batch):
            here = (rows >= first) & (rows < first + per_batch)
            wanted = torch.tensor(sorted(set(columns[here].tolist())))
            ids = windows[first : first + per_batch].to(device)
            logits = model(input_ids=ids, use_cache=False, logits_to_keep=wanted.to(device)).logits
            parts.append(logits[rows[here] - first, torch.searchsorted(wanted, columns[here])].cpu())
    return torch.cat(parts)
