"""Results of one method on disk, with one folder per checkpoint; each folder is written atomically.

    methods/<name>/asked.json               everything that the results depend on
                   checkpoint-000050/       facts.csv, texts.csv and further tables, overall.json, state.safetensors
                   ended.json               how the method ended
                   session/, edits.patch    with save_models: the edits, in one of these two forms
                   log.txt                  output of the method itself

A later run reads these files and continues from the last checkpoint.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors.torch import load_file, save_file
from torch import Tensor

from nse_plugin.experiments.plan import PlanError
from nse_plugin.experiments.plan.inputs import difference
from nse_plugin.support.files import file_in_the_way, folder_written_whole, written_whole

CELLS = "cells"  # contains one folder per cell
STATE = "state.safetensors"
SESSION, PATCH = "session", "edits.patch"  # how `save_models` keeps the edits of a method


@dataclass(frozen=True)
class Checkpoint:
    """Measurements after `edits` facts.

    facts, texts: frames as in facts.csv and texts.csv, without the columns method and edits. overall: one number per
    metric. costs: {"seconds": {part: s}, "peak_memory_mib": m}, from the method's start to this checkpoint. tables:
    further results as frames, by the name of their CSV file.
    """

    edits: int
    facts: pd.DataFrame
    texts: pd.DataFrame
    overall: dict[str, float]
    costs: dict[str, Any]
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)


class Record:
    """The folder of one method."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    def check_for(self, asked: dict[str, object], begun: bool = False) -> None:
        """Raise PlanError if the existing results were made from other inputs. asked: the present inputs, as
        `plan.inputs` returns them. begun: also compare with the inputs of a run that has no results yet."""
        path = self.folder / "asked.json"
        if path.is_file() and (begun or not self._came_to_nothing):
            changed = difference(json.loads(path.read_text(encoding="utf-8")), asked)
            if changed is not None:
                raise PlanError(
                    f"{self.folder} holds results of other inputs ({changed}): choose another `out`, or delete "
                    "that folder."
                )

    def open_for(self, asked: dict[str, object]) -> None:
        """Start a record, or resume an existing one. Raises PlanError as `check_for` does."""
        self.check_for(asked)
        path = self.folder / "asked.json"
        if not path.is_file() or self._came_to_nothing:
            _write_json(path, asked)

    @property
    def _came_to_nothing(self) -> bool:
        """Whether there is no result: the method failed or was stopped before the first one, or never started."""
        return not (self.is_done or self.edits or any(self.folder.glob("*.csv")))

    @property
    def ended(self) -> dict[str, Any] | None:
        """What `end` wrote (status, error, note, ...); None if the method has not ended yet."""
        path = self.folder / "ended.json"
        if not path.is_file():
            return None
        ended: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return ended

    @property
    def is_done(self) -> bool:
        return self.ended is not None and self.ended["status"] == "done"

    def end(self, **what: object) -> None:
        """Write how the method ended to ended.json. With status "done", delete the states of its checkpoints, which are
        no longer needed."""
        _write_json(self.folder / "ended.json", what)
        if what["status"] == "done":
            for path in self.folder.glob(f"checkpoint-*/{STATE}"):
                path.unlink()

    @property
    def edits(self) -> list[int]:
        """Numbers of edits of the existing checkpoints, ascending."""
        return sorted(int(path.name.removeprefix("checkpoint-")) for path in self.folder.glob("checkpoint-*"))

    def save(self, checkpoint: Checkpoint, state: dict[str, Tensor] | None) -> None:
        """Write a checkpoint, then delete the states of earlier ones. state: tensors of any shape, by name."""
        with folder_written_whole(self._checkpoint(checkpoint.edits)) as folder:
            for name, frame in {**checkpoint.tables, "facts": checkpoint.facts, "texts": checkpoint.texts}.items():
                frame.to_csv(folder / f"{name}.csv", index=False)
            measured = {"overall": checkpoint.overall, "costs": checkpoint.costs}
            (folder / "overall.json").write_text(json.dumps(measured, indent=1), encoding="utf-8")
            if state is not None:
                save_file({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, folder / STATE)
        for edits in self.edits:
            if edits < checkpoint.edits:
                (self._checkpoint(edits) / STATE).unlink(missing_ok=True)

    def load(self, edits: int) -> Checkpoint:
        folder = self._checkpoint(edits)
        kept = json.loads((folder / "overall.json").read_text(encoding="utf-8"))
        tables = {
            path.stem: pd.read_csv(path, keep_default_na=False, na_values=[""]) for path in sorted(folder.glob("*.csv"))
        }
        facts, texts = tables.pop("facts"), tables.pop("texts")
        return Checkpoint(edits, facts, texts, kept["overall"], kept["costs"], tables)

    def state(self, edits: int) -> dict[str, Tensor] | None:
        """Return the state from which a method continues after a checkpoint: tensors of any shape, by name. None if no
        state was kept."""
        path = self._checkpoint(edits) / STATE
        return load_file(path) if path.is_file() else None

    def _checkpoint(self, edits: int) -> Path:
        return self.folder / f"checkpoint-{edits:06d}"


def cells(out: Path) -> list[Record]:
    """Return the records of all cells in a sweep's folder, sorted by name."""
    return [Record(path) for path in sorted((out / CELLS).glob("*")) if path.is_dir()]


def check_writable(out: Path) -> None:
    """Create the results folder if it does not exist. Raises PlanError if it cannot be written to."""
    if file := file_in_the_way(out):
        raise PlanError(f"out = {str(out)!r} cannot be used: {file} is a file; name a folder.")
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise PlanError(f"out = {str(out)!r} cannot be written to ({error.strerror}): choose another folder.") from None


def _write_json(path: Path, value: object) -> None:
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1), encoding="utf-8")
