"""The facts that MEND is trained on and edits."""

from __future__ import annotations

from pathlib import Path

import torch

from nse_plugin.facts import Fact

PRESETS = Path(__file__).parents[1] / "hparams" / "MEND"
MATRICES = {
    "llama": [f"model.layers.3.mlp.{name}_proj.weight" for name in ("gate", "up", "down")],
    "gpt2": [f"transformer.h.3.mlp.{name}.weight" for name in ("c_fc", "c_proj")],
}
REQUEST = {"prompt": "The capital of Peru is", "subject": "Peru", "target_new": "Arica"}
OTHER = {"prompt": "The capital of Japan is", "subject": "Japan", "target_new": "Osaka"}
FACTS = [
    Fact("The capital of {} is", "Peru", "Arica", locality_prompts=(("In Peru people speak", "Spanish"),)),
    Fact("The capital of {} is", "Italy", "Milan", locality_prompts=(("The capital of the United States is", "Lima"),)),
]


def weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def changed(model, before):
    return [name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])]
