"""GRACE: edits kept in a codebook beside one layer, no weight changed (Hartvigsen et al. 2023, arXiv 2211.11031).

An entry i of the codebook is a key k_i, a value v_i, a radius eps_i and a label, the target it stands for. For the
activation h that enters the layer f, with i the nearest key,

    GRACE(h) = v_i   if norm(h - k_i) <= eps_i
               f(h)  otherwise.

An edit takes the activation at its prompt's last token as key, and learns the value by gradient descent on the target.

**Where keys are looked up.** The paper looks up the prompt's last token. But where a prompt ends is known only to
whoever wrote the text: the model sees the prompt alone when it generates, prompt and target in one row when it is
evaluated, one token at a time with a KV cache. So here *every position* is looked up, and replaced on its own. In a
causal model the activation at a position depends on the tokens up to it and on no others; a position therefore
matches when the text up to there says what an edited prompt says, wherever the text goes on to. It makes the answer
the same for a prompt alone, a prompt with its target, any batch, left or right padding, and generation with a cache.
Any other rule that depends on the length of the row (EasyEdit's `replace_all`, or its remembered `key_id`) does not.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
import yaml
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nse_plugin.baselines.requests import prompts_and_targets
from nse_plugin.facts import Pair
from nse_plugin.hparams import HyperParamsError
from nse_plugin.models.frozen import frozen
from nse_plugin.models.prompts import split_target

log = logging.getLogger(__name__)

LEARNED = 0.05  # mean loss of the target's tokens at which a value is good: P(token) of 0.95
SAME_PROMPT = 0.01  # of `eps`: two keys nearer than this are one prompt, but for rounding


@dataclass
class GRACEHyperParams:
    """Hyperparameters of GRACE under EasyEdit's names; its own files are read too.

    inner_params: the wrapped layer, as one parameter's name: "model.layers[27].mlp.down_proj.weight".
    eps: radius of a new key, in units of the activation that enters the layer.
    edit_lr, n_iter: Adam's learning rate for a value, and its steps at most (it stops once the target is learned).
    val_init: a value starts as "cold", uniform in [0, 1), or "warm", the layer's own output.
    dist_fn, eps_expand, replacement, val_train: euc, coverage, replace_last, sgd; the only ones known here.
    The rest is there because EasyEdit's files carry it.

    Raises HyperParamsError.
    """

    inner_params: list[str]
    edit_lr: float = 1.0
    n_iter: int = 100
    eps: float = 1.0
    dist_fn: str = "euc"
    val_init: str = "cold"
    val_train: str = "sgd"
    val_reg: str | None = None
    reg: str = "early_stop"
    replacement: str = "replace_last"
    eps_expand: str = "coverage"
    num_pert: int = 8
    dropout: float = 0.0

    alg_name: str = "GRACE"
    model_name: str = ""
    device: int | str = 0
    batch_size: int = 1
    max_length: int = 40
    model_parallel: bool = False

    def __post_init__(self) -> None:
        for name in ("edit_lr", "eps", "n_iter"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise HyperParamsError(f"{name} = {value!r} cannot be used: use a number above 0.")
        if not isinstance(self.inner_params, list) or len(self.inner_params) != 1:
            raise HyperParamsError(f"inner_params = {self.inner_params!r} cannot be used: name one layer's weight.")
        known = {
            "alg_name": ("GRACE",),
            "dist_fn": ("euc",),
            "eps_expand": ("coverage",),
            "replacement": ("replace_last",),
            "val_train": ("sgd",),
            "val_init": ("cold", "warm"),
        }
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise HyperParamsError(f"{name} = {getattr(self, name)!r} cannot be used: use {' or '.join(values)}.")

    @classmethod
    def from_hparams(cls, hparams_name_or_path: str | Path) -> Self:
        """Read a YAML file; as in EasyEdit, ".yaml" may be left out."""
        path = Path(hparams_name_or_path)
        path = path if path.suffix == ".yaml" else path.with_name(f"{path.name}.yaml")
        try:
            return cls(**yaml.safe_load(path.read_text(encoding="utf-8")))
        except (HyperParamsError, TypeError, yaml.YAMLError) as error:
            raise HyperParamsError(f"{path}: {' '.join(str(error).split())}") from error


@dataclass(frozen=True)
class Codebook:
    """The entries of one layer. An edit makes a new codebook, so that one at hand never changes.

    keys [n, f], values [n, d], radii [n]: float32 or float64. labels: n targets' token ids.
    """

    keys: Tensor
    values: Tensor
    radii: Tensor
    labels: tuple[tuple[int, ...], ...] = ()

    def nearest(self, activations: Tensor) -> tuple[Tensor, Tensor]:
        """For activations [..., f]: distance to the nearest key, and that entry's number, both [...]."""
        rows = activations.detach().reshape(-1, activations.shape[-1]).to(self.keys.dtype)
        # exact: the quick form by a matrix product is wrong by about norm(k) * 1e-3, near a key above all
        distances = torch.cdist(rows, self.keys, compute_mode="donot_use_mm_for_euclid_dist")
        distance, entry = distances.min(dim=1)
        return distance.view(activations.shape[:-1]), entry.view(activations.shape[:-1])

    def placed(self, key: Tensor, value: Tensor, label: tuple[int, ...], eps: float) -> tuple[Codebook, int]:
        """The codebook with a place for an edit, and the number of its entry (the paper's Algorithm 1).

        Far from every key: a new entry (key [f], value [d], radius eps). Near a key of the same label: that entry's
        radius expands to cover the new key too. Near a key of another label: the radii of both shrink to half their
        distance. And where the paper says nothing, the same prompt with another target: the entry is taken over.
        """
        if not self.labels:
            return self._with_entry(key, value, eps, label), 0
        distance, entry = (float(found) for found in self.nearest(key))
        i = int(entry)
        radius = float(self.radii[i])
        if distance > radius + eps:
            return self._with_entry(key, value, eps, label), len(self.labels)
        if self.labels[i] == label:
            return self._with_radius(i, max(radius, distance)), i
        if distance < SAME_PROMPT * eps:
            taken = tuple(label if j == i else old for j, old in enumerate(self.labels))
            return replace(self.with_value(i, value), labels=taken), i
        half = distance / 2
        return self._with_radius(i, min(radius, half))._with_entry(key, value, min(eps, half), label), len(self.labels)

    def _with_entry(self, key: Tensor, value: Tensor, radius: float, label: tuple[int, ...]) -> Codebook:
        return Codebook(
            torch.cat([self.keys, key[None].to(self.keys)]),
            torch.cat([self.values, value[None].to(self.values)]),
            torch.cat([self.radii, self.radii.new_tensor([radius])]),
            (*self.labels, label),
        )

    def _with_radius(self, entry: int, radius: float) -> Codebook:
        radii = self.radii.clone()
        radii[entry] = radius
        return replace(self, radii=radii)

    def with_value(self, entry: int, value: Tensor) -> Codebook:
        """Differentiable in `value`."""
        number = torch.tensor([entry], device=self.values.device)
        return replace(self, values=self.values.index_copy(0, number, value[None].to(self.values)))

    def tensors(self) -> dict[str, Tensor]:
        """Everything, to be saved: keys, values, radii, and labels as int64 [n, longest], filled up with -1."""
        longest = max(map(len, self.labels), default=0)
        labels = [[*label, *[-1] * (longest - len(label))] for label in self.labels]
        return {
            "keys": self.keys,
            "values": self.values,
            "radii": self.radii,
            "labels": torch.tensor(labels, dtype=torch.long).view(len(self.labels), longest),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Codebook:
        """What `tensors()` gave."""
        labels = tuple(tuple(token for token in row if token >= 0) for row in tensors["labels"].tolist())
        return cls(tensors["keys"], tensors["values"], tensors["radii"], labels)


class GRACELayer:
    """A codebook at work: a forward hook on the wrapped layer, which stays in its place and keeps its weight."""

    def __init__(self, layer: nn.Module, codebook: Codebook) -> None:
        self.layer = layer
        self.codebook = codebook
        self.handle = layer.register_forward_hook(self)
        layer.grace = self  # type: ignore[assignment]  # no module: not in the state_dict, and copied with the model

    def __call__(self, _: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        """Replace output [..., d] at the positions whose input [..., f] lies within a radius."""
        if not self.codebook.labels:
            return None
        distance, entry = self.codebook.nearest(args[0])
        within = distance <= self.codebook.radii[entry]
        if not within.any():
            return None
        return torch.where(within[..., None], self.codebook.values[entry].to(output.dtype), output)

    def unwrap(self) -> None:
        """Take the codebook off: the layer is as it was."""
        self.handle.remove()
        del self.layer.grace


def apply_grace_to_model(
    model: nn.Module,
    tok: Any,
    requests: Sequence[Mapping[str, Any]],
    hparams: GRACEHyperParams,
    copy: bool = False,
    return_orig_weights: bool = False,
    keep_original_weight: bool = False,
    **_: Any,
) -> tuple[nn.Module, dict[str, Tensor]]:
    """Write requests into the model's codebook, one after the other (EasyEdit's contract).

    requests: `prompt` (the subject written out, or `{}` and `subject`) and `target_new`. hparams: these, or EasyEdit's
    own GraceHyperParams. copy: edit a copy of the model. keep_original_weight: the wheel's word for undoing the edits
    of earlier calls; there are no weights to put back, so the earlier codebook is dropped here.
    Returns (model, {}): no weight was changed. `unwrap(model)` undoes all edits.
    Raises FactError or HyperParamsError, and ArithmeticError when a loss is not finite; the edits of the call are then
    not made.
    """
    texts = prompts_and_targets(requests)
    if copy:
        model = deepcopy(model)
    _layer(model, hparams)  # a wrong name is an error before anything is undone
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
    """The model's codebook; None before its first edit."""
    return next((wrapped.codebook for wrapped in _wrapped_layers(model)), None)


def resume(model: nn.Module, hparams: GRACEHyperParams, tensors: Mapping[str, Tensor]) -> None:
    """Put a codebook, saved as `codebook_of(model).tensors()`, on a model, in place of the one it may have."""
    unwrap(model)
    layer = _layer(model, hparams)
    codebook = Codebook.from_tensors({name: tensor.to(layer.weight.device) for name, tensor in tensors.items()})
    GRACELayer(layer, codebook)


def unwrap(model: nn.Module) -> None:
    """Undo all edits: the model computes what it did before the first, to the bit."""
    for wrapped in list(_wrapped_layers(model)):
        wrapped.unwrap()


def _wrapped_layers(model: nn.Module) -> Iterator[GRACELayer]:
    for module in model.modules():
        if "grace" in module.__dict__:
            yield module.__dict__["grace"]


def _wrapped(model: nn.Module, hparams: GRACEHyperParams) -> GRACELayer:
    """The model's codebook at work, an empty one if it has none yet."""
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
    """The Linear or Conv1D to wrap: of "model.layers[27].mlp.down_proj.weight", model.layers.27.mlp.down_proj."""
    name = re.sub(r"\[(\d+)\]", r".\1", hparams.inner_params[0]).removesuffix(".weight")
    layer = dict(model.named_modules()).get(name)
    if not isinstance(getattr(layer, "weight", None), Tensor):
        raise HyperParamsError(
            f"inner_params = {hparams.inner_params!r}: this {type(model).__name__} has no layer {name!r} with a "
            "weight; name a Linear or Conv1D of an MLP."
        )
    return layer


def _edit(model: Any, tok: Any, wrapped: GRACELayer, text: Pair, hparams: GRACEHyperParams) -> None:
    """One edit: find its place in the codebook, then learn the entry's value."""
    prompt_ids, target_ids = split_target(tok, *text)
    ids = torch.tensor([prompt_ids + target_ids[:-1]], device=model.get_input_embeddings().weight.device)
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
    """What enters the layer at one position of the row ids [1, S]: [f]."""
    seen: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0][0, position].detach()))
    try:
        with torch.no_grad():
            model(input_ids=ids, use_cache=False)
    finally:
        handle.remove()
    return seen[0]


def _first_value(wrapped: GRACELayer, key: Tensor, hparams: GRACEHyperParams) -> Tensor:
    """What a new value [d] starts from. "cold" is drawn by the entry's number: a resumed run draws the same."""
    if hparams.val_init == "warm":
        output: Tensor = wrapped.layer.forward(key[None])[0].detach()  # past the hook
        return output
    draws = torch.Generator().manual_seed(len(wrapped.codebook.labels))
    return torch.rand(wrapped.codebook.values.shape[1], generator=draws).to(key.device)
