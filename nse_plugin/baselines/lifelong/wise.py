"""WISE from EasyEdit's main."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nse_plugin.baselines.lifelong.memory import Apply, Edited, Request, StatefulMethod, lent_globals
from nse_plugin.models.writing.generation import continue_texts
from nse_plugin.models.writing.templates import NEW_TOKENS, OPENINGS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class WISE(StatefulMethod):
    """WISE (Wang et al. 2024, arXiv 2405.14768): a side memory for one matrix, and a threshold that routes to it.

    With every fact it needs an unrelated text, which must not be routed to the side memory. EasyEdit lets the user
    choose these texts; here the unedited model writes them. They are shorter than any fact in its context: if one were
    longer, EasyEdit would treat part of the prompt as the target.

    The memory consists of the adapter in the model and two lists of edits; this class cannot save it.
    """

    padding_side = "left"

    def __init__(self, apply: Apply) -> None:
        super().__init__(apply)
        self._histories: dict[str, Any] = {"edit_history": [], "merge_group_edit_history": []}
        self._unrelated: list[str] = []

    def __call__(
        self, model: nn.Module, tok: PreTrainedTokenizerBase, requests: Sequence[Request], hparams: Any, **options: Any
    ) -> Edited:
        if not self._unrelated:
            self._unrelated = _short_texts(model, tok)
        settings = replace(hparams, load_path=None)  # the sequence begins with the unedited model
        settings.sequential_edit = True  # not a dataclass field; else every call wraps the last adapter in a new one
        edits = len(self._histories["edit_history"])
        facts = [
            {**request, "loc_prompt": self._unrelated[(edits + number) % len(self._unrelated)]}
            for number, request in enumerate(requests)
        ]
        with lent_globals(importlib.import_module("easyeditor.models.wise.WISE"), self._histories):
            wrapper, _ = self._apply(model, tok, facts, settings, **options)
        adapter = wrapper.get_adapter_layer()
        adapter.zero_grad()
        if not isinstance(adapter.forward, _RowByRow):
            adapter.forward = _RowByRow(model, adapter)
        return wrapper.model, {}


class _RowByRow:
    """The forward pass of WISE's adapter, separately for each row of a batch.

    EasyEdit's own forward measures how far the side memory's output is from the original one, as a mean over the whole
    batch including its padding, and routes the whole batch one way. That is correct for one text without padding, so
    here it is called with each row's unpadded text. In generation with a cache it decides token by token, as in
    EasyEdit.
    """

    def __init__(self, model: nn.Module, adapter: Any) -> None:
        self._adapter, self._forward = adapter, adapter.forward
        self._mask: Tensor | None = None
        model.register_forward_pre_hook(self._remember_mask, with_kwargs=True)

    def _remember_mask(self, _: nn.Module, __: tuple[Any, ...], options: Mapping[str, Any]) -> None:
        self._mask = options.get("attention_mask")

    def __call__(self, hidden: Tensor) -> Tensor:
        """Run the adapter on hidden [B, S, f]. Returns [B, S, d]."""
        if self._adapter.editing:
            return self._forward(hidden)  # type: ignore[no-any-return]
        output: Tensor = self._adapter.original_layer(hidden)
        rows, length = hidden.shape[:2]
        read = torch.ones(rows, length, dtype=torch.bool, device=hidden.device)
        if self._mask is not None:
            read = self._mask[:, -length:].to(read)
        for row in range(rows):
            output[row, read[row]] = self._forward(hidden[row : row + 1, read[row]])[0].to(output.dtype)
        return output


def _short_texts(model: nn.Module, tok: PreTrainedTokenizerBase) -> list[str]:
    """Let the model write twenty beginnings of texts, each as long as a context template; always the same ones."""
    prompts = OPENINGS * 4
    texts = continue_texts(model, tok, prompts, new_tokens=NEW_TOKENS, places=range(100, 100 + len(prompts)))
    return [" ".join(text.split()) for text in texts]
