"""A session opened in a new process for every round: are its weights those of an uninterrupted session?"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.durable.rounds import Base, Rounds, add_options, opened, rounds_of, state_of, uninterrupted

SPAWN = multiprocessing.get_context("spawn")  # a new interpreter that shares nothing with this process


def add(commands: Any) -> None:
    """Add the command and its options. commands: argparse's subparsers."""
    command = commands.add_parser(
        "reopen", help="a process for every round, beside a session that never stops: minutes"
    )
    add_options(command, rounds=6, size=10)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> bool:
    """Make the rounds both ways, and compare weights and protected keys after every round."""
    rounds, base = rounds_of(options), Base(options.model, options.hparams)
    expected = uninterrupted(base, rounds)
    sound = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "session"
        for number in range(1, len(rounds) + 1):
            process = SPAWN.Process(target=make_round, args=(folder, base, rounds, number))
            process.start()
            process.join()
            if process.exitcode != 0:
                raise RuntimeError(f"round {number} ended with exit code {process.exitcode}.")
            with opened(folder, base) as session:
                same = len(session.rounds) == number and state_of(session) == expected[number]
            sound &= same
            print(f"reopened: round {number} of {len(rounds)}, {'bit for bit' if same else 'DIFFERENT'}", flush=True)
    facts = sum(map(len, rounds))
    verdict = "the same" if sound else "NOT the same"
    print(f"{facts} facts, a process for each of {len(rounds)} rounds: {verdict} weights and protected keys")
    return sound


def make_round(folder: Path, base: Base, rounds: Rounds, number: int) -> None:
    """Make round `number`. Runs in its own process."""
    torch.set_num_threads(1)
    with opened(folder, base) as session:
        session.edit(rounds[number - 1])
