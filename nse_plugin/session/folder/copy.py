"""Copy the rounds of a session in memory into a folder, which can then be opened as a session's folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from nse_plugin.method.rewind import OriginalWeights
from nse_plugin.models.identity import fingerprint
from nse_plugin.patch.columns import difference
from nse_plugin.session.edited import EditedModel
from nse_plugin.session.folder.journal import Head, Journal
from nse_plugin.session.folder.lock import SessionError
from nse_plugin.session.folder.opening import description_of
from nse_plugin.session.folder.record import digest, document_of, weights_from
from nse_plugin.session.history import Weights
from nse_plugin.session.masters import changed_masters, masters_of
from nse_plugin.session.state import EditState


class SessionCopy:
    """Records rounds that other code makes on a model, for example through EasyEdit: call `add` after each round.

    folder: a new folder, or one that an earlier copy wrote. edited: the model, either before its first round or as one
    of the rounds in the folder left it; later rounds are removed from the folder. masters: the current master copies of
    a bfloat16 or float16 model, {layer: [d, f] or [f, d] as the module stores it}; None before the first round. Raises
    SessionError if no round in the folder left the model's current weights.

    The changes of a round are found by comparison, so a copy of the edited matrices is kept in memory.
    """

    def __init__(self, folder: Path, edited: EditedModel, masters: Mapping[int, Tensor] | None = None) -> None:
        self._edited = edited
        self._weights = OriginalWeights.of(edited.matrices).tensors
        self._marks = edited.weights()
        self._masters = masters_of(self._weights) if masters is None else dict(masters)
        self._journal = Journal.held(folder, may_be_new=True)
        if not self._journal.is_new:
            count = rounds_to(folder, self._marks)
            if count is None:
                self._journal.close()
                raise SessionError(f"{folder} has no round that left the model's present weights: delete the folder.")
            rounds = self._journal.rounds(with_keys=False)[:count]
            self._journal.set_head(Head(count, rounds[-1].id if rounds else digest(self._journal.description())))
            self._journal.remove_others(rounds)

    def add(self, state: EditState) -> None:
        """Write the last round of a state, which must be the one that left the model's weights. Raises OSError."""
        matrices, history = self._edited.matrices, state.history
        assert history.last is not None
        if self._journal.is_new:
            self._journal.begin(description_of(self._edited, state))
        masters = dict(history.masters or {})
        made = dataclasses.replace(
            history.made[history.last],
            columns=difference(matrices, self._weights),
            master_columns=changed_masters(matrices, self._masters, masters),
            moments={layer: fingerprint(moment) for layer, moment in (state.moments or {}).items()},
            masters={layer: fingerprint(copy) for layer, copy in masters.items()},
        )
        below = self._journal.head()
        identifier = self._journal.write(document_of(made, below.id, below.number + 1, self._marks), made)
        self._journal.set_head(Head(below.number + 1, identifier))
        self._weights, self._marks = OriginalWeights.of(matrices).tensors, made.after
        self._masters = masters

    def close(self) -> None:
        """Release the folder, so that other processes can open it."""
        self._journal.close()


def rounds_to(folder: Path, weights: Weights) -> int | None:
    """Return the number of the round in a session's folder that left these weights; 0 if they are the unedited ones.

    Returns None if no round left them or the folder holds no session. Raises SessionError if a file is damaged.
    """
    journal = Journal(folder)
    if not folder.is_dir() or journal.is_new:
        return None
    left = [weights_from(journal.description()["start"]), *(made.after for made in journal.rounds(with_keys=False))]
    return next((count for count in reversed(range(len(left))) if left[count] == dict(weights)), None)
