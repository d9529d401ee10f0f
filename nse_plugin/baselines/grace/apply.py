"""Edit a model with GRACE, following EasyEdit's contract."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nse_plugin.baselines.grace.codebook import Codebook
from nse_plugin.baselines.grace.hparams import GRACEHyperParams
from nse_plugin.baselines.grace.layer import GRACELayer
from nse_plugin.baselines.requests import prompts_and_targets
from nse_plugin.facts import Pair
from nse_plugin.hparams import HyperParamsError
from nse_plugin.models.frozen import frozen
from nse_plugin.models.inputs import input_device
from nse_plugin.models.prompts import split_target
from nse_plugin.support.forward import hooked

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

LEARNED = 0.05  # mean loss of the target's tokens below which a value is learned: P(token) of 0.95


def apply_grace_to_model(
    model: nn.Module,
    tok: PreTrainedTokenizerBase,
    requests: Sequence[Mapping[str, object]],
    hparams: GRACEHyperParams,
    copy: bool = False,
    return_orig_weights: bool = False,
    keep_original_weight: bool = False,
    **_: object,
) -> tuple[nn.Module, dict[str, Tensor]]:
    """Write requests into the model's codebook one after another (EasyEdit's contract).

    The codebook's keys are inputs [f] of the layer that `inner_params` names, its values outputs [d] of that layer.
    requests: `prompt` (with the subject written out, or with `{}` and a `subject`) and `target_new`. hparams:
    GRACEHyperParams, or EasyEdit's own GraceHyperParams. copy: edit a copy of the model. keep_original_weight: as in
    the wheel, undo the edits of earlier calls; there are no weights to restore, so the earlier codebook is dropped.
    Returns (model, {}): no weight is changed. `unwrap(model)` undoes all edits.
    Raises FactError or HyperParamsError, and ArithmeticError if a loss is not finite; the call then makes none of its
    edits.
    """
    texts = prompts_and_targets(requests)
    if copy:
        model = deepcopy(model)
    _layer(model, hparams)  # raises for a wrong name before anything is undone
    if keep_original_weight:
        unwrap(model)
    wrapped = _wrapped(model, hparams)
    before = wrapped.codebook
    try:
        for text in texts:
            _edit(model, tok, wrapped, text, hparams)
    except BaseException:
        wrapped.codebook = before
        if not before.labels:
            wrapped.unwrap()
        raise
    return model, {}


def codebook_of(model: nn.Module) -> Codebook | None:
    """Return the model's codebook; None before its first edit."""
    return next((wrapped.codebook for wrapped in _wrapped_layers(model)), None)


def resume(model: nn.Module, hparams: GRACEHyperParams, tensors: Mapping[str, Tensor]) -> None:
    """Give a model a saved codebook, which replaces any codebook it has.

    tensors: from `codebook_of(model).tensors()`: keys [n, f], values [n, d], radii [n], labels [n, longest].
    """
    unwrap(model)
    layer = _layer(model, hparams)
    codebook = Codebook.from_tensors({name: tensor.to(layer.weight.device) for name, tensor in tensors.items()})
    GRACELayer(layer, codebook)


def unwrap(model: nn.Module) -> None:
    """Undo all edits: the model's outputs are again the same, to the bit, as before the first edit."""
    for wrapped in list(_wrapped_layers(model)):
        wrapped.unwrap()


def _wrapped_layers(model: nn.Module) -> Iterator[GRACELayer]:
    for module in model.modules():
        if "grace" in module.__dict__:
            yield module.__dict__["grace"]


