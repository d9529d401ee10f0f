"""What a layer does to the output of `W_out` before adding it to the hidden state, found by running the layer.

y = x + v           most models: identity
y = x + c v         Granite's residual_multiplier, the gate of a shared expert: a factor, for each token its own
y = x + N(v)        Gemma 2 and 3, OLMo 2, Exaone 4, GLM-4: a norm, N(v) = g v / rms(v)

A round asks for a change r of y and solves for a change R of v. With a factor R = r / c. What a norm lets through has a
fixed length: N(v) lies on the ellipsoid norm(N(v) / g) = sqrt(d), whatever v is. Then v + R is the vector whose N is
nearest to N(v) + r,

    u = argmin norm(g u - N(v) - r),   norm(u) = sqrt(d),   R = rms(v) u - v

Which of these a layer does is seen in the gradient of y by v, which is exact in every precision. It is found once per
model and kept in `layout.replay.outputs`; only factors are measured at every fact. Where all edited layers have a norm,
most values z are out of reach, however many passes are made; so z itself is kept in `Reach`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nse_plugin.hparams import NSEHyperParams
from nse_plugin.models.frozen import frozen
from nse_plugin.models.layout import Layout
from nse_plugin.models.prompts import EncodedPrompt, FactPrompts
from nse_plugin.replay.recording import output_of
from nse_plugin.replay.span import SpanReplay
from nse_plugin.support.forward import StopForward, hooked

# Gradients are compared with this tolerance, which 16-bit models need; the forms differ by factors of 2.
TOLERANCE = 0.05
_LONG = 256  # an rms beside which a norm's epsilon is nothing, and which float16 holds in thousands of coordinates
_BISECTIONS = 100

Replaced = Callable[[Tensor], Tensor]  # gives the v that a layer is run at, in place of its own


@dataclass(frozen=True)
class Identity:
    """y = x + v."""

    def change_before(self, change: Tensor, output: Tensor) -> Tensor:
        """Return the change of v [n, d] that changes y by `change` [n, d] or by what is nearest to it. output: v."""
        return change

    def change_after(self, change: Tensor, output: Tensor) -> Tensor:
        """Return the change of y [n, d] for a change of v [n, d]. output: v."""
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

    def change_after(self, change: Tensor, output: Tensor) -> Tensor:
        """c R, as in `Identity`."""
        return change * self.factors.to(change)

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

    def change_after(self, change: Tensor, output: Tensor) -> Tensor:
        """N(v + R) - N(v), as in `Identity`."""
        v = output.to(torch.float64)
        return (self._applied(v + change.to(v)) - self._applied(v)).to(change)

    def _applied(self, v: Tensor) -> Tensor:
        return self.gain.to(v) * v / v.square().mean(dim=1, keepdim=True).sqrt()

    def of(self, facts: Sequence[int]) -> Norm:
        """Return the map of some facts (indices)."""
        return self


OutputMap = Identity | Factor | Norm


@dataclass(frozen=True)
class Reach:
    """The changes of h that the edited layers can make together, for n facts. outputs: v [n, d] by layer."""

    maps: Mapping[int, OutputMap]
    outputs: Mapping[int, Tensor]

    @classmethod
    def of(cls, layout: Layout, hparams: NSEHyperParams, rows: Sequence[EncodedPrompt]) -> Reach | None:
        """Return the reach for n facts, on the current weights; None if they reach everything. rows: bare prompts."""
        maps = _known(layout, hparams.layers, rows[0])
        if not _all_norms(maps):
            return None
        keys, _ = SpanReplay(layout, hparams.layers, rows, hparams.tokens_per_batch).run()
        with torch.no_grad():
            return cls(maps, {layer: layout.output_matrix(layer).module(own) for layer, own in keys.items()})

    def nearest(self, change: Tensor, facts: Sequence[int]) -> Tensor:
        """Return what the layers make of a change of h, asked of them as in a pass. change: [m, d], of these facts."""
        left = change
        for place, (layer, found) in enumerate(self.maps.items()):
            v = self.outputs[layer][list(facts)].to(change.device)
            asked = left / (len(self.maps) - place)
            left = left - found.change_after(found.change_before(asked, v), v)
        return change - left


def has_norms(layout: Layout, layers: Sequence[int], prompts: Sequence[FactPrompts]) -> bool:
    """Return whether all these layers have a norm, so that not every z can be reached. prompts: n >= 0 facts."""
    return bool(prompts) and _all_norms(_known(layout, layers, prompts[0].rewrites[0]))


def _all_norms(maps: Mapping[int, OutputMap]) -> bool:
    return all(isinstance(found, Norm) for found in maps.values())


def nearest_on_sphere(gain: Tensor, target: Tensor) -> Tensor:
    """Return argmin_u norm(gain u - target) with norm(u) = sqrt(d). gain: [d] float64. target: [n, d] float64.

    u = gain target / (gain^2 + mu), with the mu >= -min(gain^2) that gives u its length (a trust-region problem), found
    by bisection. A target within the ellipsoid is reached by putting length into the coordinate with the least gain.
    """
    square, product, length = gain.square(), gain * target, len(gain) ** 0.5
    low = (product.abs() / length - square).max(dim=1).values  # one coordinate alone is that long already
    high = product.norm(dim=1) / length - square.min()  # all are shorter than that
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        is_long = (torch.where(product == 0, 0, product / (square + middle[:, None]))).norm(dim=1) > length
        low, high = torch.where(is_long, middle, low), torch.where(is_long, high, middle)
    u = torch.where(product == 0, 0, product / (square + high[:, None]))
    least = int(square.argmin())
    missing = (len(gain) - u.square().sum(dim=1)).clamp(min=0).sqrt()
    u[:, least] = torch.where(u[:, least] == 0, missing, u[:, least])  # the trust region's hard case
    return u


def output_maps(layout: Layout, layers: Sequence[int], rows: Sequence[EncodedPrompt]) -> dict[int, OutputMap]:
    """Return what each edited layer does to `W_out`'s output at the lookups of n rows.

    A layer that is new to `layout.replay.outputs` is run on the first row; layers with a factor are run on every row.
    """
    maps = _known(layout, layers, rows[0])
    scaled = [layer for layer, known in maps.items() if isinstance(known, Factor)]
    if scaled:
        with frozen(layout.model):
            maps.update(_factors(layout, scaled, rows))
    return maps


def _known(layout: Layout, layers: Sequence[int], row: EncodedPrompt) -> dict[int, OutputMap]:
    """Return the maps in `layout.replay.outputs`, after finding those that are missing there. A `Factor` is
    that of the row that it was found with."""
    names = {layer: matrix.name for layer, matrix in layout.output_matrices(layers).items()}
    missing = [layer for layer in layers if names[layer] not in layout.replay.outputs]
    if missing:
        with frozen(layout.model):
            found = _found(layout, missing, row)
        layout.replay.outputs.update({names[layer]: found[layer] for layer in missing})
    return {layer: layout.replay.outputs[name] for layer, name in names.items()}


def _found(layout: Layout, layers: Sequence[int], row: EncodedPrompt) -> dict[int, OutputMap]:
    """Find what layers do. One pass shows which add every token's output as it is; others take four more each."""
    signs = _signs(layout)
    plain = _Probe(layout, layers, row).gradients(signs)
    maps: dict[int, OutputMap] = {}
    for layer in layers:
        is_added = torch.equal(plain[layer], signs.to(plain[layer]).expand_as(plain[layer]))
        maps[layer] = Identity() if is_added else _form(layout, layer, row, signs)
    return maps


