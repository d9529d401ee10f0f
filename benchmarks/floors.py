"""FLOP of optimising z of one fact, computed from a model's shape: what peers spend, and the least that is needed.

A multiplication and an addition are two FLOP; norms, softmax and the optimiser are left out. For each token, a layer of
width d with queries of width q, keys and values of width kv, and m matrices between d and f neurons spends

    linear    = 2 (2 d q + 2 d kv + m d f)          attention = 4 q (positions attended to)

and the head 2 d V. In the backward pass only activations get gradients, which costs as much again for linear layers and
head, and twice as much for attention (both factors of its products need a gradient).

Peers: in each of T evaluations, all layers and the head over all rows, padded to the longest row, and the head once
more over the rewrite rows; T - 1 backward passes through the layers above l_0 and both heads.

Floor: one pass of all layers over every token (prefix and suffix). Then T - 1 forward and backward passes of the layers
above l_0 at the suffix positions. Of the last layer, only keys and values are needed at all of these; its other parts
and the head are needed only at positions that predict a target token, or the token after the subject in the essence
prompt "{} is a". A method that computes the same z one fact at a time needs all of that; more can be saved only on what
facts share (identical context prefixes).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nse_plugin.models.prompts import FactPrompts


@dataclass(frozen=True)
class Shape:
    """Shape of a model.

    q, kv: width of the queries, and of the keys and values. mlp: number of matrices between d and f, three in a gated
    MLP. layer: l_0. steps: T, the evaluations of the loss.
    """

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
        """The part of `linear` for keys and values."""
        return 4 * self.d * self.kv

    @property
    def head(self) -> int:
        return 2 * self.d * self.vocabulary

    @property
    def upper(self) -> int:
        return self.layers - self.layer - 1


# l_0 and T are those of the presets in hparams/NSE.
SHAPES = (
    Shape("SmolLM2-135M", 30, 576, 576, 192, 1536, 3, 49152, layer=6, steps=11),
    Shape("GPT2-XL", 48, 1600, 1600, 1600, 6400, 2, 50257, layer=17, steps=20),
    Shape("GPT-J-6B", 28, 4096, 4096, 4096, 16384, 2, 50400, layer=8, steps=25),
    Shape("Llama3-8B", 32, 4096, 4096, 1024, 14336, 3, 128256, layer=8, steps=25),
)


@dataclass(frozen=True)
class Tokens:
    """Numbers of tokens of one fact.

    rows, suffixes: of each rewrite row, and of its part from the subject's last token on. essence: of the essence
    prompt up to the subject's last token. predicted: target tokens of all rewrite rows. tail: " is a" of the essence
    prompt, which only the peers run.
    """

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
    """Return the FLOP of the peers for one evaluation and for one backward pass."""
    rows, width = len(tokens.rows) + 1, tokens.width
    head = shape.head * width * (rows + len(tokens.rows))
    linear, attention = rows * width * shape.linear, rows * width * 4 * shape.q * width
    return shape.layers * (linear + attention) + head, shape.upper * (linear + 2 * attention) + head


def least_step(shape: Shape, tokens: Tokens) -> tuple[float, float]:
    """Return the least FLOP needed for one evaluation and for one backward pass."""
    rows = [*zip(tokens.rows, tokens.suffixes, strict=True), (tokens.essence, 1)]
    suffixes, read = sum(suffix for _, suffix in rows), tokens.predicted + 1
    last = shape.keys_and_values * suffixes + (shape.linear - shape.keys_and_values) * read
    linear = (shape.upper - 1) * shape.linear * suffixes + last
    attention = shape.upper * 4 * shape.q * sum(row * suffix for row, suffix in rows)
    head = shape.head * read
    return linear + attention + head, linear + 2 * attention + head


def peers_run(shape: Shape, tokens: Tokens) -> float:
    """Return the FLOP of the peers for optimising z of one fact without an early stop."""
    forward, backward = peers_step(shape, tokens)
    return shape.steps * forward + (shape.steps - 1) * backward


def least_run(shape: Shape, tokens: Tokens) -> float:
    """Return the least FLOP needed for optimising z of one fact without an early stop."""
    forward, backward = least_step(shape, tokens)
    rows = (*tokens.rows, tokens.essence)
    once = shape.layers * sum(row * shape.linear + row * row * 4 * shape.q for row in rows)
    return once + (shape.steps - 1) * (forward + backward)


def mean(flops: Sequence[float]) -> float:
    return sum(flops) / len(flops)
