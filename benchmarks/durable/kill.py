"""SIGKILL at random instants of a session.

After every kill, the session must open with the last committed round, and a session that is continued to its end must
equal one that was never killed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import signal
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import torch

from benchmarks.durable.rounds import Base, Rounds, State, add_options, opened, rounds_of, state_of, uninterrupted

FORK = multiprocessing.get_context("fork")  # the child has torch imported already


def add(commands: Any) -> None:
    """Add the command and its options. commands: argparse's subparsers."""
    command = commands.add_parser("kill", help="SIGKILL at random instants of a session: ten minutes")
    add_options(command, rounds=6, size=2)
    command.add_argument("--kills", type=int, default=20, help="%(default)s by default")
    command.add_argument("--seed", type=int, default=0, help="of the instants; %(default)s by default")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> bool:
    """Run sessions to their end, killing and continuing them, and compare each with an uninterrupted one."""
    rounds, base = rounds_of(options), Base(options.model, options.hparams)
    expected = uninterrupted(base, rounds)
    generator, kills, sessions, sound = random.Random(options.seed), 0, 0, True
    with tempfile.TemporaryDirectory() as name:
        seconds = _seconds(Path(name) / "whole", base, rounds)
        while kills < options.kills:
            sessions += 1
            folder = Path(name) / str(sessions)
            while _is_killed(folder, base, rounds, generator.random() * seconds if kills < options.kills else None):
                kills += 1
                sound &= _found(folder, base, expected, f"kill {kills}")
            sound &= _found(folder, base, expected[-1:] * len(expected), f"session {sessions} finished")
    verdict = "as promised" if sound else "NOT as promised"
    print(f"{kills} kills in {sessions} sessions of {len(rounds)} rounds: {verdict}")
    return sound


def go_on(folder: Path, base: Base, rounds: Rounds, begun: Event) -> None:
    """Make the rounds that the session does not have yet. Runs in its own process."""
    torch.set_num_threads(1)
    begun.set()
    with opened(folder, base) as session:
        for facts in rounds[len(session.rounds) :]:
            session.edit(facts)


def _seconds(folder: Path, base: Base, rounds: Rounds) -> float:
    """Return how long a session takes from loading the model to its last round."""
    started = time.monotonic()
    process = FORK.Process(target=go_on, args=(folder, base, rounds, FORK.Event()))
    process.start()
    process.join()
    return time.monotonic() - started


def _is_killed(folder: Path, base: Base, rounds: Rounds, after: float | None) -> bool:
    """Continue a session and kill it after `after` seconds (None: never). Returns False if it finished before that."""
    begun = FORK.Event()
    process = FORK.Process(target=go_on, args=(folder, base, rounds, begun))
    process.start()
    begun.wait()
    process.join(after)
    process.kill()
    process.join()
    if process.exitcode not in (0, -signal.SIGKILL):
        raise RuntimeError(f"the session ended with exit code {process.exitcode}.")
    return process.exitcode != 0


def _found(folder: Path, base: Base, expected: Sequence[State], what: str) -> bool:
    """Whether the session on disk, opened on a new model, has the expected state for its number of rounds.

    True as well if the process was killed before it had begun the session.
    """
    if not (folder / "session.json").exists():
        print(f"{what}: before the session was begun", flush=True)
        return True
    left = sorted(path.name for path in (folder / "rounds").glob(".*")) if (folder / "rounds").is_dir() else []
    with opened(folder, base) as session:
        count = len(session.rounds)
        sound = state_of(session) == expected[count]
    half = ", one was being written" if left else ""
    print(f"{what}: {count} rounds stand{half}; {'bit for bit' if sound else 'DIFFERENT'}", flush=True)
    return sound
