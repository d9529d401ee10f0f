"""Hyperparameters per model: published ones, ones tuned for this package, and proposed ones that nobody tested."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from nse_plugin.hparams.settings import NSEHyperParams


@dataclass
class GPT2XLNSEHyperParams(NSEHyperParams):
    """GPT2-XL, published values (layers 13-17, alpha 35, p 1.0, lambda 10,000)."""

    layers: list[int] = field(default_factory=lambda: [13, 14, 15, 16, 17])
    alpha: float = 35.0
    upper_bound: float | None = 150.0
    v_num_grad_steps: int = 20
    mom2_update_weight: float = 10000.0
    mom2_dataset: str = "wikipedia"
    mom2_n_samples: int = 100000
    stats_dir: str | None = "./data/stats"
    model_name: str = "./hugging_cache/gpt2-xl"
    aliases: ClassVar[tuple[str, ...]] = ("gpt2-xl",)
    shape: ClassVar[tuple[str, int, int, int] | None] = ("gpt2", 48, 1600, 50257)


@dataclass
class GPTJNSEHyperParams(NSEHyperParams):
    """GPT-J-6B, published values (layers 3-8, alpha 15, p 0.8, lambda 15,000)."""

    layers: list[int] = field(default_factory=lambda: [3, 4, 5, 6, 7, 8])
    alpha: float = 15.0
    p: float = 0.8
    upper_bound: float | None = 100.0
    mom2_dataset: str = "wikipedia"
    mom2_n_samples: int = 100000
    stats_dir: str | None = "./data/stats"
    model_name: str = "./hugging_cache/gpt-j-6B"
    aliases: ClassVar[tuple[str, ...]] = ("gpt-j-6B", "EleutherAI_gpt-j-6B")
    shape: ClassVar[tuple[str, int, int, int] | None] = ("gptj", 28, 4096, 50400)


@dataclass
class Llama3NSEHyperParams(NSEHyperParams):
    """Llama3-8B, published values (layers 4-8, alpha 2.5, p 1.0, v_lr 0.1, lambda 15,000)."""

    layers: list[int] = field(default_factory=lambda: [4, 5, 6, 7, 8])
    alpha: float = 2.5
    upper_bound: float | None = 50.0
    v_lr: float = 0.1
    mom2_dataset: str = "wikipedia"
    mom2_n_samples: int = 100000
    stats_dir: str | None = "./data/stats"
    model_name: str = "./hugging_cache/llama3-8b"
    aliases: ClassVar[tuple[str, ...]] = (
        "llama3-8b", "meta-llama-3-8b", "llama-3-8b", "llama3.1-8b", "meta-llama-3.1-8b", "llama-3.1-8b"
    )  # fmt: skip
    shape: ClassVar[tuple[str, int, int, int] | None] = ("llama", 32, 4096, 128256)


@dataclass
class SmolLM2NSEHyperParams(NSEHyperParams):
    """SmolLM2-135M, chosen for this package at 2,000 CounterFact facts (docs/presets.md). `for_model(model,
    preset="paper")`, or the file smollm2-135m-paper.yaml, is the paper's setting."""

    layers: list[int] = field(default_factory=lambda: [4, 5, 6])
    alpha: float = 30.0
    subspace: str = "null_space"
    ridge: float = 5.0
    max_iterations: int = 1
    upper_bound: float | None = None
    mom2_update_weight: float = 0.0
    solver: str = "fast"
    v_num_grad_steps: int = 11
    mom2_n_samples: int = 128
    tokens_per_batch: int = 8192
    batch_size: int = 10
    device: int | str = "cpu"
    model_name: str = "smollm2-135m"
    aliases: ClassVar[tuple[str, ...]] = ("smollm2-135m",)
    paper: ClassVar[dict[str, Any]] = {
        "subspace": "neurons", "ridge": 0.0, "p": 0.8, "alpha": 15.0, "max_iterations": 3, "mom2_update_weight": 600.0,
        "solver": "exact",
    }  # fmt: skip
    shape: ClassVar[tuple[str, int, int, int] | None] = ("llama", 30, 576, 49152)


TUNED_FOR: tuple[type[NSEHyperParams], ...] = (
    GPT2XLNSEHyperParams,
    GPTJNSEHyperParams,
    Llama3NSEHyperParams,
    SmolLM2NSEHyperParams,
)


class Shape(NamedTuple):
    """The shape of a model. layers: their number. neurons: f, of one MLP."""

    layers: int
    neurons: int


# Models whose presets follow the rules of `proposed.py`: hparams/NSE/<name>.yaml, written by `benchmarks.presets`.
# The shapes are those of the published configurations, not checked here; a loaded model gets proposals from its own.
PROPOSED_FOR: dict[str, Shape] = {
    "llama-3.2-1b": Shape(16, 8192),
    "llama-3.2-3b": Shape(28, 8192),
    "qwen2.5-7b": Shape(28, 18944),
    "qwen3-8b": Shape(36, 12288),
    "mistral-7b": Shape(32, 14336),
    "gemma-2-2b": Shape(26, 9216),
    "gemma-3-1b": Shape(26, 6912),
    "phi-3-mini": Shape(32, 8192),
    "phi-4": Shape(40, 17920),
    "olmo-2-1124-7b": Shape(32, 11008),
    "pythia-2.8b": Shape(32, 10240),
    "pythia-6.9b": Shape(32, 16384),
    "smollm2-360m": Shape(32, 2560),
    "smollm2-1.7b": Shape(24, 8192),
}
# What may follow in the name of the same shape: Llama-3.2-1B-Instruct, gemma-2-2b-it, Mistral-7B-v0.3
_VARIANT = r"(-(instruct|it|pt|chat|base|hf|deduped|sft|dpo|v?\d+(\.\d+)*k?))*"


def proposed_preset(name: Any) -> str | None:
    """Return the name of the proposed preset for a model's name or path; None if there is none."""
    given = Path(str(name)).name.lower().removeprefix("meta-")
    return next((known for known in PROPOSED_FOR if re.fullmatch(re.escape(known) + _VARIANT, given)), None)
