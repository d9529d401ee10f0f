"""Convert and check single values of hyperparameters, as read from files or set by EasyEdit."""

from __future__ import annotations

import math
import os
from typing import Any

from nse_plugin.hparams.errors import HyperParamsError


def plain_python(kind: str, value: Any) -> Any:
    """Convert a value to the type `kind` of its field, or return it unchanged if that is not possible. YAML 1.1 reads
    5e-1 as a string, and OmegaConf has its own lists."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if kind.startswith("list") and not isinstance(value, str | int | float) and value is not None:
        return list(value)
    if kind.startswith("float"):
        if isinstance(value, str):
            try:
                return float(value)
            except ValueError:
                return value
        return float(value) if is_int(value) else value
    if kind == "int" and isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def require(ok: bool, name: str, value: Any, remedy: str) -> None:
    """Raise HyperParamsError, which names the field, its value and the remedy, unless `ok`."""
    if not ok:
        raise HyperParamsError(f"{name} = {value!r} cannot be used: {remedy}.")


def is_int(value: Any) -> bool:
    """Return whether a value is an integer but not a bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number but not a bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
