"""Finished cells of a sweep, and the hyperparameters in which they differ."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from nse_plugin.experiments.record import Record
from nse_plugin.hparams import HyperParamsError, NSEHyperParams

_DEFAULTS = {spec.name: spec.default for spec in dataclasses.fields(NSEHyperParams)}


@dataclass(frozen=True)
class FinishedTrial:
    """A finished cell. by_fact: one row per fact, one column per metric. costs: as in its checkpoint. preset: values of
    all fields in the preset; None if the sweep had no preset to start from."""

    name: str
    hparams: dict[str, Any]
    overall: dict[str, float]
    by_fact: pd.DataFrame
    costs: dict[str, Any]
    preset: dict[str, Any] | None

    def setting(self, fields: Sequence[str]) -> str:
        return ", ".join(f"{name} = {plain(self.hparams[name])}" for name in fields)

    def as_in_the_preset(self, fields: Sequence[str]) -> int:
        """Return how many of the fields have the preset's value, or their default if there is no preset."""
        usual = _DEFAULTS if self.preset is None else self.preset
        return sum(self.hparams[name] == usual.get(name) for name in fields)


def read_trial(record: Record) -> FinishedTrial:
    """Read the record of a cell that is done."""
    ended = record.ended
    assert ended is not None
    checkpoint = record.load(record.edits[-1])
    by_fact = checkpoint.facts[[name for name in checkpoint.facts if name in checkpoint.overall]]
    preset = _preset(record, ended["hparams"])
    return FinishedTrial(record.folder.name, ended["hparams"], checkpoint.overall, by_fact, checkpoint.costs, preset)


def _preset(record: Record, hparams: Mapping[str, object]) -> dict[str, Any] | None:
    """Return the values of all fields in the preset that the sweep was started with, or else in the model's own.
    Returns None if there is neither."""
    asked = record.folder / "asked.json"
    named = json.loads(asked.read_text(encoding="utf-8")).get("preset") if asked.is_file() else None
    try:
        if named:
            return NSEHyperParams.from_hparams(named).to_dict()
        return NSEHyperParams.for_model(hparams["model_name"], preset="paper").to_dict()
    except HyperParamsError:
        return None


def distinct(done: Sequence[FinishedTrial]) -> list[FinishedTrial]:
    """Keep one cell for each set of hyperparameters, the first of them."""
    return list({json.dumps(cell.hparams, sort_keys=True): cell for cell in reversed(done)}.values())


def varied_fields(done: Sequence[FinishedTrial]) -> list[str]:
    """Return the fields in which cells differ; `p` if there is none."""
    settings = [{name: json.dumps(value) for name, value in cell.hparams.items()} for cell in done]
    return [name for name in settings[0] if len({one[name] for one in settings}) > 1] or ["p"]


def plain(value: object) -> Any:
    """Convert a value for sweep.csv: lists and None become JSON."""
    return json.dumps(value) if value is None or isinstance(value, list) else value


def sortable(value: object) -> tuple[int, Any]:
    """Return a sort key for the values of one field: numbers first, then lists, then the rest."""
    if isinstance(value, int | float):
        return 0, value
    return (1, value) if isinstance(value, list) else (2, json.dumps(value))
