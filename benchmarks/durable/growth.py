"""1,000 rounds of one fact in a session on disk: does a round take more time or disk space, or opening more time?

The model is random and tiny (Llama, 4 layers, d 64, f 256), so that the cost of the session itself is visible. After
every hundredth round the session is closed and opened again on a new base model.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nse_plugin import EditSession, Fact, NSEHyperParams

LAYERS = [1, 2]
EVERY = 100


def add(commands: Any) -> None:
    """Add the command and its options. commands: argparse's subparsers."""
    command = commands.add_parser("growth", help="time and disk of a round, and of opening, over 1,000 rounds: minutes")
    command.add_argument("--rounds", type=int, default=1000)
    command.add_argument("--out", type=Path, default=Path("durable.png"))
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> bool:
    """Measure, print one line per hundred rounds, and draw the plot."""
    with tempfile.TemporaryDirectory() as folder:
        seconds, sizes, opening = measure(Path(folder) / "session", options.rounds)
    for first in range(0, options.rounds, EVERY):
        chosen = slice(first, first + EVERY)
        print(
            f"rounds {first + 1:4d} to {first + EVERY:4d}: {np.median(seconds[chosen]) * 1000:.0f} ms and "
            f"{np.median(sizes[chosen]) / 1024:.1f} KiB each; opening then takes {opening[first // EVERY]:.2f} s"
        )
    draw(seconds, sizes, opening, options.out)
    return True


def measure(folder: Path, rounds: int) -> tuple[list[float], list[int], list[float]]:
    """Return the CPU seconds and bytes of each round, and the CPU seconds of opening after every hundredth round."""
    model, tokenizer, moments = base(), tokenizer_of(), moments_of()
    session = EditSession.open(folder, model, tokenizer, settings(), moments, ["{}", "It rains. {}"])
    seconds: list[float] = []
    sizes: list[int] = []
    opening: list[float] = []
    for number in range(rounds):
        started = time.process_time()
        session.edit(
            Fact("{} is a town of", f"town {number}", ("France", "Italy", "Spain")[number % 3], case_id=number)
        )
        seconds.append(time.process_time() - started)
        newest = next((folder / "rounds").glob(f"{number + 1:04d}-*"))
        sizes.append(sum(file.stat().st_size for file in newest.iterdir()) + (folder / "HEAD").stat().st_size)
        if (number + 1) % EVERY == 0:
            session.close()
            model, started = base(), time.process_time()
            session = EditSession.open(folder, model, tokenizer, moments=moments)
            opening.append(time.process_time() - started)
    session.close()
    return seconds, sizes, opening


def settings(**changes: Any) -> NSEHyperParams:
    """Return hyperparameters for the model that `base` makes."""
    chosen = {"alpha": 0.5, "p": 0.8, "v_num_grad_steps": 3, "max_iterations": 1, "device": "cpu", **changes}
    return NSEHyperParams(layers=LAYERS, **chosen)


def base() -> Any:
    """Make the base model, with the same random weights every time."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama", vocab_size=320, hidden_size=64, intermediate_size=256, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=64,
    )  # fmt: skip
    models: Any = AutoModelForCausalLM
    return models.from_config(config).eval()


def tokenizer_of() -> Any:
    """Make a tokenizer with one token per byte."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    own = Tokenizer(models.BPE(vocab={letter: place for place, letter in enumerate(letters)}, merges=[]))
    own.pre_tokenizer, own.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    fast: Any = PreTrainedTokenizerFast
    return fast(tokenizer_object=own)


def moments_of() -> dict[int, torch.Tensor]:
    """Return E[k k^T] of random keys by layer, [f, f]."""
    generator = torch.Generator().manual_seed(1)
    keys = {layer: torch.randn(2048, 256, generator=generator) for layer in LAYERS}
    return {layer: k.T @ k / len(k) for layer, k in keys.items()}


def draw(seconds: list[float], sizes: list[int], opening: list[float], out: Path) -> None:
    """Plot time and disk space per round, and the time of opening, over the number of rounds."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12, 3.2), constrained_layout=True)
    numbers = np.arange(1, len(seconds) + 1)
    axes[0].plot(numbers, np.array(seconds) * 1000, ".", markersize=2)
    axes[0].set(title="time of a round", xlabel="round", ylabel="CPU ms", ylim=(0, None))
    axes[1].plot(numbers, np.array(sizes) / 1024, ".", markersize=2)
    axes[1].set(title="disk of a round", xlabel="round", ylabel="KiB", ylim=(0, None))
    axes[2].plot(numbers[EVERY - 1 :: EVERY], opening, "o-")
    axes[2].set(title="opening", xlabel="rounds", ylabel="CPU s", ylim=(0, None))
    figure.savefig(out, dpi=120)
