"""The rounds that the session benchmarks make, and the state that they compare."""

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
    """Fingerprints that are equal if two sessions have the same state to the bit.

    weights: of the edited matrices of the model, by layer. keys: of the protected keys, by layer.
    """

    weights: dict[int, str]
    keys: dict[int, str]


def add_options(command: argparse.ArgumentParser, rounds: int, size: int) -> None:
    """Add the options for model and facts. rounds, size: defaults for the number of rounds and of facts per round."""
    command.add_argument("model", nargs="?", default=EMBEDDED, metavar="MODEL", help="%(default)s by default")
    command.add_argument("--hparams", metavar="FILE", help="hyperparameters; by default the model's preset, fast")
    command.add_argument("--facts", default=DEMO, metavar="FILE", help="where they are from; the demo's by default")
    command.add_argument("--skip", type=int, default=0, help="leave so many facts of the file out")
    command.add_argument("--rounds", type=int, default=rounds, help="%(default)s by default")
    command.add_argument("--size", type=int, default=size, help="facts in a round; %(default)s by default")


def rounds_of(options: argparse.Namespace) -> Rounds:
    """Load the facts, split into rounds. Raises DatasetError if the file cannot be used."""
    facts = load_facts(options.facts, options.rounds * options.size, skip=options.skip).facts
    return [facts[first : first + options.size] for first in range(0, len(facts), options.size)]


class Base(NamedTuple):
    """The base model of a session and its hyperparameters.

    source: a model as `load` takes it. hparams: a file, or None for the model's preset with `solver: fast`.
    """

    source: str
    hparams: str | None = None

    def hparams_of(self, model: Any) -> NSEHyperParams:
        """Return the hyperparameters for a model loaded from `source`."""
        if self.hparams is not None:
            return NSEHyperParams.from_hparams(self.hparams)
        return NSEHyperParams.for_model(model, solver="fast")


def opened(folder: Path, base: Base) -> EditSession:
    """Load the base model and open the session in a folder on it, or begin a new one."""
    model, tokenizer = load(base.source)
    is_new = not (folder / "session.json").exists()
    return EditSession.open(folder, model, tokenizer, base.hparams_of(model) if is_new else None)


def state_of(session: EditSession) -> State:
    """Return the current state of a session and its model."""
    layout = Layout.of(session.model, session.hparams.rewrite_module_tmp)
    protected = session.state.knowledge.layers
    keys = {layer: fingerprint(own.keys) for layer, own in protected.items()}
    return State(dict(weights_of(layout.output_matrices(session.hparams.layers))), keys)


def uninterrupted(base: Base, rounds: Rounds) -> list[State]:
    """Return the states of a session in memory: before the first round, and after each one."""
    model, tokenizer = load(base.source)
    session = EditSession(model, tokenizer, base.hparams_of(model))
    states = [state_of(session)]
    for number, facts in enumerate(rounds, 1):
        session.edit(facts)
        states.append(state_of(session))
        print(f"uninterrupted: round {number} of {len(rounds)}", flush=True)
    return states