def _wrapped(model: nn.Module, hparams: GRACEHyperParams) -> GRACELayer:
    """Return the hook with the model's codebook; attach an empty codebook if it has none yet."""
    layer = _layer(model, hparams)
    wrapped = next(_wrapped_layers(model), None)
    if wrapped is None:
        dtype = torch.promote_types(layer.weight.dtype, torch.float32)
        d, f = layer.weight.shape if isinstance(layer, nn.Linear) else layer.weight.T.shape
        none = torch.empty(0, dtype=dtype, device=layer.weight.device)
        return GRACELayer(layer, Codebook(none.view(0, f), none.view(0, d), none))
    if wrapped.layer is not layer:
        raise HyperParamsError(
            f"inner_params = {hparams.inner_params!r} is another layer than the one this model's codebook is for: "
            "call nse_plugin.baselines.grace.unwrap(model) first, or keep the layer."
        )
    return wrapped


def _layer(model: nn.Module, hparams: GRACEHyperParams) -> Any:
    """Return the Linear or Conv1D to wrap, e.g. model.layers.27.mlp.down_proj for
    "model.layers[27].mlp.down_proj.weight" in `inner_params`."""
    name = re.sub(r"\[(\d+)\]", r".\1", hparams.inner_params[0]).removesuffix(".weight")
    layer = dict(model.named_modules()).get(name)
    if not isinstance(getattr(layer, "weight", None), Tensor):
        raise HyperParamsError(
            f"inner_params = {hparams.inner_params!r}: this {type(model).__name__} has no layer {name!r} with a "
            "weight; name a Linear or Conv1D of an MLP."
        )
    return layer


def _edit(
    model: nn.Module, tok: PreTrainedTokenizerBase, wrapped: GRACELayer, text: Pair, hparams: GRACEHyperParams
) -> None:
    """Make one edit: find its place in the codebook, then learn the value of its entry."""
    prompt_ids, target_ids = split_target(tok, *text)
    ids = torch.tensor([prompt_ids + target_ids[:-1]], device=input_device(model))
    with frozen(model), torch.enable_grad():
        key = _activation(model, wrapped.layer, ids, len(prompt_ids) - 1)
        value = _first_value(wrapped, key, hparams)
        codebook, entry = wrapped.codebook.placed(key, value, tuple(target_ids), hparams.eps)
        value = codebook.values[entry].clone().requires_grad_()
        adam = torch.optim.Adam([value], lr=hparams.edit_lr)
        targets = torch.tensor(target_ids, device=ids.device)
        for step in range(hparams.n_iter + 1):
            wrapped.codebook = codebook.with_value(entry, value)
            logits = model(input_ids=ids, use_cache=False, logits_to_keep=len(target_ids)).logits[0]
            loss = cross_entropy(logits.float(), targets.to(logits.device))
            if not loss.isfinite():
                raise ArithmeticError(f"GRACE: the loss of {text[0]!r} is not finite: lower edit_lr.")
            if loss < LEARNED or step == hparams.n_iter:
                break
            (value.grad,) = torch.autograd.grad(loss, value)
            adam.step()
    wrapped.codebook = codebook.with_value(entry, value.detach())
    if loss >= LEARNED:
        log.warning("GRACE: %r has loss %.3g after n_iter = %d steps.", text[0], loss.item(), hparams.n_iter)


def _activation(model: nn.Module, layer: nn.Module, ids: Tensor, position: int) -> Tensor:
    """Return the layer's input [f] at one position of the row ids [1, S]."""
    seen: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0][0, position].detach()))
    with hooked(handle), torch.no_grad():
        model(input_ids=ids, use_cache=False)
    return seen[0]


def _first_value(wrapped: GRACELayer, key: Tensor, hparams: GRACEHyperParams) -> Tensor:
    """Return the initial value [d] of a new entry. "cold" depends only on the entry's number, so a resumed run draws
    the same values."""
    if hparams.val_init == "warm":
        output: Tensor = wrapped.layer.forward(key[None])[0].detach()  # forward itself does not run the hook
        return output
    draws = torch.Generator().manual_seed(len(wrapped.codebook.labels))
    return torch.rand(wrapped.codebook.values.shape[1], generator=draws).to(key.device)
