"""Predictions of the unedited model, saved for the metrics that compare with them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from nse_plugin.evaluation.metrics.locality import from_json, to_json
from nse_plugin.evaluation.teacher_forcing import Predictions
from nse_plugin.experiments.record import Record
from nse_plugin.support.files import written_whole


@dataclass(frozen=True)
class Reference:
    """Predictions of the unedited model, for the metrics that compare with them. easyedit: in the format of EasyEdit's
    evaluator. instruments: reference tensors of each instrument, by its name."""

    locality: Predictions
    easyedit: list[Any]
    instruments: dict[str, dict[str, Tensor]]

    def save(self, record: Record) -> None:
        for name, tensors in self.instruments.items():
            with written_whole(record.folder / f"reference-{name}.safetensors") as path:
                save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path)
        with written_whole(record.folder / "reference.json") as path:
            kept = {"locality": to_json(self.locality), "easyedit": self.easyedit, "instruments": [*self.instruments]}
            path.write_text(json.dumps(kept), encoding="utf-8")

    @classmethod
    def load(cls, record: Record) -> Reference:
        kept = json.loads((record.folder / "reference.json").read_text(encoding="utf-8"))
        names = kept.get("instruments", [])  # missing in files of earlier versions
        tensors = {name: load_file(record.folder / f"reference-{name}.safetensors") for name in names}
        return cls(from_json(kept["locality"]), kept["easyedit"], tensors)