def _form(layout: Layout, layer: int, row: EncodedPrompt, signs: Tensor) -> OutputMap:
    """Return the form of a layer that does not add v as it is, from gradients at several v. If it is none of the known
    ones it counts as `Identity`, and facts need more passes."""
    probe = _Probe(layout, [layer], row)

    def gradient(vector: Tensor, replaced: Replaced) -> Tensor:
        return probe.gradients(vector, replaced)[layer][-1]

    plain, double = gradient(signs, lambda v: v), gradient(signs, lambda v: 2 * v)
    u = signs.to(plain)
    if _near(double, plain) and _near(plain, u * (u * plain).mean()):
        return _factors(layout, [layer], [row])[layer]
    first, second = (_LONG * gradient(torch.ones_like(signs), _only(place)) for place in (0, 1))
    gain, v = torch.cat([second[:1], first[1:]]), probe.outputs[layer].double()
    passed = gain * u
    through = (passed - v * (v @ passed) / (v @ v)) / v.square().mean().sqrt()
    return Norm(gain) if _near(double, plain / 2) and _near(plain, through) else Identity()


def _factors(layout: Layout, layers: Sequence[int], rows: Sequence[EncodedPrompt]) -> dict[int, Factor]:
    """Measure the factor of each of n rows, by layer; one pass a row."""
    signs = _signs(layout)
    own = [_Probe(layout, layers, row).gradients(signs) for row in rows]
    return {
        layer: Factor(torch.stack([(signs.to(one[layer]) * one[layer][-1]).mean(dim=0, keepdim=True) for one in own]))
        for layer in layers
    }


def _signs(layout: Layout) -> Tensor:
    """Return a fixed vector of 1 and -1, [d]."""
    return torch.randint(2, (layout.hidden_size,), generator=torch.Generator().manual_seed(0)) * 2 - 1


def _near(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).norm() <= TOLERANCE * other.norm())


def _only(place: int) -> Replaced:
    """Replace outputs by vectors with a single coordinate, of rms `_LONG`: there, other coordinates' gradient of a norm
    is their gain over `_LONG`."""

    def replace(v: Tensor) -> Tensor:
        unit = torch.zeros_like(v)
        unit[..., place] = _LONG * v.shape[-1] ** 0.5
        return unit

    return replace


class _Probe:
    """Runs the model on one row up to the lookup. outputs: by layer, `W_out`'s output [d] at the lookup of the first
    run."""

    def __init__(self, layout: Layout, layers: Sequence[int], row: EncodedPrompt) -> None:
        self._layout, self._layers = layout, list(layers)
        self._ids = torch.tensor([row.ids[: row.lookup + 1]], device=layout.device)
        self.outputs: dict[int, Tensor] = {}

    def gradients(self, vector: Tensor, replaced: Replaced = lambda v: v) -> dict[int, Tensor]:
        """Return, by layer, each token's gradient of y @ vector by v, [t, d]; the lookup is the last token."""
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
                y = output_of(output)[0]
                (found,) = torch.autograd.grad((y @ vector.to(y)).sum(), inputs[layer])
                gradients[layer] = found.reshape(-1, found.shape[-1]).double()
                if layer == self._layers[-1]:
                    raise StopForward

            return hook

        matrices: Mapping[int, Any] = self._layout.output_matrices(self._layers)
        handles = [matrix.module.register_forward_hook(keep_output(layer)) for layer, matrix in matrices.items()]
        handles += [self._layout.layers[n].register_forward_hook(differentiate(n)) for n in self._layers]
        with torch.inference_mode(False), torch.enable_grad(), hooked(*handles):
            self._layout.model(input_ids=self._ids, use_cache=False)
        return gradients
