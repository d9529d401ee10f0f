"""Make a patch from two models, for any editing method."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from nse_plugin.models.gguf.special_tokens import adds_bos
from nse_plugin.models.transformers_private import Conv1D
from nse_plugin.patch.columns import PatchError, difference
from nse_plugin.patch.patch import EditPatch
from nse_plugin.patch.rounds import record_of
from nse_plugin.patch.weights import NamedMatrix, others_hash, tensor_hash

if TYPE_CHECKING:
    from nse_plugin.facts import Fact

_NUMBER = re.compile(r"\.(\d+)\.")


def patch_between(
    base: nn.Module, edited: nn.Module, tokenizer: Any, hparams: Mapping[str, Any], facts: Sequence[Fact], time: str
) -> EditPatch:
    """Return the patch with all matrices in which `edited` differs from `base`, a model with the same parameters.

    tokenizer: the tokenizer of both models. hparams: hyperparameters of the method, including `alg_name`. facts: the
    facts that were written. time: UTC, ISO 8601. The patch has one round, whose reason is the name of the method.
    Raises PatchError if the models differ in anything but the values of matrices, or do not differ.
    """
    before, after = dict(base.named_parameters()), dict(edited.named_parameters())
    if before.keys() != after.keys():
        odd = sorted(before.keys() ^ after.keys())[0]
        raise PatchError(f"only one of the models has {odd}: a patch changes weights, and adds none.")
    marks = [{name: tensor_hash(weight) for name, weight in side.items()} for side in (before, after)]
    changed = [name for name in after if marks[0][name] != marks[1][name]]
    if flat := [name for name in changed if after[name].dim() != 2 or before[name].shape != after[name].shape]:
        raise PatchError(f"{flat[0]} differs and is no matrix, or of another shape: a patch changes matrices alone.")
    if not changed:
        raise PatchError("the models have the same weights: there is nothing to put into a patch.")
    names = _by_layer(changed)
    others = others_hash(base, changed)
    if others != others_hash(edited, changed):
        raise PatchError("a buffer of the models differs: a patch changes matrices alone.")
    matrices = {layer: _matrix(edited, name, after[name]) for layer, name in names.items()}
    method = str(hparams.get("alg_name"))
    return EditPatch(
        difference(matrices, {layer: before[name].data for layer, name in names.items()}),
        matrices=names,
        before={layer: marks[0][name] for layer, name in names.items()},
        after={layer: marks[1][name] for layer, name in names.items()},
        others=others,
        hparams=hparams,
        rounds=[{"id": "", "number": 1, "time": time, "author": None, "reason": method, "facts": len(facts)}],
        facts=[record_of(fact) for fact in facts],
        model_name=getattr(getattr(base, "config", None), "_name_or_path", None) or None,
        adds_bos=adds_bos(tokenizer),
    )


def _by_layer(names: Sequence[str]) -> dict[int, str]:
    """Return parameter names by the layer number in them, or by index if the numbers are missing or not unique."""
    numbers = [int(found[1]) if (found := _NUMBER.search(name)) else None for name in names]
    if None in numbers or len(set(numbers)) < len(names):
        return dict(enumerate(names))
    return {number: name for number, name in zip(numbers, names, strict=True) if number is not None}


def _matrix(model: nn.Module, name: str, weight: nn.Parameter) -> NamedMatrix:
    module = model.get_submodule(name.rpartition(".")[0])
    return NamedMatrix(name, weight, isinstance(module, Conv1D))
