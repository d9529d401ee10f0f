"""The rounds of a session: which of them are active, and transactions that change this completely or not at all."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator

from nse_plugin.method.rewind import OriginalWeights
from nse_plugin.models.identity import fingerprint
from nse_plugin.patch.columns import Columns, write
from nse_plugin.session.edited import EditedModel
from nse_plugin.session.folder.journal import Head, Journal
from nse_plugin.session.folder.lock import SessionError
from nse_plugin.session.folder.record import digest, document_of
from nse_plugin.session.history import History, Round
from nse_plugin.session.masters import Masters, apply_changes, are_of, masters_of
from nse_plugin.session.round import Plan, write_round
from nse_plugin.session.state import EditState
from nse_plugin.support.restoring import restoring

log = logging.getLogger(__name__)

Commit = Callable[[EditState, History], None]


class Rounds:
    """The rounds of an edited model, in memory and, with a journal, in a folder.

    state: the state with the active rounds. undoable: whether their changes are kept.

    Changes are made in a fixed order: the weights of the live model, the round's folder, HEAD, the state. A round is
    committed when HEAD names it; without a journal, when the state has it. If a transaction is interrupted before the
    commit, the weights are restored; if it is interrupted later, state and weights agree with HEAD.
    """

    def __init__(self, edited: EditedModel, state: EditState, undoable: bool, journal: Journal | None) -> None:
        self.state = state
        self.journal = journal
        self._edited, self._undoable = edited, undoable or journal is not None
        self._identity = state.identity
        self._root = "" if journal is None else digest(journal.description())
        self._marks: tuple[object, dict[int, str]] = None, {}

    def standing(self) -> tuple[EditState, History]:
        """Return the state of the current weights and the history of the rounds that they contain.

        If other code has changed the weights, returns a new state, which replaces the old one when a round is
        committed; raises SessionError instead if the rounds are in a folder. Raises ValueError if the model's dtype has
        changed.
        """
        matrices = self._edited.matrices
        self.state.originals.check_dtypes(matrices)
        earlier, now = self.state.history, self._edited.weights()
        if self.journal is not None:
            if now != earlier.now:
                raise SessionError(
                    f"The edited matrices have other weights than the last round of {self.journal.folder} left: load "
                    "the base model again and open the session with it."
                )
            return self.state, earlier
        history = earlier.standing(now)
        if history is None:
            log.warning(
                "The edited matrices have other weights than any of the %d rounds of this session left: starting "
                "afresh from them. Earlier rounds are no longer protected; these weights count as the original ones.",
                len(earlier.made),
            )
            state = self._edited.fresh_state()
            self._edited.use_what_was_given(state)
            return state, state.history
        undone = set(earlier.rounds) - set(history.rounds)
        if undone:
            log.warning(
                "%d of %d rounds were undone: their facts are no longer protected.", len(undone), len(earlier.rounds)
            )
        return self.state, history

    @contextlib.contextmanager
    def transaction(self, before: OriginalWeights) -> Iterator[Commit]:
        """Run a block that may change weights, and restore them afterwards unless the block calls the yielded function
        with the new state and history. before: the current weights."""
        earlier, decided = self.state.history, None

        def commit(state: EditState, history: History) -> None:
            nonlocal decided
            decided = state, history
            if self.journal is not None:
                self.journal.set_head(self._head(history))
            settle()

        def settle() -> None:
            if decided is not None and (self.journal is None or self.journal.head() == self._head(decided[1])):
                decided[0].history = decided[1]
                self.state = decided[0]
            elif self.state.history is earlier:
                before.restore(self._edited.matrices)

        try:
            with restoring(settle):
                yield commit
        except BaseException:
            self.remove_undone()
            raise

    def written(self, state: EditState, history: History, plan: Plan, before: OriginalWeights) -> History:
        """Write a planned round into the model and, with a journal, its folder, without committing it. Returns the
        history with it.

        before: the current weights.
        """
        masters = self._masters_of(state, history)
        extended = write_round(self._edited, state, history, plan, before if self._undoable else None, masters)
        made = extended.made[-1]
        if self.journal is not None:
            copies = extended.masters or {}
            marks = {layer: fingerprint(copy) for layer, copy in copies.items()}
            made = dataclasses.replace(made, moments=self._marks_of(plan), masters=marks)
        document = document_of(made, self._head(history).id, len(history.rounds) + 1, history.now)
        if self.journal is None:
            made = dataclasses.replace(made, id=digest(document))
        else:
            made = dataclasses.replace(made, id=self.journal.write(document, made), columns=None)
        return dataclasses.replace(extended, made=(*extended.made[:-1], made))

    def wound_back(self, history: History, count: int) -> History:
        """Set the model's weights back to those after the first `count` rounds. Returns the history of these rounds.

        Raises SessionError if the recorded changes do not lead to those weights.
        """
        rounds, matrices = history.rounds, self._edited.matrices
        for number in range(len(rounds), count, -1):
            write(self.columns_of(rounds[number - 1], number), matrices, "old")
        earlier = history.first(count)
        if self._edited.weights() != earlier.now:
            where = "this session" if self.journal is None else self.journal.folder
            raise SessionError(f"What the rounds of {where} changed does not lead back to the weights before them.")
        return earlier

    def columns_of(self, made: Round, number: int) -> Columns:
        """Return the changes of a round. number: 1 for the first active round. Raises SessionError if they were not
        kept."""
        if self.journal is not None:
            return self.journal.columns(Head(number, made.id))
        if made.columns is None:
            raise SessionError(f"Round {number} was made without keeping what it changed: use undoable=True.")
        return made.columns

    def check_open(self) -> None:
        """Raise SessionError if the session was closed, or its folder has other rounds than this process knows of. A
        lock does not prevent this in all cases (a forked process, some network file systems, a replaced folder)."""
        if self.journal is None:
            return
        if not self.journal.is_open:
            raise SessionError(f"This session was closed: open {self.journal.folder} again.")
        if self.journal.head() != self._head(self.state.history):
            raise SessionError(
                f"{self.journal.folder} has other rounds than when it was opened: another process has changed it; load "
                "the base model again and open the session with it."
            )

    def check_plan(self, history: History, plan: Plan, state: EditState) -> None:
        """Raise SessionError if a session in a folder would continue with another model or other second moments."""
        if self.journal is None:
            return
        if self._identity is not None and state.identity is not None and state.identity[1] != self._identity[1]:
            raise SessionError(
                f"More than the edited matrices has changed of the model since {self.journal.folder} was opened (other "
                "layers, an adapter): put it back, or load the base model again."
            )
        earlier = history.rounds[-1].moments if history.rounds else {}
        if earlier and earlier != self._marks_of(plan):
            raise SessionError(
                f"The second moments are others than the rounds of {self.journal.folder} were made with: give those "
                "as moments=, or restore the file that they were read from."
            )

    def remove_undone(self) -> None:
        """Remove the folders of rounds that are not active."""
        with contextlib.suppress(SessionError):
            if self.journal is not None and self.journal.head() == self._head(self.state.history):
                self.journal.remove_others(self.state.history.rounds)

    def _head(self, history: History) -> Head:
        last = history.last
        return Head(len(history.rounds), self._root if last is None else history.made[last].id)

    def _masters_of(self, state: EditState, history: History) -> Masters:
        """Return the master copies of a bfloat16 or float16 model after the rounds of a history; empty if it has none.

        If the rounds' changes of the copies were not kept, returns new copies of the current weights, without the
        digits that were rounded off.
        """
        matrices = self._edited.matrices
        if history.masters is not None:
            return history.masters
        masters = masters_of(state.originals.tensors)
        if not masters:
            return {}
        if self.journal is None:
            for made in history.rounds:
                apply_changes(matrices, masters, made.master_columns)
            if not are_of(matrices, masters):
                masters = masters_of({layer: matrix.weight.data for layer, matrix in matrices.items()})
        elif history.rounds:
            self._bring_to(self.journal, masters, history)
        return {layer: copy.to(matrices[layer].weight.device) for layer, copy in masters.items()}

    def _bring_to(self, journal: Journal, masters: Masters, history: History) -> None:
        """Apply the changes of the rounds in a folder to new master copies of the base."""
        try:
            changes = journal.outermost(history.rounds, "new", of_masters=True)
            apply_changes(self._edited.matrices, masters, changes)
            sound = {layer: fingerprint(copy) for layer, copy in masters.items()} == history.rounds[-1].masters
        except (IndexError, KeyError, RuntimeError) as error:
            log.debug("%s", error)
            sound = False
        if not sound:
            journal.check_files(history.rounds)
            raise SessionError(f"{journal.folder} does not lead to the master copies of its rounds: restore it.")

    def _marks_of(self, plan: Plan) -> dict[int, str]:
        """Return the fingerprints of a plan's second moments, cached for the last moments."""
        if self._marks[0] is not plan.moments:
            self._marks = plan.moments, {layer: fingerprint(moment) for layer, moment in plan.moments.items()}
        return self._marks[1]
