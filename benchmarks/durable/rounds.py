"""The rounds that the benchmarks of sessions make, and what they compare."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nse_plugin import EditSession, Fact, NSEHyperParams
from nse_plugin.facts.files import DEMO, load_facts
from nse_plugin.models.identity import fingerprint
from nse_plugin.models.layout import Layout
from nse_plugin.models.loading import EMBEDDED, load
from nse_plugin.session.state import weights_of

Rounds = Sequence[Sequence[Fact]]


class State(NamedTuple):
    """What two sessions must have in common to the bit: fingerprints of the edited matrices, read from the model, and
    of the keys that are protected, by layer."""

    weights: dict[int, str]
    keys: dict[int, str]


def add_options(command: argparse.ArgumentParser, rounds: int, size: int) -> None:
    """MODEL, and which facts are written. rounds, size: how many, and facts in each, if nothing is said."""
    command.add_argument("model", nargs="?", default=EMBEDDED, metavar="MODEL", help="%(default)s by default")
    command.add_argument("--hparams", metavar="FILE", help="hyperparameters; by default the model's preset, fast")
    command.add_argument("--facts", default=DEMO, metavar="FILE", help="where they are from; the demo's by default")
    command.add_argument("--skip", type=int, default=0, help="leave so many facts of the file out")
    command.add_argument("--rounds", type=int, default=rounds, help="%(default)s by default")
    command.add_argument("--size", type=int, default=size, help="facts in a round; %(default)s by default")


def rounds_of(options: argparse.Namespace) -> Rounds:
    """The facts, round by round. Raises DatasetError."""
    facts = load_facts(options.facts, options.rounds * options.size, skip=options.skip).facts
    return [facts[first : first + options.size] for first in range(0, len(facts), options.size)]


class Base(NamedTuple):
    """A model that sessions are begun on: what `load` reads, and a file of hyperparameters; None: the model's preset,
    `fast`."""

    source: str
    hparams: str | None = None

    def hparams_of(self, model: Any) -> NSEHyperParams:
        """For the model that was loaded."""
        if self.hparams is not None:
            return NSEHyperParams.from_hparams(self.hparams)
        return NSEHyperParams.for_model(model, solver="fast")


def opened(folder: Path, base: Base) -> EditSession:
    """The session of a folder, on a model that is loaded for it."""
    model, tokenizer = load(base.source)
    is_new = not (folder / "session.json").exists()
    return EditSession.open(folder, model, tokenizer, base.hparams_of(model) if is_new else None)


def state_of(session: EditSession) -> State:
    """As model and session are now."""
    layout = Layout.of(session.model, session.hparams.rewrite_module_tmp)
    protected = session.state.knowledge.layers
    keys = {layer: fingerprint(own.keys) for layer, own in protected.items()}
    return State(dict(weights_of(layout.output_matrices(session.hparams.layers))), keys)


def uninterrupted(base: Base, rounds: Rounds) -> list[State]:
    """The state before the first round and after each, of a session in memory that never stops."""
    model, tokenizer = load(base.source)
    session = EditSession(model, tokenizer, base.hparams_of(model))
    states = [state_of(session)]
    for number, facts in enumerate(rounds, 1):
        session.edit(facts)
        states.append(state_of(session))
        print(f"uninterrupted: round {number} of {len(rounds)}", flush=True)
    return states
