"""FLOP of a z run a fact, from a model's shape alone: what the peers' way spends, and what has to be spent.

A multiplication and an addition are two FLOP; norms, softmax and the optimiser are left out. A layer of width d with
q wide queries, kv wide keys and values, and m matrices to f neurons spends, for each token,

    linear    = 2 (2 d q + 2 d kv + m d f)          attention = 4 q (positions attended to)

and the head 2 d V. Backwards, only activations get gradients: as much again for linear layers and head, twice as much
for attention (each of its products has two factors that need one).

Peers: at each of T evaluations, all layers and the head over all rows, padded to the longest, and the head once more
over the rewrite rows; T - 1 times backwards through the layers above l_0 and both heads.
Floor: all layers once over every token (prefix and suffix); then T - 1 times, forwards and backwards, the layers above
l_0 at the suffix positions, of the last one all but keys and values, and the head, only where a target token, or what
follows the essence, is predicted. Nothing of that can be left out by a method that computes the same z fact by fact;
what facts share (identical context prefixes) can.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nse_plugin.models.prompts import FactPrompts


@dataclass(frozen=True)
class Shape:
    """layer: l_0. steps: T, evaluations of the loss. mlp: matrices between d and f, three in a gated MLP."""

    name: str
    layers: int
    d: int
    q: int
    kv: int
    f: int
    mlp: int
    vocabulary: int
    layer: int
    steps: int

    @property
    def linear(self) -> int:
        return 2 * (2 * self.d * self.q + 2 * self.d * self.kv + self.mlp * self.d * self.f)

    @property
    def keys_and_values(self) -> int:
        """Of `linear`."""
        return 4 * self.d * self.kv

    @property
    def head(self) -> int:
        return 2 * self.d * self.vocabulary

    @property
    def upper(self) -> int:
        return self.layers - self.layer - 1


# l_0 and T as in hparams/NSE.
SHAPES = (
    Shape("SmolLM2-135M", 30, 576, 576, 192, 1536, 3, 49152, layer=6, steps=11),
    Shape("GPT2-XL", 48, 1600, 1600, 1600, 6400, 2, 50257, layer=17, steps=20),
    Shape("GPT-J-6B", 28, 4096, 4096, 4096, 16384, 2, 50400, layer=8, steps=25),
    Shape("Llama3-8B", 32, 4096, 4096, 1024, 14336, 3, 128256, layer=8, steps=25),
)


@dataclass(frozen=True)
class Tokens:
    """Of one fact: the lengths of its rewrite rows and of their suffixes, the essence's up to the subject's last token,
    how many target tokens are predicted in all, and the tail " is a" of the essence, which only the peers run."""

    rows: tuple[int, ...]
    suffixes: tuple[int, ...]
    essence: int
    predicted: int
    tail: int = 2

    @classmethod
    def of(cls, prompts: FactPrompts) -> Tokens:
        rewrites = prompts.rewrites
        return cls(
            tuple(len(row.ids) for row in rewrites),
            tuple(len(row.ids) - row.lookup for row in rewrites),
            len(prompts.essence.ids),
            sum(len(row.targets) for row in rewrites),
        )

    @property
    def width(self) -> int:
        return max(*self.rows, self.essence + self.tail)


def peers_step(shape: Shape, tokens: Tokens) -> tuple[float, float]:
    """FLOP of one evaluation and of one backward pass."""
    rows, width = len(tokens.rows) + 1, tokens.width
    head = shape.head * width * (rows + len(tokens.rows))
    linear, attention = rows * width * shape.linear, rows * width * 4 * shape.q * width
    return shape.layers * (linear + attention) + head, shape.upper * (linear + 2 * attention) + head


def least_step(shape: Shape, tokens: Tokens) -> tuple[float, float]:
    """The same of what has to be done."""
    rows = [*zip(tokens.rows, tokens.suffixes, strict=True), (tokens.essence, 1)]
    suffixes, read = sum(suffix for _, suffix in rows), tokens.predicted + 1
    last = shape.keys_and_values * suffixes + (shape.linear - shape.keys_and_values) * read
    linear = (shape.upper - 1) * shape.linear * suffixes + last
    attention = shape.upper * 4 * shape.q * sum(row * suffix for row, suffix in rows)
    head = shape.head * read
    return linear + attention + head, linear + 2 * attention + head


def peers_run(shape: Shape, tokens: Tokens) -> float:
    """FLOP of a whole z run of one fact that no early stop ends."""
    forward, backward = peers_step(shape, tokens)
    return shape.steps * forward + (shape.steps - 1) * backward


def least_run(shape: Shape, tokens: Tokens) -> float:
    """The same of what has to be done."""
    forward, backward = least_step(shape, tokens)
    rows = (*tokens.rows, tokens.essence)
    once = shape.layers * sum(row * shape.linear + row * row * 4 * shape.q for row in rows)
    return once + (shape.steps - 1) * (forward + backward)


def mean(flops: Sequence[float]) -> float:
    return sum(flops) / len(flops)
