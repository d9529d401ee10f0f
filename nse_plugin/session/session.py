"""EditSession: a model, and the rounds of facts written into it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn

from nse_plugin.facts import Fact, FactError
from nse_plugin.facts.conversion import Facts, as_facts
from nse_plugin.hparams import NSEHyperParams
from nse_plugin.method.rewind import OriginalWeights
from nse_plugin.method.subjects import by_fact
from nse_plugin.models.identity import fingerprint
from nse_plugin.patch.columns import Columns
from nse_plugin.session.check import check_facts
from nse_plugin.session.edited import EditedModel, warn_of_adapters
from nse_plugin.session.folder import opening
from nse_plugin.session.folder.journal import Journal
from nse_plugin.session.folder.lock import now
from nse_plugin.session.folder.record import RUNNING, RoundRecord, check_text, records_of, settings_of
from nse_plugin.session.history import History, Request
from nse_plugin.session.report import RoundReport
from nse_plugin.session.round import Plan, conflicts, plan_round
from nse_plugin.session.state import EditState
from nse_plugin.session.transaction import Rounds
from nse_plugin.session.undoing import requests_without, rounds_to_keep
from nse_plugin.session.value_source import ValueSource
from nse_plugin.support.memory import trim_heap

if TYPE_CHECKING:
    import pandas
    from transformers import PreTrainedTokenizerBase


class EditSession:
    """Rounds of edits on a loaded model, without EasyEdit: in memory, or with `open` in a folder too.

    model: a transformers causal language model; it is edited in place. tokenizer: its tokenizer, in any padding state.
    hparams: NSEHyperParams. moments: {layer: [f, f]}, E[k k^T] on the original weights; None: read or measured when
    first needed. templates: ["{}", "Some text. {}", ...]; None: written by the model, seeded. state: `session.state` of
    an earlier session on this model, to continue from (as a branch: neither session sees the other's rounds); None: the
    model is taken as unedited. read_fingerprint: detects whether an edited matrix has changed. undoable: keep in memory
    what each round changes, at most twice the edited matrices, so that it can be undone.

    The session follows the weights: rounds that were undone in the meantime (an old state_dict loaded, say) are no
    longer protected, and are again when their weights come back; weights that no round made are taken for new original
    ones by the next round, with a warning. Where anything else of the model changes between rounds (other layers, an
    adapter), what was measured of it is measured again, except given moments and templates.

    Raises HyperParamsError, LayoutError, MomentsError, StateError, StoreError or ValueError; the model is untouched.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        hparams: NSEHyperParams,
        moments: Mapping[int, Tensor] | None = None,
        templates: Sequence[str] | None = None,
        state: EditState | None = None,
        read_fingerprint: Callable[[Tensor], str] = fingerprint,
        undoable: bool = True,
    ) -> None:
        edited = EditedModel(model, tokenizer, hparams, moments, templates, read_fingerprint)
        if state is None:
            warn_of_adapters(model)
        state = edited.fresh_state() if state is None else state.fitting(model, edited.matrices, edited.weights())
        edited.use_what_was_given(state)
        self._begin(edited, state, undoable, None)

    @classmethod
    def open(
        cls,
        folder: str | os.PathLike[str],
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        hparams: NSEHyperParams | None = None,
        moments: Mapping[int, Tensor] | None = None,
        templates: Sequence[str] | None = None,
    ) -> Self:
        """A session whose rounds are kept in a folder, which is made when it is not there (docs/sessions.md).

        model: the base model as it was loaded, or one that holds the session's rounds already; it is brought to the
        last round, and refused when anything but a round changes it. hparams: of a new session; of an old one None, or
        the same but for where and how it is run. moments ({layer: [f, f]}), templates: of an old one as before. No
        other process may open it until `close`, or the end of a `with` block. Raises SessionError when another has it,
        for another base, other hyperparameters, another format, a damaged file; the model is untouched.
        """
        journal = Journal.held(folder, may_be_new=hparams is not None)
        try:
            hparams = opening.settle_hparams(journal, hparams)
            edited = EditedModel(model, tokenizer, hparams, moments, templates)
            warn_of_adapters(model)
            state = opening.begin(journal, edited) if journal.is_new else opening.resume(journal, edited, templates)
            session = cls.__new__(cls)
            session._begin(edited, state, True, journal)
        except BaseException:
            journal.close()
            raise
        return session

    def _begin(self, edited: EditedModel, state: EditState, undoable: bool, journal: Journal | None) -> None:
        self._edited, self._source = edited, ValueSource(edited)
        self._rounds = Rounds(edited, state, undoable, journal)

    def close(self) -> None:
        """Let others open the folder; the model keeps its edits."""
        if self._rounds.journal is not None:
            self._rounds.journal.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def state(self) -> EditState:
        """What persists from round to round; give it to another session to continue from it."""
        return self._rounds.state

    @property
    def model(self) -> nn.Module:
        """The model that is edited."""
        return self._edited.model

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Its tokenizer."""
        return self._edited.tokenizer

    @property
    def hparams(self) -> NSEHyperParams:
        """The hyperparameters of the next round."""
        return self._edited.hparams

    @hparams.setter
    def hparams(self, hparams: NSEHyperParams) -> None:
        self._edited.hparams = hparams

    @property
    def values_from_store(self) -> int:
        """How many of the values so far were read and not computed."""
        return self._source.from_store

    @property
    def templates(self) -> list[str]:
        """The contexts a fact is seen in, the bare "{}" first; written by the original model when first asked for."""
        self._edited.check(self.state)
        return self._edited.templates(self.state)

    @property
    def moments(self) -> dict[int, Tensor]:
        """C0 by layer, [f, f]; read or measured on the original weights when first asked for."""
        self._edited.check(self.state)
        return self._edited.moments(self.state)

    @property
    def rounds(self) -> list[RoundRecord]:
        """The rounds that stand, in order."""
        return records_of(self._rounds.standing()[1])

    @torch.inference_mode(False)
    def values(self, facts: Facts) -> Tensor:
        """z of every fact by itself [n, d]: on the original weights, or with `rewind: false` on the present ones. Edits
        nothing. (`edit` makes one value for all facts about a subject.)

        A fact in several forms has a row for each: its first name in plain text, in a chat, then the next. What is not
        finite is a row of NaN. Raises FactError, LayoutError.
        """
        facts = as_facts(facts)
        if not facts:
            raise FactError("facts is empty: give at least one.")
        state, _ = self._rounds.standing()
        self._edited.check(state)
        forms = self._edited.behind_words(state, facts, self._edited.forms(state, facts))
        return self._source.values(state, forms, by_fact(forms), {})

    def conflicts(self, facts: Facts) -> list[tuple[Fact, Fact]]:
        """The facts that would replace what an earlier round wrote, each with the one that stands: of the same prompt
        and subject, with another target."""
        facts = as_facts(facts)
        return [(facts[place], stands) for place, stands in conflicts(self._rounds.standing()[1], facts).items()]

    @torch.inference_mode(False)
    def check(self) -> pandas.DataFrame:
        """Does every fact hold on the model as it is now? A row for each that a round wrote, last if several did:

        case_id, subject, prompt (with the subject written out), target. holds: whether each of the target's tokens is
        the most likely one, in all the forms it is written in. probability: of the target now (geometric mean over its
        tokens); probability_after_round: after its round. round: its number; status: as it was then. overwritten_by:
        case_ids, or texts, of what replaced it: a later fact of the same prompt and subject with another target, or,
        where it no longer holds, the later facts about its subject.
        """
        return check_facts(self._edited, self.rounds)

    @contextmanager
    def unedited(self) -> Iterator[None]:
        """Within, the model is as it was before the first round."""
        with self._edited.original(self.state):
            yield

    def edit(
        self, facts: Facts, on_conflict: str = "replace", author: str | None = None, reason: str | None = None
    ) -> RoundReport:
        """Write one round of facts into the model; facts: also a single one, or records that `Fact.from_record` reads.

        on_conflict: what becomes of facts that an earlier round wrote with another target: `replace` it, `keep` it (the
        new fact is left out, with status `kept`), or `error`: refuse the round. author, reason: noted with the round.
        It is made whole or not at all: whatever goes wrong, an interrupt included, weights, state and folder agree.
        Raises FactError, HyperParamsError, LayoutError, MomentsError, SessionError, UpdateError, ValueError, OSError.
        """
        check_text(author=author, reason=reason)
        return self._edit(replace(self._request(facts), on_conflict=on_conflict, author=author, reason=reason), None)

    def edit_with_values(self, facts: Facts, values: Tensor | None) -> RoundReport:
        """`edit`, with z [n, d] as `values` returned it earlier; None: computed here. Raises also ValueError."""
        return self._edit(replace(self._request(facts), given_values=values is not None), values)

    @torch.inference_mode(False)
    def rollback(self, rounds: int | None = None, to: str | None = None) -> list[RoundRecord]:
        """Undo the last rounds, as if they had never been made: weights, protected keys, and what follows.

        rounds: how many; to: or the id (its beginning is enough) of the round that is to be the last one; neither: one.
        Returns those that were undone. Raises ValueError for what is no such round, SessionError.
        """
        self._rounds.check_open()
        state, history = self._rounds.standing()
        count = rounds_to_keep(history, rounds, to)
        with self._rounds.transaction(OriginalWeights.of(self._edited.matrices)) as commit:
            commit(state, self._rounds.wound_back(history, count))
        self._rounds.remove_undone()
        return records_of(history)[count:]

    @torch.inference_mode(False)
    def retire(self, case_ids: Iterable[int | str] | int | str) -> list[RoundReport]:
        """Undo single facts: the rounds from the first that has one of them on are made again without them.

        The model is then that of a session without those facts, bit for bit; all rounds are made again or none. Raises
        FactError for an unknown case_id, what `edit` raises, and SessionError for rounds with given values.
        """
        self._rounds.check_open()
        state, history = self._rounds.standing()
        count, requests = requests_without(history, case_ids)
        with self._rounds.transaction(OriginalWeights.of(self._edited.matrices)) as commit:
            history = self._rounds.wound_back(history, count)
            for request in requests:
                history = self._made_again(state, history, request)
            commit(state, history)
        self._rounds.remove_undone()
        trim_heap()
        return [made.report for made in history.rounds[count:]]

    def columns(self, first: int = 1, last: int | None = None) -> Columns:
        """What the rounds from number `first` to `last` (None: the last) changed together, by layer.

        Raises ValueError for what are no rounds, SessionError where what they changed was not kept.
        """
        return opening.together(self._rounds.standing()[1].rounds, first, last, self._rounds.columns_of)

    def _request(self, facts: Facts) -> Request:
        return Request(tuple(as_facts(facts)), time=now(), settings=settings_of(self.hparams))

    @torch.inference_mode(False)
    def _edit(self, request: Request, values: Tensor | None) -> RoundReport:
        self._rounds.check_open()
        state, history = self._rounds.standing()
        if self._rounds.journal is not None:
            opening.check_hparams(self._rounds.journal, self.hparams)
        plan = self._planned(state, history, request, values)
        if isinstance(plan, RoundReport):
            return plan
        before = OriginalWeights.of(self._edited.matrices)
        with self._rounds.transaction(before) as commit:
            history = self._rounds.written(state, history, plan, before)
            commit(state, history)
        trim_heap()
        return history.made[-1].report

    def _planned(
        self, state: EditState, history: History, request: Request, values: Tensor | None = None
    ) -> Plan | RoundReport:
        plan = plan_round(self._edited, self._source, state, history, request, values)
        if isinstance(plan, Plan):
            self._rounds.check_plan(history, plan, state)
        return plan

    def _made_again(self, state: EditState, history: History, request: Request) -> History:
        """A round with the settings that it was made with, except those of where and how it is run."""
        with self._edited.using({name: value for name, value in request.settings.items() if name not in RUNNING}):
            plan = self._planned(state, history, request)
            if isinstance(plan, RoundReport):
                return history
            return self._rounds.written(state, history, plan, OriginalWeights.of(self._edited.matrices))
