"""Open a session on disk: bring a model in memory to the session's HEAD, or raise an error if it does not fit."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nse_plugin.hparams import HyperParamsError, NSEHyperParams
from nse_plugin.hparams.settings import PROPOSED
from nse_plugin.method.rewind import OriginalWeights
from nse_plugin.models.gguf.special_tokens import adds_bos
from nse_plugin.patch.columns import Columns, composed
from nse_plugin.patch.weights import others_hash
from nse_plugin.session.edited import EditedModel
from nse_plugin.session.folder.journal import Head, Journal
from nse_plugin.session.folder.lock import SessionError, now
from nse_plugin.session.folder.record import RUNNING, RoundRecord, digest, records_of, settings_of, weights_from
from nse_plugin.session.history import History, Round, Weights
from nse_plugin.session.masters import apply_changes
from nse_plugin.session.state import EditState, names_of
from nse_plugin.session.undoing import rounds_to_keep

log = logging.getLogger(__name__)


def read_rounds(folder: str | os.PathLike[str]) -> list[RoundRecord]:
    """Return the active rounds of a session's folder, in order. Works without the model, and while another process has
    the session open.

    Raises SessionError if the folder holds no session or a file is damaged.
    """
    journal = Journal(folder)
    return records_of(_history(journal.description(), journal.rounds(with_keys=False)))


def read_both(folder: str | os.PathLike[str], first: int, last: int | None) -> tuple[list[RoundRecord], Columns]:
    """Return `read_rounds` and `read_columns` for the same HEAD, since another process may undo rounds in between."""
    journal = Journal(folder)
    rounds = journal.rounds(with_keys=False)
    columns = together(rounds, first, last, lambda made, number: journal.columns(Head(number, made.id)))
    return records_of(_history(journal.description(), rounds)), columns


def read_columns(folder: str | os.PathLike[str], first: int = 1, last: int | None = None) -> Columns:
    """Return `EditSession.columns` of a session's folder, without its model."""
    return read_both(folder, first, last)[1]


def roll_back(folder: str | os.PathLike[str], rounds: int | None = None, to: str | None = None) -> list[RoundRecord]:
    """Undo rounds as `EditSession.rollback` does, but in a session's folder, without its model.

    The model is brought to the remaining rounds when the session is opened with it. Returns the rounds that were
    undone. Raises SessionError, ValueError.
    """
    description = Journal(folder).description()
    with contextlib.closing(Journal.held(folder, may_be_new=False)) as journal:
        made = journal.rounds(with_keys=False)
        history = _history(description, made)
        count = rounds_to_keep(history, rounds, to)
        journal.set_head(Head(count, made[count - 1].id if count else digest(description)))
        journal.remove_others(made[:count])
        return records_of(history)[count:]


def _history(description: Mapping[str, Any], rounds: Sequence[Round]) -> History:
    """Return the history of these rounds, without protected keys."""
    return History(weights_from(description["start"]), tuple(rounds), len(rounds) - 1 if rounds else None)


def together(
    rounds: Sequence[Round], first: int, last: int | None, columns_of: Callable[[Round, int], Columns]
) -> Columns:
    """Return the combined changes of rounds `first` to `last` (None: the last one). columns_of: returns the changes of
    one round, given the round and its number. Raises ValueError if there are no such rounds."""
    if not rounds:
        raise ValueError("The session has no rounds: make one first.")
    last = len(rounds) if last is None else last
    if not 1 <= first <= last <= len(rounds):
        raise ValueError(f"There are no rounds {first} to {last}: the session has {len(rounds)}.")
    numbered = [columns_of(rounds[number - 1], number) for number in range(first, last + 1)]
    return functools.reduce(composed, numbered)


def settle_hparams(journal: Journal, given: NSEHyperParams | None) -> NSEHyperParams:
    """Return the given hyperparameters, or those of the session if None is given.

    Raises SessionError if the given ones would edit differently than those of the session, or if those of the session
    cannot be used.
    """
    if given is None:
        return _own_hparams(journal)
    if journal.is_new:
        return given
    check_hparams(journal, given)
    own = _own_hparams(journal)
    return given.with_overrides(**{name: getattr(own, name) for name in PROPOSED if getattr(given, name) is None})


def check_hparams(journal: Journal, given: NSEHyperParams) -> None:
    """Raise SessionError if hyperparameters would edit differently than those of the session."""
    own = settings_of(_own_hparams(journal))
    for name, value in settings_of(given).items():
        proposed = value is None and name in PROPOSED  # the session's own were proposed when it was begun
        if name not in RUNNING and own[name] != value and not proposed:
            raise SessionError(
                f"{name} = {value!r} cannot be used: {journal.folder} was begun with {own[name]!r}; leave hparams "
                "out, or begin another session."
            )


