"""Hyperparameter files: find presets by name, read files, and format hyperparameters as YAML."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from nse_plugin.hparams.errors import HyperParamsError
from nse_plugin.support.suggestions import did_you_mean

_OF_THE_RUN = ("store", "evaluation_type", "api_key")


def find_file(name: str) -> Path:
    """Return the given path, the path with .yaml appended as in EasyEdit, or NSE's preset of that name. Raises
    HyperParamsError if none of them exists."""
    bundled = [root / "NSE" for root in _preset_folders()]
    given = Path(name)
    candidates = [given, Path(f"{name}.yaml")]
    if given.parent.parts[-2:] in ((), ("hparams", "NSE")):
        candidates += [folder / f"{given.name.removesuffix('.yaml')}.yaml" for folder in bundled]
    for path in candidates:
        if path.is_file():
            return path
    presets = preset_names()
    hint = did_you_mean(name, presets, "")
    remedy = " ".join(filter(None, [hint, f"Give a YAML or JSON path, or one of {presets}."]))
    raise HyperParamsError(f"No hyperparameter file {name!r}: {remedy}")


def preset_names() -> list[str]:
    """Return the names of NSE's bundled presets."""
    return sorted({path.stem for root in _preset_folders() for path in (root / "NSE").glob("*.yaml")})


def read_mapping(path: Path) -> dict[str, Any]:
    """Read the mapping in a YAML or JSON file. Raises HyperParamsError if the file is malformed or is not a mapping."""
    try:
        text = path.read_text(encoding="utf-8")
        config = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise HyperParamsError(f"{path} is not readable as {path.suffix[1:].upper()}: {reason}") from error
    if not isinstance(config, dict):
        raise HyperParamsError(f"{path} holds no mapping: write one 'field: value' a line.")
    return config


def preset_path(method: str, model_name: str) -> Path:
    """Return the path of hparams/<method>/<model_name>.yaml in this package.

    method: the name of a folder, e.g. "FT-L". Raises HyperParamsError if there is no such file; the message
    suggests a similar name or lists the available ones.
    """
    roots = _preset_folders()
    for root in roots:
        if (root / method / f"{model_name}.yaml").is_file():
            return root / method / f"{model_name}.yaml"
    methods = sorted({folder.name for root in roots for folder in root.iterdir() if any(folder.glob("*.yaml"))})
    if method not in methods:
        raise HyperParamsError(f"No presets for method {method!r}: {did_you_mean(method, methods)}")
    models = sorted({file.stem for root in roots for file in (root / method).glob("*.yaml")})
    raise HyperParamsError(f"No {method} preset for model {model_name!r}: {did_you_mean(model_name, models)}")


def _preset_folders() -> list[Path]:
    """Return the existing folders of presets: in a wheel, in a checkout."""
    package = Path(__file__).resolve().parents[1]
    return [root for root in (package / "presets", package.parent / "hparams") if root.is_dir()]


def preset_text(hparams: Mapping[str, Any], found: Sequence[str], why: Mapping[str, str] | None = None) -> str:
    """Format a preset as YAML. hparams: as returned by `NSEHyperParams.to_dict`. found: comment lines at the top. why:
    comments above single fields, {field: how its value was found}. Fields in `_OF_THE_RUN`, and fields that are None
    and have no comment, are omitted."""
    lines = [f"# {line}" for line in found]
    for name, value in hparams.items():
        comment = (why or {}).get(name)
        if (value is None and comment is None) or name in _OF_THE_RUN:
            continue
        if comment is not None:
            lines.append(f"# {name}: {comment}")
        lines.append(
            yaml.safe_dump({name: value}, default_flow_style=None if isinstance(value, list) else False).strip()
        )
    return "\n".join(lines) + "\n"
