"""Hyperparameters per model: published ones, and ones tuned for this package."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

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
    alpha: float = 15.0
    subspace: str = "null_space"
    ridge: float = 10.0
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
        "subspace": "neurons", "ridge": 0.0, "p": 0.8, "max_iterations": 3, "mom2_update_weight": 600.0,
        "solver": "exact",
    }  # fmt: skip
    shape: ClassVar[tuple[str, int, int, int] | None] = ("llama", 30, 576, 49152)


TUNED_FOR: tuple[type[NSEHyperParams], ...] = (
    GPT2XLNSEHyperParams,
    GPTJNSEHyperParams,
    Llama3NSEHyperParams,
    SmolLM2NSEHyperParams,
)
