"""The finished cells of a sweep, and in what they differ."""

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
    """A finished cell. by_fact: a row a fact, a column a metric. costs: as in its checkpoint. preset: the values of all
    fields without the sweep; None where the sweep had no preset to start from."""

    name: str
    hparams: dict[str, Any]
    overall: dict[str, float]
    by_fact: pd.DataFrame
    costs: dict[str, Any]
    preset: dict[str, Any] | None

    def setting(self, fields: Sequence[str]) -> str:
        return ", ".join(f"{name} = {plain(self.hparams[name])}" for name in fields)

    def as_in_the_preset(self, fields: Sequence[str]) -> int:
        """How many of the fields have the preset's value; without a preset, their default."""
        usual = _DEFAULTS if self.preset is None else self.preset
        return sum(self.hparams[name] == usual.get(name) for name in fields)


def read_trial(record: Record) -> FinishedTrial:
    """A cell that was run to its end."""
    ended = record.ended
    assert ended is not None
    checkpoint = record.load(record.edits[-1])
    by_fact = checkpoint.facts[[name for name in checkpoint.facts if name in checkpoint.overall]]
    preset = _preset(record, ended["hparams"])
    return FinishedTrial(record.folder.name, ended["hparams"], checkpoint.overall, by_fact, checkpoint.costs, preset)


def _preset(record: Record, hparams: Mapping[str, object]) -> dict[str, Any] | None:
    """All fields as they are without the sweep: in the preset that it was started with, or in that of the model; None
    where there is neither."""
    asked = record.folder / "asked.json"
    named = json.loads(asked.read_text(encoding="utf-8")).get("preset") if asked.is_file() else None
    try:
        if named:
            return NSEHyperParams.from_hparams(named).to_dict()
        return NSEHyperParams.for_model(hparams["model_name"]).to_dict()
    except HyperParamsError:
        return None


def distinct(done: Sequence[FinishedTrial]) -> list[FinishedTrial]:
    """Without repetitions of one setting."""
    return list({json.dumps(cell.hparams, sort_keys=True): cell for cell in reversed(done)}.values())


def varied_fields(done: Sequence[FinishedTrial]) -> list[str]:
    """The fields in which cells differ."""
    settings = [{name: json.dumps(value) for name, value in cell.hparams.items()} for cell in done]
    return [name for name in settings[0] if len({one[name] for one in settings}) > 1] or ["p"]


def plain(value: object) -> Any:
    """A value as a cell of sweep.csv: lists and None as JSON."""
    return json.dumps(value) if value is None or isinstance(value, list) else value


def sortable(value: object) -> tuple[int, Any]:
    """A key by which values of one field sort: numbers, then lists, then the rest."""
    if isinstance(value, int | float):
        return 0, value
    return (1, value) if isinstance(value, list) else (2, json.dumps(value))
