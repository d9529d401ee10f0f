"""What all implementations share: one model, its tokenizer, contexts, second moments and hyperparameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from benchmarks.facts import CONTEXTS, check_lengths
from nse_plugin.facts import Fact
from nse_plugin.hparams import NSEHyperParams
from nse_plugin.method.rewind import OriginalWeights
from nse_plugin.models.layout import Layout
from nse_plugin.models.loading import load
from nse_plugin.models.prompts import FactPrompts, encode_fact
from nse_plugin.moments.measure import measure_moments
from nse_plugin.replay.check import check_model
from nse_plugin.session import EditSession

# Every fact takes part in both passes, and every neuron in the solve. Otherwise rounding could decide whether a neuron
# near the limit of the chosen set, or a fact near alpha, takes part, and two implementations would do different work.
SAME_WORK: dict[str, Any] = {"preset": "released", "p": 1.0, "alpha": 1e-9, "upper_bound": None, "max_iterations": 3}
WINDOWS, WINDOW = 64, 128  # number and length of the texts for the second moments


@dataclass
class Setting:
    """What all implementations share. moments: C0 by edited layer, [f, f]."""

    model: Any
    tokenizer: Any
    hparams: NSEHyperParams
    contexts: Sequence[str]
    moments: dict[int, Tensor]

    @classmethod
    def smollm2(cls) -> Setting:
        """Load SmolLM2-135M in float32 with its preset `hparams/NSE/smollm2-135m.yaml`, changed by `SAME_WORK`."""
        model, tokenizer = load("embedded")
        check_lengths(tokenizer)
        hparams = dataclasses.replace(NSEHyperParams.from_hparams("smollm2-135m"), **SAME_WORK)
        layout = Layout.of(model)
        sums = measure_moments(layout, hparams.layers, [text_windows(model, WINDOWS)])
        moments = {layer: total / sums.tokens for layer, total in sums.sums.items()}
        return cls(model, tokenizer, hparams, CONTEXTS, moments)

    @cached_property
    def layout(self) -> Layout:
        """The model's parts, checked to be replayable; like the second moments, this is done once and not timed."""
        _ = self.session().templates  # the process remembers the check that this session makes
        layout = Layout.of(self.model)
        check_model(layout, self.hparams.layers, self.tokenizer)
        return layout

    def encoded(self, facts: Sequence[Fact]) -> list[FactPrompts]:
        """Encode the facts as token ids, in every context."""
        return [encode_fact(self.tokenizer, fact, self.contexts, self.layout.max_positions) for fact in facts]

    def session(self, **changed: Any) -> EditSession:
        """Make a session of ours on the current weights. changed: hyperparameters to replace."""
        hparams = dataclasses.replace(self.hparams, **changed)
        return EditSession(self.model, self.tokenizer, hparams, self.moments, list(self.contexts))

    @contextmanager
    def restored(self) -> Iterator[OriginalWeights]:
        """Run a block that may edit the model: yields the original weights and restores them afterwards."""
        matrices = self.layout.output_matrices(self.hparams.layers)
        originals = OriginalWeights.of(matrices)
        try:
            yield originals
        finally:
            originals.restore(matrices)

    def change_since(self, originals: OriginalWeights) -> Tensor:
        """Return the change of all edited matrices since `originals`, as one float64 vector [n]."""
        matrices = self.layout.output_matrices(self.hparams.layers)
        return torch.cat(
            [
                (matrices[layer].weight.data.double() - old.double()).flatten()
                for layer, old in originals.tensors.items()
            ]
        )


def text_windows(model: Any, count: int, length: int = WINDOW) -> list[list[int]]:
    """Return `count` rows of `length` random token ids, the same in every call.

    The content of a text does not affect the time that its second moments take.
    """
    generator = torch.Generator().manual_seed(0)
    size = model.get_input_embeddings().weight.shape[0]
    rows: list[list[int]] = torch.randint(size, (count, length), generator=generator).tolist()
    return rows


def relative_difference(found: Tensor, expected: Tensor) -> float:
    """Return norm(found - expected) / norm(expected) for vectors [n], or its largest value over the rows of [m, n]."""
    found, expected = found.double(), expected.double()
    return float(((found - expected).norm(dim=-1) / expected.norm(dim=-1)).max())
