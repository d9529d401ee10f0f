"""The cases on which AlphaEdit, WISE and UltraEdit are tested."""

from __future__ import annotations

from typing import Any

import torch

from nse_plugin import Fact
from nse_plugin.hparams import NSEHyperParams
from nse_plugin.models.layout import Layout
from nse_plugin.moments.provider import second_moments

FACTS = [
    Fact("The capital of {} is", "France", "Lyon", case_id=7),
    Fact("In {} people speak", "Peru", "Spanish"),
    Fact("The capital of {} is", "the United States", "Boston"),
]
PRESETS = {"AlphaEdit": "AlphaEdit", "WISE": "WISE", "ULTRAEDIT": "UltraEdit"}
EDITED = {
    ("AlphaEdit", "llama"): [f"model.layers.{layer}.mlp.down_proj" for layer in (1, 2)],
    ("AlphaEdit", "gpt2"): [f"transformer.h.{layer}.mlp.c_proj" for layer in (1, 2)],
    ("WISE", "llama"): ["model.layers[2].mlp.down_proj"],
    ("WISE", "gpt2"): ["transformer.h[2].mlp.c_fc"],
    ("ULTRAEDIT", "llama"): [f"model.layers.{layer}.mlp.up_proj" for layer in (1, 2)],
    ("ULTRAEDIT", "gpt2"): [f"transformer.h.{layer}.mlp.c_proj" for layer in (1, 2)],
}
SETTINGS: dict[str, dict[str, Any]] = {
    "AlphaEdit": {"layers": [1, 2], "v_num_grad_steps": 3, "v_loss_layer": 3, "v_lr": 0.5, "mom2_n_samples": 8,
                  "mom2_dataset": "self", "nullspace_threshold": "half", "L2": 0.01},
    "WISE": {"n_iter": 3, "act_margin": [0.01, 0.1, 0.05]},
    "ULTRAEDIT": {"lr": 1e-3, "batch_size_once": 2},
}  # fmt: skip


def eigenvalues(model: Any, settings: dict[str, Any], tokenizer: Any) -> torch.Tensor:
    return torch.cat([torch.linalg.eigvalsh(moment) for moment in moments_of(model, settings, tokenizer).values()])


def moments_of(model: Any, settings: dict[str, Any], tokenizer: Any) -> dict[int, torch.Tensor]:
    names = ("layers", "mom2_n_samples", "mom2_dataset", "stats_dir")
    hparams = NSEHyperParams(alpha=1.0, **{name: settings[name] for name in names})
    return second_moments(Layout.of(model), tokenizer, hparams)


def logits_of(model: Any, tokenizer: Any, text: str) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = model(**tokenizer(text, return_tensors="pt")).logits
    return logits[0]
