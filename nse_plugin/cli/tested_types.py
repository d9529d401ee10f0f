"""Which types of causal language models can be edited, as measured on small random models by the tests.

The tables are made by `python -m tests.measure_models`, one a version of transformers. They are read without importing
torch or transformers.
"""

from __future__ import annotations

import csv
from dataclasses import asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path

EXACT, REFUSED, NOT_MEASURED = "exact", "refused", "not measured"
_PREFIX = "model_types-"


@dataclass(frozen=True)
class MeasuredType:
    """The result for one model type, as in a configuration's `model_type`.

    verdict: `EXACT`, `REFUSED` or `NOT_MEASURED`. rows: for exact types "prefix cache", or "whole rows" if the model
    cannot be continued after cached keys and values. w_out: the edited matrix, {} for the layer's number. named:
    whether it must be named with rewrite_module_tmp. why: the refusal, or what kept the type from being measured.
    """

    type: str
    verdict: str
    rows: str = ""
    w_out: str = ""
    named: bool = False
    why: str = ""


def measured_versions() -> list[str]:
    """Return the versions of transformers with a table, ascending."""
    names = (entry.name for entry in files("nse_plugin.data").iterdir())
    found = [name[len(_PREFIX) : -len(".csv")] for name in names if name.startswith(_PREFIX)]
    return sorted(found, key=_numbers)


def nearest_version() -> str:
    """Return the newest measured version that is not above the installed one; the oldest if all are above, the newest
    if transformers is not installed."""
    measured = measured_versions()
    try:
        installed = _numbers(version("transformers"))
    except PackageNotFoundError:
        return measured[-1]
    return max((one for one in measured if _numbers(one) <= installed), key=_numbers, default=measured[0])


def read_types(of_version: str) -> list[MeasuredType]:
    """Return the table of a version of transformers."""
    text = files("nse_plugin.data").joinpath(f"{_PREFIX}{of_version}.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines())
    return [MeasuredType(**{**row, "named": row["named"] == "yes"}) for row in rows]  # type: ignore[arg-type]


def write_types(folder: Path, of_version: str, types: list[MeasuredType]) -> Path:
    """Write the table of a version of transformers, and return its path."""
    path = folder / f"{_PREFIX}{of_version}.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(MeasuredType)], lineterminator="\n")
        writer.writeheader()
        writer.writerows({**asdict(one), "named": "yes" if one.named else ""} for one in types)
    return path


def _numbers(of_version: str) -> tuple[int, ...]:
    """Return a version's numbers; (5, 24, 0) of "5.24.0.dev0"."""
    return tuple(int(part) for part in of_version.split(".")[:3] if part.isdigit())
