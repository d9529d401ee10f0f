"""One round through the edited layers: spread each fact's residual over them, and repeat for facts still off target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nse_plugin.hparams import NSEHyperParams
from nse_plugin.method.keys import FactSpan
from nse_plugin.method.neurons import select_neurons
from nse_plugin.method.protected_keys import ProtectedKeys
from nse_plugin.method.subspace import Neurons, Subspace, null_space
from nse_plugin.method.update import LayerSystem, UpdateError, solve_update
from nse_plugin.models.frozen import frozen
from nse_plugin.models.layout import Layout
from nse_plugin.models.prompts import FactPrompts
from nse_plugin.replay.outputs import OutputMap, output_maps

DONE, OFF_TARGET, SKIPPED, FAILED = "done", "off_target", "skipped_upper_bound", "failed"


@dataclass
class RoundResult:
    """The outcome of a round for each of its n facts.

    status: done, off_target (residual > alpha after the last pass), skipped_upper_bound, failed (not finite).
    residual_before, residual: [n], norm(z - h) before and after. passes: [n], updates each fact took part in.
    keys: {layer: [m, f]}, the keys on the new weights of the m facts that did not fail; they are added to Kp.
    """

    status: list[str]
    residual_before: Tensor
    residual: Tensor
    passes: Tensor
    keys: dict[int, Tensor]

    @classmethod
    def of_failed(cls, n: int) -> RoundResult:
        """Return the result of a round in which no fact could be measured."""
        unknown = torch.full((n,), torch.nan, dtype=torch.float64)
        return cls([FAILED] * n, unknown, unknown.clone(), torch.zeros(n, dtype=torch.long), {})


def edit_layers(
    layout: Layout,
    prompts: Sequence[FactPrompts],
    values: Tensor,
    second_moments: Mapping[int, Tensor],
    protected: ProtectedKeys,
    hparams: NSEHyperParams,
    masters: Mapping[int, Tensor] | None = None,
) -> RoundResult:
    """Write the values of a round into the model, in place.

    prompts, values: n facts and their z [n, d]. second_moments: {layer: C0 [f, f]}. protected: Kp of earlier rounds.
    masters: higher-precision copies of the weights, by layer; updates are added to them and rounded into the model.
    Raises UpdateError; the caller restores the weights (`EditSession.edit` does).
    """
    with frozen(layout.model), torch.no_grad():
        measured = _measure(layout, prompts, values, hparams)
        if measured is None:
            return RoundResult.of_failed(len(prompts))
        facts, span, keys, h = measured
        maps = output_maps(layout, hparams.layers, [prompts[i].rewrites[0] for i in facts])
        z = values[facts]
        residual = residual_before = _residuals(z, h)
        passes = torch.zeros(len(facts), dtype=torch.long)
        systems = {
            layer: LayerSystem(
                second_moments[layer], protected.of(layer, keys[layer]), hparams.mom2_update_weight, hparams.ridge
            )
            for layer in hparams.layers
        }
        first = keys[hparams.layers[0]]  # constant: nothing below the first edited layer is edited
        going = list(range(len(facts)))
        for number in range(hparams.passes):
            in_pass = _facts_of_pass(number, residual, hparams)
            if not in_pass:
                break
            going = in_pass
            for system in systems.values():
                system.reuse_factor = number + 1 < hparams.passes
            everyone = len(going) == len(facts)
            part = span if everyone else span.part(going)
            own = {layer: found.of(going) for layer, found in maps.items()}
            start = first[going], h[going]
            keys, h = _one_pass(layout, part, start, z[going], own, systems, hparams, masters or {})
            if not everyone:
                h = span.outputs()
            passes[going] += 1
            residual = _residuals(z, h)
        if len(going) < len(facts):
            keys, _ = span.run()
    return _collect(len(prompts), facts, keys, residual_before, residual, passes, hparams)


def _measure(
    layout: Layout, prompts: Sequence[FactPrompts], values: Tensor, hparams: NSEHyperParams
) -> tuple[list[int], FactSpan, dict[int, Tensor], Tensor] | None:
    """Return the facts (indices) whose z [d], keys [f] and h [d] are finite, with their span, keys and h; None if none
    are.

    The layers below the first edited one never change, so the span serves every pass.
    """
    facts: list[int] = values.isfinite().all(dim=1).nonzero()[:, 0].tolist()
    while facts:
        span = FactSpan(layout, hparams.layers, [prompts[i] for i in facts], hparams.tokens_per_batch)
        keys, h = span.run()
        sound = _residuals(values[facts], h).isfinite()
        for layer_keys in keys.values():
            sound &= layer_keys.isfinite().all(dim=1).cpu()
        if sound.all():
            return facts, span, keys, h
        facts = [fact for fact, is_sound in zip(facts, sound.tolist(), strict=True) if is_sound]
    return None


def _collect(
    count: int,
    facts: Sequence[int],
    keys: Mapping[int, Tensor],
    residual_before: Tensor,
    residual: Tensor,
    passes: Tensor,
    hparams: NSEHyperParams,
) -> RoundResult:
    """Build the result of a round of `count` facts. facts: the m measured ones (indices); all tensors have m rows."""
    result = RoundResult.of_failed(count)
    result.residual_before[facts], result.residual[facts], result.passes[facts] = residual_before, residual, passes
    for place, fact in enumerate(facts):
        result.status[fact] = _status(float(residual[place]), int(passes[place]), hparams)
    sound = torch.tensor([result.status[fact] != FAILED for fact in facts], dtype=torch.bool)
    result.keys = {layer: layer_keys[sound.to(layer_keys.device)] for layer, layer_keys in keys.items()}
    return result


def _facts_of_pass(number: int, residual: Tensor, hparams: NSEHyperParams) -> list[int]:
    """Return the facts (indices into residual [m]) that take part in a pass. Preset paper: all facts in the first pass,
    then those above alpha. Preset released: those above alpha and below upper_bound."""
    alpha = hparams.known("alpha")
    if hparams.preset == "paper":
        return [i for i, own in enumerate(residual.tolist()) if number == 0 or own > alpha]
    return [i for i, own in enumerate(residual.tolist()) if own > alpha and not _beyond(own, hparams)]


def _beyond(residual: float, hparams: NSEHyperParams) -> bool:
    bounded = hparams.preset == "released" and hparams.upper_bound is not None
    return bounded and residual >= float(hparams.upper_bound or 0)


def _status(residual: float, passes: int, hparams: NSEHyperParams) -> str:
    """Return a fact's status. passes: updates that the fact took part in; a fact with at least one was not skipped."""
    if not residual < float("inf"):
        return FAILED
    if residual <= hparams.known("alpha"):
        return DONE
    return SKIPPED if passes == 0 and _beyond(residual, hparams) else OFF_TARGET


