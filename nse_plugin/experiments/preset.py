"""Hyperparameters that were found, as a file in EasyEdit's form that says how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

_OF_THE_RUN = ("store", "evaluation_type", "api_key")


def preset_text(hparams: Mapping[str, Any], found: Sequence[str], why: Mapping[str, str] | None = None) -> str:
    """YAML. hparams: as `NSEHyperParams.to_dict` gives them. found: lines of comment at its top. why: field -> how its
    value was found, a comment above it."""
    lines = [f"# {line}" for line in found]
    for name, value in hparams.items():
        if value is None or name in _OF_THE_RUN:
            continue
        if why and name in why:
            lines.append(f"# {name}: {why[name]}")
        lines.append(
            yaml.safe_dump({name: value}, default_flow_style=None if isinstance(value, list) else False).strip()
        )
    return "\n".join(lines) + "\n"
