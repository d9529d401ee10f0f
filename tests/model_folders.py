"""Model folders for the tests of plans."""

from __future__ import annotations

import json
from pathlib import Path

from nse_plugin.experiments.plan import Plan
from nse_plugin.experiments.plan.configuration import composed

SMOLLM2 = {
    "model_type": "llama", "num_hidden_layers": 30, "hidden_size": 576, "vocab_size": 49152, "intermediate_size": 1536,
    "num_attention_heads": 9,
}  # fmt: skip


def shaped(folder: Path, **changed: object) -> Path:
    """A folder that looks like SmolLM2-135M's, but for its weights, which these tests do not read."""
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text("{}")
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], **SMOLLM2, **changed}))
    return folder


def plan(*settings: str) -> Plan:
    return Plan.from_config(composed("compare", settings))
