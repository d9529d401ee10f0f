"""Text the model writes itself, seeded: context templates for the edits, passages for the second moments."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nse_plugin.facts import SLOT
from nse_plugin.models.frozen import frozen

TEMPLATE_OPENINGS = ("The", "Therefore", "Because", "I", "You")
TEMPLATE_TOKENS = 10  # as the authors' code generates


def context_templates(model: nn.Module, tokenizer: Any, seed: int) -> list[str]:
    """The contexts a fact is seen in: "{}" itself and five short beginnings the model writes, as "...text. {}"."""
    templates = [SLOT]
    for opening in TEMPLATE_OPENINGS:
        ids = tokenizer(opening, return_tensors="pt")["input_ids"]
        written = write(model, ids, TEMPLATE_TOKENS, seed, top_k=5)[0]
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


def write(model: nn.Module, ids: Tensor, new_tokens: int, seed: int, top_k: int = 0) -> Tensor:
    """Sample `new_tokens` tokens behind each row of ids [B, S] (no padding), at temperature 1.

    top_k: 0 for the whole distribution. Returns [B, S + new_tokens]. The global random state is left as it was.
    """
    device = next(model.parameters()).device
    with frozen(model), seeded(seed, device):
        written: Tensor = model.generate(  # type: ignore[operator]
            input_ids=ids.to(device),
            attention_mask=torch.ones_like(ids).to(device),
            do_sample=True,
            temperature=1.0,
            top_k=top_k,
            top_p=1.0,
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
            # no row ends early, so none is padded; but a text that ends with the pad token would draw a warning
            pad_token_id=int((ids[:, -1] == 0).any()),
        )
    return written


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Within, torch's random numbers start from `seed`; the state outside is untouched."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
