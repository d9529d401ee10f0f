"""Export a patch as a LoRA adapter for PEFT, transformers, vLLM and SGLang."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn

from nse_plugin.patch.columns import PatchError
from nse_plugin.patch.export.card import adapter_card
from nse_plugin.patch.export.factors import Factors, factors_of, warn_if_truncated
from nse_plugin.patch.file import write_tensors
from nse_plugin.patch.patch import EditPatch
from nse_plugin.support.files import file_in_the_way, folder_written_whole

CONFIG, WEIGHTS, CARD = "adapter_config.json", "adapter_model.safetensors", "README.md"
_PREFIX = "base_model.model."


def write_lora(patch: EditPatch, folder: Path, rank: int | None = None) -> Path:
    """Write adapter_config.json, adapter_model.safetensors (float32) and a model card; return the folder.

    All layers have the same rank, the largest that any layer needs, and `lora_alpha` is equal to it, so that every
    program scales by 1. Modules are listed by their full names, because PEFT loses layers of adapters that share a
    suffix. rank: keep only this many directions (warns if the change has more); measure which facts still hold with
    `kept_at_rank` before publishing such an adapter.
    Raises PatchError if the folder holds other files, a file is in its place, or rank is not above 0.
    """
    if file := file_in_the_way(folder.absolute()):
        raise PatchError(f"{folder} cannot hold an adapter: {file} is a file; name a folder.")
    if folder.exists() and any(path.name not in (CONFIG, WEIGHTS, CARD) for path in folder.iterdir()):
        raise PatchError(f"{folder} holds other files: name a new or empty folder for the adapter.")
    factors = factors_of(patch, rank)
    warn_if_truncated(factors)
    r = next(iter(factors.values())).a.shape[0]
    tensors = {}
    for one in factors.values():
        module = _PREFIX + _module(one)
        tensors[f"{module}.lora_A.weight"], tensors[f"{module}.lora_B.weight"] = one.a, one.b
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": patch.model_name,
        "r": r,
        "lora_alpha": r,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": [_module(one) for one in factors.values()],
        "fan_in_fan_out": any(one.transposed for one in factors.values()),
        "inference_mode": True,
    }
    about = {"format": "pt", "nse_others": patch.others}
    with folder_written_whole(folder) as aside:
        write_tensors(aside / WEIGHTS, tensors, about)
        (aside / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        (aside / CARD).write_text(adapter_card(patch, factors), encoding="utf-8")
    return folder


def check_lora(model: nn.Module, folder: str | Path) -> None:
    """Raise PatchError unless an adapter fits the model: every tensor belongs to a module of the model, in the right
    shape, and every module in its configuration has its tensors. PEFT does not warn if part of an adapter is not used.

    model: the base, or a PEFT model of it.
    """
    path = Path(folder)
    config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    with safe_open(path / WEIGHTS, "pt") as opened:
        shapes = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    base = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    modules = dict(base.named_modules())
    for module in config["target_modules"]:
        names = [f"{_PREFIX}{module}.lora_{side}.weight" for side in "AB"]
        missing = [name for name in names if name not in shapes]
        if missing:
            raise PatchError(f"{path} names {module} and has no {missing[0]}: write the adapter again.")
        found = [shapes.pop(name) for name in names]
        weight = getattr(modules.get(module), "weight", None)
        if not isinstance(weight, torch.Tensor):
            raise PatchError(f"{path} changes {module}, which this model has not: give its base model.")
        d, f = reversed(weight.shape) if config["fan_in_fan_out"] else weight.shape
        if found != [(config["r"], f), (d, config["r"])]:
            raise PatchError(
                f"{path} has {module} of shapes {found}, and the model's is [{d}, {f}]: give its base model."
            )
    if shapes:
        raise PatchError(f"{path} holds {sorted(shapes)[0]}, which its configuration does not name: write it again.")


def _module(one: Factors) -> str:
    return one.name.removesuffix(".weight")
