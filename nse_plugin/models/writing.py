"""Text the model writes itself, seeded: context templates, passages for the second moments, texts to judge it by."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nse_plugin.facts import SLOT
from nse_plugin.models.frozen import frozen
from nse_plugin.models.prompts import pad_right, without_end

TEMPLATE_OPENINGS = ("The", "Therefore", "Because", "I", "You")
TEMPLATE_TOKENS = 10  # as the authors' code generates
TOP_K = 5  # of the most likely tokens, as ROME's generation takes


def context_templates(model: nn.Module, tokenizer: Any, seed: int) -> list[str]:
    """The contexts a fact is seen in: "{}" itself and five short beginnings the model writes, as "...text. {}"."""
    openings = [without_end(tokenizer, opening) for opening in TEMPLATE_OPENINGS]
    draws = uniform_draws(seed, range(len(openings)), TEMPLATE_TOKENS)
    templates = [SLOT]
    for written in write(model, openings, draws, never=tokenizer.all_special_ids, top_k=TOP_K):
        text = tokenizer.decode(written, skip_special_tokens=True)
        templates.append(" ".join(text.replace("{", " ").replace("}", " ").split()) + f". {SLOT}")
    return templates


def check_templates(templates: list[str]) -> list[str]:
    """Raise ValueError unless every template has one `{}` and the first is "{}" itself."""
    if not templates or templates[0] != SLOT:
        raise ValueError(f"templates = {templates!r:.80} cannot be used: the first template must be '{{}}' itself.")
    for template in templates:
        if template.count(SLOT) != 1:
            raise ValueError(f"template {template!r} cannot be used: write '{{}}' exactly once, where the prompt goes.")
    return list(templates)


def uniform_draws(seed: int, places: Iterable[int], tokens: int) -> Tensor:
    """Numbers in [0, 1), float64 [rows, tokens]; a row depends on the seed and its place only, not on its neighbours.

    torch's and numpy's global generators are not touched.
    """
    return torch.from_numpy(np.stack([np.random.default_rng((seed, place)).random(tokens) for place in places]))


def write(
    model: Any, rows: Sequence[Sequence[int]], draws: Tensor, never: Sequence[int], top_k: int | None = None
) -> list[list[int]]:
    """Sample as many tokens behind each row of token ids as `draws` [rows, tokens] has columns, at temperature 1.

    Each token is the `draw` quantile of the distribution over the `top_k` most likely tokens, the best first (None:
    over all). never: tokens that are not drawn, an end of text above all. Batching changes nothing but rounding.

    Returns the rows, continued.
    """
    device = model.get_input_embeddings().weight.device
    ids, mask = _pad_left(rows, device)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    cache, written = None, []
    with frozen(model), torch.inference_mode():
        for draw in draws.to(device).T:
            out = model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            cache = out.past_key_values
            ids = _drawn(out.logits[:, -1].float(), draw, never, top_k)[:, None]
            mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
            positions = positions[:, -1:] + 1
            written.append(ids)
    new = torch.cat(written, dim=1).tolist()
    return [[*read, *more] for read, more in zip(rows, new, strict=True)]


def _drawn(logits: Tensor, draw: Tensor, never: Sequence[int], top_k: int | None) -> Tensor:
    """One token a row, [B]; logits: [B, V], draw: float64 [B]."""
    logits[:, [token for token in never if token < logits.shape[1]]] = -torch.inf  # a pad token may lie beyond
    if top_k is None:
        tokens = None
    else:
        logits, tokens = logits.topk(top_k, dim=-1)
    passed = logits.double().softmax(dim=-1).cumsum(dim=-1)
    # the sum may round to just below 1
    choice = torch.searchsorted(passed, draw[:, None].contiguous(), right=True).clamp(max=passed.shape[1] - 1)
    return choice[:, 0] if tokens is None else tokens.gather(1, choice)[:, 0]


def _pad_left(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and mask [B, longest], padded on the left: every row's next token comes at the same place."""
    ids, mask = pad_right([row[::-1] for row in rows], device)
    return ids.flip(1), mask.flip(1)
