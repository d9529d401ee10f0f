"""Hyperparameters of EasyEdit's algorithms, read from YAML files in the format of EasyEdit's main branch.

The same file works with main and with the wheel of 2023, whose dataclasses differ in a few fields. A mistake in a file
is reported in one clear sentence, where EasyEdit raises a TypeError or nothing.
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

# Fields that only main has, with the value that corresponds to the wheel's behaviour (None: any value is accepted).
_MAIN_ONLY: dict[str, Any] = {"objective_optimization": "prompt_last", "fp16": None, "max_output_length": None}
_MAIN_ONLY_ALGORITHMS = ("AlphaEdit", "WISE", "ULTRAEDIT")
_WHEEL_ONLY = {"alg": "alg_name"}  # a field of the wheel: the field it is filled from


def load_hparams(alg_name: str, path: str | Path, overrides: Mapping[str, object], model: nn.Module) -> Any:
    """Load the hyperparameter dataclass of `alg_name` from a YAML file, for a loaded model; `overrides` take
    precedence.

    `device` is set to the model's device. `model_name` is kept from the file, because EasyEdit searches it for words,
    and the name of a model's folder may contain any word. A field that only the other version of EasyEdit has is
    dropped or filled.
    Raises HyperParamsError if the file is missing, unreadable or for another algorithm, or if a field is unknown,
    missing or has a value that cannot be used; ImportError if there is no EasyEdit.
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
    """Return an algorithm's dataclass; EasyEdit's registry module has them as MEMITHyperParams, SERACHparams, ..."""
    import_easyedit()
    if alg_name == "GRACE":
        return grace.GRACEHyperParams  # with either EasyEdit: the algorithm is this package's own
    registry = vars(importlib.import_module("easyeditor.util.alg_dict"))
    wanted = _letters(alg_name)
    for name, found in registry.items():
        if isinstance(found, type) and _letters(name) in (f"{wanted}hyperparams", f"{wanted}hparams"):
            return found
    raise HyperParamsError(lacking(alg_name, registry["ALG_DICT"]))


def lacking(alg_name: str, algorithms: Iterable[str]) -> str:
    """Return the error message for an algorithm that the imported EasyEdit does not have, with its remedy."""
    if alg_name in _MAIN_ONLY_ALGORITHMS:
        hint = "EasyEdit's main has it: clone https://github.com/zjunlp/EasyEdit and set EASYEDIT_HOME to that folder."
    else:
        hint = did_you_mean(alg_name, list(algorithms))
    return f"alg_name = {alg_name!r}: this EasyEdit has no such algorithm; {hint}"


def _fitting(cls: Any, config: dict[str, Any]) -> dict[str, Any]:
    """Drop fields that only the other EasyEdit has, and fill fields that only the wheel has.

    Raises HyperParamsError if a field is unknown, has a value that this EasyEdit cannot use, or is missing without a
    default.
    """
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
    """Split `act_margin`, one list in WISE's files, into the fields alpha, beta and gamma."""
    if "act_margin" not in config:
        return config
    margin = config.pop("act_margin")
    if not isinstance(margin, list) or len(margin) != 3:
        raise HyperParamsError(f"act_margin = {margin!r} cannot be used: give a list of alpha, beta and gamma.")
    return {**config, **dict(zip(("alpha", "beta", "gamma"), margin, strict=True))}


def _number_or_text(value: object) -> Any:
    """Convert text to a number if possible: YAML 1.1 reads 5e-4 as a string."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
