"""One round through the edited layers: spread each fact's residual over them, again for facts still off target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nse_plugin.hparams import NSEHyperParams
from nse_plugin.method.keys import FactSpan
from nse_plugin.method.neurons import select_neurons
from nse_plugin.method.protected_keys import ProtectedKeys
from nse_plugin.method.update import LayerSystem, UpdateError, solve_update
from nse_plugin.models.frozen import frozen
from nse_plugin.models.layout import Layout
from nse_plugin.models.prompts import FactPrompts

DONE, OFF_TARGET, SKIPPED, FAILED = "done", "off_target", "skipped_upper_bound", "failed"


@dataclass
class RoundResult:
    """What a round did, fact by fact (n facts).

    status: done, off_target (residual > alpha after the last pass), skipped_upper_bound, failed (not finite).
    residual_before, residual: [n], norm(z - h) before and after. passes: [n], updates each fact took part in.
    keys: {layer: [m, f]}, the keys on the new weights of the m facts that did not fail: they join Kp.
    """

    status: list[str]
    residual_before: Tensor
    residual: Tensor
    passes: Tensor
    keys: dict[int, Tensor]


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
    masters: finer copies of the weights, by layer, which take the changes and are rounded into the model.
    Raises UpdateError; the caller puts the weights back (`EditSession.edit` does).
    """
    finite = values.isfinite().all(dim=1).nonzero()[:, 0].tolist()
    passes = torch.zeros(len(prompts), dtype=torch.long)
    residual = residual_before = torch.full((len(prompts),), torch.nan, dtype=torch.float64)
    keys: dict[int, Tensor] = {}
    if finite:
        with frozen(layout.model), torch.no_grad():
            # What lies below the first edited layer never changes, so one span serves every pass.
            span = FactSpan(layout, hparams.layers, [prompts[i] for i in finite], hparams.tokens_per_batch)
            keys, h = span.run()
            residual[finite] = _residuals(values[finite], h)
            sound = residual[finite].isfinite()
            for layer_keys in keys.values():
                sound &= layer_keys.isfinite().all(dim=1).cpu()
            if not sound.all():  # the model itself is not finite at these facts: leave them out like the others
                failed = torch.tensor(finite, device=values.device)[~sound.to(values.device)]
                values = values.index_fill(0, failed, torch.nan)
                return edit_layers(layout, prompts, values, second_moments, protected, hparams, masters)
            residual_before = residual.clone()
            systems = {
                layer: LayerSystem(second_moments[layer], protected.of(layer, keys[layer]), hparams.mom2_update_weight)
                for layer in hparams.layers
            }
            first = keys[hparams.layers[0]]  # stay what they are: nothing below is edited
            everyone, place_of = True, {fact: place for place, fact in enumerate(finite)}
            for number in range(hparams.passes):
                going = _facts_of_pass(number, finite, residual, hparams)
                if not going:
                    break
                everyone = going == finite
                for system in systems.values():
                    system.reuse_factor = number + 1 < hparams.passes
                places = [place_of[i] for i in going]
                part = span if everyone else span.part(places)
                seen = first[places], h[places]
                keys, h = _one_pass(layout, part, seen, values[going], systems, hparams, masters or {})
                passes[going] += 1
                if not everyone:
                    h = span.outputs()
                residual[finite] = _residuals(values[finite], h)
            if not everyone:
                keys, _ = span.run()
    taking_part = set(finite)
    status = [_status(i in taking_part, float(residual[i]), int(passes[i]), hparams) for i in range(len(prompts))]
    sound = torch.tensor([status[i] != FAILED for i in finite], dtype=torch.bool)
    keys = {layer: layer_keys[sound.to(layer_keys.device)] for layer, layer_keys in keys.items()}
    return RoundResult(status, residual_before, residual, passes, keys)


def _facts_of_pass(number: int, finite: list[int], residual: Tensor, hparams: NSEHyperParams) -> list[int]:
    """Preset paper: all facts first, then those above alpha. Preset released: above alpha, below upper_bound."""
    if hparams.preset == "paper":
        return [i for i in finite if number == 0 or residual[i] > hparams.alpha]
    return [i for i in finite if residual[i] > hparams.alpha and not _beyond(float(residual[i]), hparams)]


def _beyond(residual: float, hparams: NSEHyperParams) -> bool:
    bounded = hparams.preset == "released" and hparams.upper_bound is not None
    return bounded and residual >= float(hparams.upper_bound or 0)


def _status(finite: bool, residual: float, passes: int, hparams: NSEHyperParams) -> str:
    """passes: updates that the fact took part in: one that was written at all was not skipped."""
    if not finite or not residual < float("inf"):
        return FAILED
    if residual <= hparams.alpha:
        return DONE
    return SKIPPED if passes == 0 and _beyond(residual, hparams) else OFF_TARGET


def _one_pass(
    layout: Layout,
    span: FactSpan,
    seen: tuple[Tensor, Tensor],
    values: Tensor,
    systems: Mapping[int, LayerSystem],
    hparams: NSEHyperParams,
    masters: Mapping[int, Tensor],
) -> tuple[dict[int, Tensor], Tensor]:
    """Update every layer once. seen: the first layer's keys and h as `span` shows them on the weights as they are.

    Returns ({layer: keys}, h) on the new weights. Keys of a layer depend on the layers below it alone, so those that
    its update was made from stay what they are.
    """
    layers = hparams.layers
    keys, h = {layers[0]: seen[0]}, seen[1]
    for i, layer in enumerate(layers):
        matrix = layout.output_matrix(layer)
        residuals = (values - h.to(values)) / (len(layers) - i)
        if not (keys[layer].isfinite().all() and residuals.isfinite().all()):
            raise UpdateError(
                f"The model is not finite at layer {layer} after the updates below ({matrix.weight.dtype}): load it in "
                "bfloat16 or float32, or lower clamp_norm_factor."
            )
        neurons = select_neurons(keys[layer], hparams.p, hparams.preset)
        delta = solve_update(keys[layer], residuals, systems[layer], neurons)
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


def _residuals(values: Tensor, h: Tensor) -> Tensor:
    """norm(z - h) of each fact, [n]."""
    distance: Tensor = (values.to(torch.float64) - h.to(values.device, torch.float64)).norm(dim=1)
    return distance.cpu()