def _own_hparams(journal: Journal) -> NSEHyperParams:
    """Return the hyperparameters of a session. A field that did not exist when it was begun has its default value.

    Raises SessionError if they cannot be used.
    """
    try:
        return NSEHyperParams(**journal.description()["hparams"])
    except (HyperParamsError, TypeError) as error:
        raise SessionError(
            f"{journal.folder}: its hyperparameters cannot be used ({error}): install the version of nse-plugin "
            "that wrote them."
        ) from error


def begin(journal: Journal, edited: EditedModel) -> EditState:
    """Start a new session in the journal's folder; the model's current weights are taken as unedited."""
    state = edited.fresh_state()
    edited.use_what_was_given(state)
    edited.check(state)
    journal.begin(description_of(edited, state))
    return state


def description_of(edited: EditedModel, state: EditState) -> dict[str, Any]:
    """Return the content of session.json: the base model, hyperparameters and templates."""
    return {
        "created": now(),
        "model": _name_of(edited),
        "adds_bos": adds_bos(edited.tokenizer),
        "source": str(getattr(edited.model.config, "_name_or_path", "") or "") or None,
        "others": others_hash(edited.model, state.matrices.values()),
        "identity": (state.identity or ("", ""))[1],
        "matrices": {str(layer): name for layer, name in state.matrices.items()},
        "start": {str(layer): mark for layer, mark in state.history.start.items()},
        "norms": {str(layer): float(weight.double().norm()) for layer, weight in state.originals.tensors.items()},
        "hparams": settings_of(edited.hparams),
        "templates": edited.templates(state),
    }


def resume(journal: Journal, edited: EditedModel, templates: Sequence[str] | None) -> EditState:
    """Bring the model to HEAD. It must have the base's weights or those of HEAD.

    templates: those given to `EditSession.open`. If this raises SessionError, the model is unchanged.
    """
    description = journal.description()
    if templates is not None and list(templates) != description["templates"]:
        raise SessionError(f"templates cannot be others than {journal.folder} was begun with: leave them out.")
    matrices = edited.matrices
    if {str(layer): name for layer, name in names_of(matrices).items()} != description["matrices"]:
        raise _another_base(journal, description, edited, "other matrices would be edited")
    rounds = journal.rounds()
    start = weights_from(description["start"])
    state = EditState(OriginalWeights.of(matrices), names_of(matrices), History(start), None, description["templates"])
    edited.use_what_was_given(state)
    head = dict(rounds[-1].after if rounds else start)
    at, now_there = edited.weights(), OriginalWeights.of(matrices)
    if at == head:
        _take_on(state.originals, edited, journal, rounds, "old", start)
    elif at == start:
        _take_on(now_there, edited, journal, rounds, "new", head)
    else:
        raise _another_base(journal, description, edited, "its edited matrices are neither the base's nor HEAD's")
    _check_base(journal, description, edited, state)
    made = tuple(rounds)
    state.history = History(start, made, len(made) - 1 if made else None).up_to(len(made) - 1 if made else None)
    now_there.restore(matrices)
    journal.remove_others(rounds)
    return state


def _take_on(
    weights: OriginalWeights, edited: EditedModel, journal: Journal, rounds: Sequence[Round], which: str, aim: Weights
) -> None:
    """Write the columns before (`old`) or after (`new`) the rounds into copies of the matrices. Raises SessionError
    unless the copies then have the fingerprints `aim`."""
    try:
        apply_changes(edited.matrices, weights.tensors, journal.outermost(rounds, which))
        sound = {layer: edited.read_fingerprint(tensor) for layer, tensor in weights.tensors.items()} == aim
    except (IndexError, KeyError, RuntimeError) as error:
        log.debug("%s", error)
        sound = False
    if not sound:
        journal.check_files(rounds)
        raise SessionError(f"{journal.folder} does not lead to the weights it speaks of: restore it from a copy.")


def _check_base(journal: Journal, description: Mapping[str, object], edited: EditedModel, state: EditState) -> None:
    """Raise SessionError for another base model; warn if the same base computes with other settings."""
    if others_hash(edited.model, state.matrices.values()) != description["others"]:
        raise _another_base(journal, description, edited, "its other weights differ")
    state.identity = state.identity_of(edited.model, edited.matrices)
    if state.identity[1] != description["identity"]:
        log.warning(
            "%s: the model has the weights that the session was begun on, and computes with them in another way "
            "(another version of transformers, kind of attention or autocast): edits go on, by other roundings.",
            journal.folder,
        )


def _another_base(journal: Journal, description: Mapping[str, object], edited: EditedModel, why: str) -> SessionError:
    return SessionError(
        f"{journal.folder} is not a session of this model ({_name_of(edited)}; {why}): load the one that it was begun "
        f"on, {description['model']}."
    )


def _name_of(edited: EditedModel) -> str:
    """Return a short description of the model."""
    config: Any = edited.model.config
    name = str(getattr(config, "_name_or_path", "") or "")
    weight = next(iter(edited.matrices.values())).weight
    kind = f"{type(edited.model).__name__} in {str(weight.dtype).removeprefix('torch.')}"
    return f"{name}, a {kind}" if name else f"a {kind}"
