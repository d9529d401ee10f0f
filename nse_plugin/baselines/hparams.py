"""The hyperparameters of EasyEdit's algorithms, from YAML files in the form of EasyEdit's main.

One file serves main and the wheel of 2023, whose dataclasses differ in a few fields; and a mistake in it is one clear
sentence, where EasyEdit has a TypeError or nothing.
"""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from nse_plugin.baselines import grace
from nse_plugin.easyedit.locate import import_easyedit
from nse_plugin.hparams import HyperParamsError, NSEHyperParams
from nse_plugin.hparams.files import read_mapping
from nse_plugin.models.loading import easyedit_device
from nse_plugin.support.suggestions import did_you_mean

# Fields that main has and the wheel lacks: what the wheel does is the value here (None: any will do).
_MAIN_ONLY: dict[str, Any] = {"objective_optimization": "prompt_last", "fp16": None, "max_output_length": None}
_MAIN_ONLY_ALGORITHMS = ("AlphaEdit", "WISE", "ULTRAEDIT")
_WHEEL_ONLY = {"alg": "alg_name"}  # filled from that field


def load_hparams(alg_name: str, path: str | Path, overrides: Mapping[str, object], model: nn.Module) -> Any:
    """The dataclass that `alg_name` takes, from a YAML file, `overrides` on top, for a loaded model.

    `device` becomes the model's; `model_name` is the file's, because EasyEdit searches it for words, and a folder's
    name may hold any. A field that only the other EasyEdit has is dropped or filled.
    Raises HyperParamsError for a file that is missing or unreadable, and a field that is unknown or missing;
    ImportError when there is no EasyEdit.
    """
    path = Path(path)
    ours = {**overrides, "device": easyedit_device(next(model.parameters()).device)}
    if alg_name == "NSE":
        return NSEHyperParams.from_hparams(path).with_overrides(**ours)
    if not path.is_file():
        raise HyperParamsError(f"No hyperparameter file {str(path)!r}: give the path of a YAML file.")
    config = read_mapping(path)
    named = config.get("alg_name")
    if named != alg_name:
        raise HyperParamsError(f"{path}: alg_name is {named!r}: use a file for {alg_name}.")
    cls = _class_of(alg_name)
    try:
        return cls(
            **_fitting(cls, _unfolded({name: _number_or_text(value) for name, value in {**config, **ours}.items()}))
        )
    except HyperParamsError as error:
        raise HyperParamsError(f"{path}: {error}") from error


def _class_of(alg_name: str) -> Any:
    """An algorithm's dataclass: those in EasyEdit's registry module are called MEMITHyperParams, SERACHparams, ..."""
    import_easyedit()
    if alg_name == "GRACE":
        return grace.GRACEHyperParams  # whatever EasyEdit has: the algorithm is ours
    registry = vars(importlib.import_module("easyeditor.util.alg_dict"))
    wanted = _letters(alg_name)
    for name, found in registry.items():
        if isinstance(found, type) and _letters(name) in (f"{wanted}hyperparams", f"{wanted}hparams"):
            return found
    raise HyperParamsError(lacking(alg_name, registry["ALG_DICT"]))


def lacking(alg_name: str, algorithms: Iterable[str]) -> str:
    """The error message for an algorithm that the imported EasyEdit does not have, with its remedy."""
    if alg_name in _MAIN_ONLY_ALGORITHMS:
        hint = "EasyEdit's main has it: clone https://github.com/zjunlp/EasyEdit and set EASYEDIT_HOME to that folder."
    else:
        hint = did_you_mean(alg_name, list(algorithms))
    return f"alg_name = {alg_name!r}: this EasyEdit has no such algorithm; {hint}"


def _fitting(cls: Any, config: dict[str, Any]) -> dict[str, Any]:
    """The configuration with the fields that the class has, no more and no fewer."""
    specs = {spec.name: spec for spec in dataclasses.fields(cls)}
    for name, source in _WHEEL_ONLY.items():
        if name in specs and source in config:
            config.setdefault(name, config[source])
    for name in [name for name in config if name not in specs]:
        if name not in _MAIN_ONLY and name not in _WHEEL_ONLY:
            raise HyperParamsError(f"Unknown hyperparameter {name!r}: {did_you_mean(name, list(specs))}")
        value, right = config.pop(name), _MAIN_ONLY.get(name)
        if right is not None and value != right:
            raise HyperParamsError(f"{name} = {value!r} cannot be used: this EasyEdit knows {right!r} only.")
    for name, spec in specs.items():
        if spec.default is spec.default_factory is dataclasses.MISSING and name not in config:
            raise HyperParamsError(f"{name} is missing: no value of it suits every model, so give one.")
    return config


def _unfolded(config: dict[str, object]) -> dict[str, Any]:
    """WISE's files give three of its fields as one list."""
    if "act_margin" not in config:
        return config
    margin = config.pop("act_margin")
    if not isinstance(margin, list) or len(margin) != 3:
        raise HyperParamsError(f"act_margin = {margin!r} cannot be used: give a list of alpha, beta and gamma.")
    return {**config, **dict(zip(("alpha", "beta", "gamma"), margin, strict=True))}


def _number_or_text(value: object) -> Any:
    """YAML 1.1 reads 5e-4 as a string."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
