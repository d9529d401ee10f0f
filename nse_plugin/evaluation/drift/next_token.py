"""Drift of the next-token distributions on held-out text: mean KL(before || after).

The distributions at all positions of a long text take too much memory (0.5 GB for a thousand tokens with a vocabulary
of 128k), so the unedited model's logits are kept, unchanged, at a bounded number of positions evenly spaced over the
text. The divergence at these positions is exact. Every edited model is evaluated at the same positions.
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
    """The unedited model's next-token logits at p positions of a text.

    windows: token ids [w, S] of the windows that contain the positions, padded on the right. rows, columns: [p] each,
    the window and the position in it whose next token is predicted, ordered by window. logits: [p, vocabulary], in the
    model's dtype.

    Save with `safetensors.torch.save_file(vars(reference), path)`, load with `NextTokenReference(**load_file(path))`.
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
    """Compute the unedited model's logits [p, vocabulary] at up to p = `positions` of the positions that `perplexity`
    scores, evenly spaced.

    window, max_tokens, tokens_per_batch: as in `perplexity`. Raises ValueError if positions is below 1, window is below
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
    """Return KL(before || after) of the next-token distribution, in nats, averaged over the reference's positions.

    Exactly zero for the unedited model with the same `tokens_per_batch`. model: the edited model.
    Raises ValueError if its vocabulary size differs from the reference's.
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
    """Return the logits [p, vocabulary] at windows[rows, columns], on the CPU.

    No mask is needed: attention is causal, and no logits after a window's end are used. The head is expensive, so it
    runs only at the columns needed by some window of the batch.
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
