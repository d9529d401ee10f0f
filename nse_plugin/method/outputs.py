"""What a layer does to the output of `W_out` before adding it to the hidden state, found by running the layer.

y = x + v           most models: identity
y = x + c v         Granite's residual_multiplier, the gate of a shared expert: a factor, for each token its own
y = x + N(v)        Gemma 2 and 3, OLMo 2, Exaone 4, GLM-4: a norm, N(v) = g v / rms(v)

A round asks for a change r of y and solves for a change R of v. With a factor R = r / c. What a norm lets through has a
fixed length: N(v) lies on the ellipsoid norm(N(v) / g) = sqrt(d), whatever v is. Then v + R is the vector whose N is
nearest to N(v) + r,

    u = argmin norm(g u - N(v) - r),   norm(u) = sqrt(d),   R = rms(v) u - v

Which of these a layer does is seen in the gradient of y by v, which is exact in every precision.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nse_plugin.models.layout import Layout
from nse_plugin.models.prompts import EncodedPrompt
from nse_plugin.replay.recording import output_of
from nse_plugin.support.forward import StopForward, hooked

# Gradients are compared with this tolerance, which 16-bit models need; the forms differ by factors of 2.
TOLERANCE = 0.05
_BISECTIONS = 100


@dataclass(frozen=True)
class Identity:
    """y = x + v."""

    def change_before(self, change: Tensor, output: Tensor) -> Tensor:
        """Return the change of v [n, d] that changes y by `change` [n, d] or by what is nearest to it. output: v."""
        return change

    def of(self, facts: Sequence[int]) -> Identity:
        """Return the map of some facts (indices)."""
        return self


@dataclass(frozen=True)
class Factor:
    """y = x + c v. factors: c of each fact, [n, 1]."""

    factors: Tensor

    def change_before(self, change: Tensor, output: Tensor) -> Tensor:
        """R = r / c, as in `Identity`."""
        return change / self.factors.to(change)

    def of(self, facts: Sequence[int]) -> Factor:
        """Return the map of some facts (indices)."""
        return Factor(self.factors[list(facts)])


@dataclass(frozen=True)
class Norm:
    """y = x + g v / rms(v). gain: g [d]."""

    gain: Tensor

    def change_before(self, change: Tensor, output: Tensor) -> Tensor:
        """Return the R of the vector with the nearest N, as in `Identity`."""
        v = output.to(torch.float64)
        rms = v.square().mean(dim=1, keepdim=True).sqrt()
        gain = self.gain.to(v)
        return (rms * nearest_on_sphere(gain, gain * v / rms + change.to(v)) - v).to(change)

    def of(self, facts: Sequence[int]) -> Norm:
        """Return the map of some facts (indices)."""
        return self


OutputMap = Identity | Factor | Norm


def nearest_on_sphere(gain: Tensor, target: Tensor) -> Tensor:
    """Return argmin_u norm(gain u - target) with norm(u) = sqrt(d). gain: [d] float64. target: [n, d] float64.

    u = gain target / (gain^2 + mu), with the mu > -min(gain^2) that gives u its length (a trust-region problem),
    found by bisection.
    """
    square, product, length = gain.square(), gain * target, len(gain) ** 0.5
    low = (product.abs() / length - square).max(dim=1).values  # one coordinate alone is that long already
    high = product.norm(dim=1) / length - square.min()  # all are shorter than that
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        is_long = (product / (square + middle[:, None])).norm(dim=1) > length
        low, high = torch.where(is_long, middle, low), torch.where(is_long, high, middle)
    return product / (square + high[:, None])


def output_maps(layout: Layout, layers: Sequence[int], rows: Sequence[EncodedPrompt]) -> dict[int, OutputMap]:
    """Find what each edited layer does to `W_out`'s output at the lookups of n rows.

    One pass over the first row shows that a layer adds the output as it is. Otherwise two rows' passes show a norm, and
    a pass over every row the factors.
    """
    probe = _Probe(layout, layers, rows[0])
    signs = torch.randint(2, (layout.hidden_size,), generator=torch.Generator().manual_seed(0)) * 2 - 1
    plain = probe.gradients(signs)
    if all(torch.equal(found, signs.to(found)) for found in plain.values()):
        return dict.fromkeys(layers, Identity())
    double = probe.gradients(signs, lambda v: 2 * v)
    first, second = (probe.gradients(torch.ones_like(signs), _only(place)) for place in (0, 1))
    gains = {layer: torch.cat([second[layer][:1], first[layer][1:]]) for layer in layers}
    maps = {layer: _form(plain[layer], double[layer], gains[layer], signs, probe.outputs[layer]) for layer in layers}
    if any(isinstance(found, Factor) for found in maps.values()):
        by_row = [_Probe(layout, layers, row).gradients(signs) for row in rows]
        for layer, found in maps.items():
            if isinstance(found, Factor):
                factors = torch.stack([(own[layer].double() * signs.to(own[layer].device)).mean() for own in by_row])
                maps[layer] = Factor(factors[:, None])
    return maps


def _form(plain: Tensor, double: Tensor, gain: Tensor, signs: Tensor, output: Tensor) -> OutputMap:
    """Return the form of a layer, from its gradients at v and at 2 v. A layer of no known form counts as one that adds
    v as it is: its facts need more passes."""
    plain, double, gain, v = (one.double() for one in (plain, double, gain, output))
    u = signs.to(plain)
    if _near(double, plain) and _near(plain, u * (u * plain).mean()):
        return Identity() if torch.equal(plain, u) else Factor((u * plain).mean()[None, None])
    passed = gain * u
    through = (passed - v * (v @ passed) / (v @ v)) / v.square().mean().sqrt()
    return Norm(gain) if _near(double, plain / 2) and _near(plain, through) else Identity()


def _near(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).norm() <= TOLERANCE * other.norm())


def _only(place: int) -> Callable[[Tensor], Tensor]:
    """Replace outputs by vectors with a single coordinate, of rms 1: there the gradient of a norm is its gain."""

    def replace(v: Tensor) -> Tensor:
        unit = torch.zeros_like(v)
        unit[..., place] = v.shape[-1] ** 0.5
        return unit

    return replace


class _Probe:
    """Runs the model on one row up to the lookup. outputs: by layer, `W_out`'s output [d] at the lookup of the first
    run."""

    def __init__(self, layout: Layout, layers: Sequence[int], row: EncodedPrompt) -> None:
        self._layout, self._layers = layout, list(layers)
        self._ids = torch.tensor([row.ids[: row.lookup + 1]], device=layout.device)
        self.outputs: dict[int, Tensor] = {}

    def gradients(self, vector: Tensor, replaced: Callable[[Tensor], Tensor] = lambda v: v) -> dict[int, Tensor]:
        """Return, by layer, the gradient of y @ vector by v at the lookup, [d]. replaced: gives another v to run at."""
        inputs: dict[int, Tensor] = {}
        gradients: dict[int, Tensor] = {}

        def keep_output(layer: int) -> Any:
            def hook(_: nn.Module, __: object, output: Tensor) -> Tensor:
                self.outputs.setdefault(layer, output.detach().reshape(-1, output.shape[-1])[-1])
                inputs[layer] = replaced(output.detach()).requires_grad_()
                return inputs[layer].clone()  # the layer may write into it

            return hook

        def differentiate(layer: int) -> Any:
            def hook(_: nn.Module, __: object, output: object) -> None:
                y = output_of(output)[0, -1]
                (found,) = torch.autograd.grad(y @ vector.to(y), inputs[layer])
                gradients[layer] = found.reshape(-1, found.shape[-1])[-1]
                if layer == self._layers[-1]:
                    raise StopForward

            return hook

        matrices: Mapping[int, Any] = self._layout.output_matrices(self._layers)
        handles = [matrix.module.register_forward_hook(keep_output(layer)) for layer, matrix in matrices.items()]
        handles += [self._layout.layers[n].register_forward_hook(differentiate(n)) for n in self._layers]
        with torch.inference_mode(False), torch.enable_grad(), hooked(*handles):
            self._layout.model(input_ids=self._ids, use_cache=False)
        return gradients
