"""Fill the gaps in EasyEdit's registry: what it has of its own stays."""

from __future__ import annotations

from typing import Any

from nse_plugin.baselines.grace import apply_grace_to_model


def register_missing(algorithms: dict[str, Any]) -> None:
    """Add to `algorithms`, EasyEdit's `ALG_DICT`, the methods of this room that it has not; repeating changes nothing.

    EasyEdit's main has a GRACE, the PyPI wheel of 2023 has none.
    """
    algorithms.setdefault("GRACE", apply_grace_to_model)