def _one_pass(
    layout: Layout,
    span: FactSpan,
    seen: tuple[Tensor, Tensor],
    values: Tensor,
    maps: Mapping[int, OutputMap],
    systems: Mapping[int, LayerSystem],
    hparams: NSEHyperParams,
    masters: Mapping[int, Tensor],
) -> tuple[dict[int, Tensor], Tensor]:
    """Update every layer once. seen: the first layer's keys and h that `span` gives on the current weights.

    Returns ({layer: keys}, h) on the new weights. A layer's keys depend only on the layers below it, so the keys that
    its update was computed from remain valid.
    """
    layers = hparams.layers
    keys, h = {layers[0]: seen[0]}, seen[1]
    for i, layer in enumerate(layers):
        matrix = layout.output_matrix(layer)
        output = matrix.module(span.bare_keys[layer])
        residuals = maps[layer].change_before((values - h.to(values)) / (len(layers) - i), output)
        if not (keys[layer].isfinite().all() and residuals.isfinite().all()):
            raise UpdateError(
                f"The model is not finite at layer {layer} after the updates below ({matrix.weight.dtype}): load it in "
                "bfloat16 or float32, or lower clamp_norm_factor."
            )
        subspace = _subspace(keys[layer], systems[layer].second_moment, hparams)
        delta = solve_update(keys[layer], residuals, systems[layer], subspace)
        neurons = subspace.columns
        matrix.add_columns(neurons, delta, masters.get(layer))
        if not matrix.matrix[:, neurons].isfinite().all():
            raise UpdateError(
                f"The update of layer {layer} is too large for {matrix.weight.dtype}: load the model in bfloat16 or "
                "float32, or lower clamp_norm_factor."
            )
        following, h = span.after(layer)
        if following is not None:
            keys[layers[i + 1]] = following
    return keys, h


def _subspace(keys: Tensor, c0: Tensor, hparams: NSEHyperParams) -> Subspace:
    """Return the subspace of a layer's update. keys: [n, f], of the round's facts. c0: [f, f]."""
    if hparams.subspace == "null_space":
        return null_space(c0, hparams.nullspace_threshold, keys.device)
    return Neurons(select_neurons(keys, hparams.p, hparams.preset))


def _residuals(values: Tensor, h: Tensor) -> Tensor:
    """norm(z - h) of each fact, [n]."""
    distance: Tensor = (values.to(torch.float64) - h.to(values.device, torch.float64)).norm(dim=1)
    return distance.cpu()
