"""EditSession: a model, and the rounds of facts written into it."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from nse_plugin.facts import Fact, FactError
from nse_plugin.facts.conflicts import check_round
from nse_plugin.facts.conversion import Facts, as_facts
from nse_plugin.facts.names import warn_of_left_out_names
from nse_plugin.hparams import HyperParamsError, NSEHyperParams
from nse_plugin.method.knowledge import Knowledge
from nse_plugin.method.multilayer import FAILED, RoundResult, edit_layers
from nse_plugin.method.rewind import OriginalWeights
from nse_plugin.method.subjects import Form, by_fact, forms_of, same_subject
from nse_plugin.method.targets import Said, predictions, said_with
from nse_plugin.method.value_cache_key import value_addresses
from nse_plugin.method.values import optimize_values
from nse_plugin.models.identity import ModelIdentity, fingerprint
from nse_plugin.models.layout import Layout, OutputMatrix
from nse_plugin.models.prompts import FactPrompts
from nse_plugin.models.writing.templates import check_templates, context_templates
from nse_plugin.moments.check import check_moments
from nse_plugin.moments.measure import MomentsError
from nse_plugin.moments.provider import second_moments
from nse_plugin.replay.check import check_model
from nse_plugin.replay.sinks import early, without_sinks
from nse_plugin.session.history import History
from nse_plugin.session.report import MOMENTS, RoundReport, Targets
from nse_plugin.session.state import EditState, weights_of
from nse_plugin.store import VALUE, Store
from nse_plugin.support.heap import give_back
from nse_plugin.support.progress import bar
from nse_plugin.support.restoring import restoring
from nse_plugin.support.suggestions import number_of
from nse_plugin.support.timing import timed

log = logging.getLogger(__name__)

_Groups = Sequence[list[int]]  # of facts (indices) that share a value
KEPT_AT_ONCE = 64  # facts whose values are computed together and then put in the store: a stop loses no more


class EditSession:
    """Rounds of edits on a loaded model, without EasyEdit.

    model: a transformers causal language model; it is edited in place. tokenizer: its tokenizer, in any padding state.
    hparams: NSEHyperParams. moments: {layer: [f, f]}, E[k k^T] on the original weights; None: read or measured when
    first needed. templates: ["{}", "Some text. {}", ...]; None: written by the model, seeded. state: `session.state` of
    an earlier session on this model, to go on from (in a branch of its own: neither session sees the other's rounds);
    None: the model counts as not edited yet. read_fingerprint: tells whether an edited matrix has changed.
    values_from_store: how many of the values so far were read and not computed.

    The session follows the weights: rounds that were undone in the meantime (an old state_dict loaded, say) are no
    longer protected, and are again when their weights come back; weights that no round left are taken for new original
    ones by the next round, with a warning. Where something else of the model changes between rounds, layers that are
    not edited or an adapter, what was measured of it is measured again; given moments and templates stay.

    Raises HyperParamsError, LayoutError, MomentsError, StateError, StoreError or ValueError for what cannot be used;
    the model is untouched.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        hparams: NSEHyperParams,
        moments: Mapping[int, Tensor] | None = None,
        templates: Sequence[str] | None = None,
        state: EditState | None = None,
        read_fingerprint: Callable[[Tensor], str] = fingerprint,
    ) -> None:
        if not isinstance(hparams, NSEHyperParams):
            raise HyperParamsError(
                f"hparams is a {type(hparams).__name__}: give NSEHyperParams, e.g. NSEHyperParams.for_model(model)."
            )
        hparams.check()
        self.model, self.tokenizer, self.hparams = model, tokenizer, hparams
        self._read_fingerprint = read_fingerprint
        self._layout = Layout.of(model, hparams.rewrite_module_tmp)
        self._layers = sorted(self._layout.edited_matrices(hparams.layers))  # which refuses what cannot be edited
        if hparams.store is not None:
            Store(hparams.store).check_folder()
        if moments is not None and not isinstance(moments, Mapping):
            raise MomentsError(f"moments is a {type(moments).__name__}: give {{layer: tensor [f, f]}}, or None.")
        self._given_moments = None if moments is None else check_moments(moments, self._matrices)
        self._given_templates = None if templates is None else check_templates(list(templates))
        self.values_from_store = 0
        if state is None:
            _warn_of_adapters(model)
            self.state = EditState.fresh(self._matrices, read_fingerprint)
        else:
            self.state = state.fitting(model, self._matrices, self._weights())
        self._use_what_was_given(self.state)

    @property
    def _matrices(self) -> dict[int, OutputMatrix]:
        """The edited matrices, by layer, as they are now: a module may have been put in the place of another."""
        return self._layout.output_matrices(self._layers)

    @property
    def templates(self) -> list[str]:
        """The contexts a fact is seen in, the bare "{}" first; written by the original model when first asked for."""
        self._check_model(self.state)
        return self._templates(self.state)

    @property
    def moments(self) -> dict[int, Tensor]:
        """C0 by layer, [f, f]; read or measured on the original weights when first asked for."""
        self._check_model(self.state)
        return self._moments(self.state)

    @torch.inference_mode(False)
    def values(self, facts: Facts) -> Tensor:
        """z of every fact by itself [n, d]: on the original weights, or with `rewind: false` on the present ones. Edits
        nothing. (`edit` makes one value for all facts about a subject.)

        A fact that is written for several names, or in plain text and in a chat, has a row for each: its first name in
        plain text, in a chat, then the next. What is not finite is a row of NaN. Raises FactError, LayoutError.
        """
        facts = as_facts(facts)
        if not facts:
            raise FactError("facts is empty: give at least one.")
        state, _ = self._standing()
        self._check_model(state)
        forms = self._behind_words(state, facts, self._forms(state, facts))
        return self._values(state, forms, by_fact(forms), {})

    def edit(self, facts: Facts) -> RoundReport:
        """Write one round of facts into the model; facts: also a single one, or records that `Fact.from_record` reads.

        The round is made whole or not at all: whatever goes wrong, an interrupt included, weights and state are as
        before. Raises FactError, HyperParamsError, LayoutError, MomentsError, UpdateError.
        """
        return self.edit_with_values(facts, None)

    @torch.inference_mode(False)
    def edit_with_values(self, facts: Facts, values: Tensor | None) -> RoundReport:
        """`edit`, with z [n, d] as `values` returned it earlier; None: computed here. Raises also ValueError."""
        started = time.monotonic()
        facts = as_facts(facts)
        check_round(facts)
        warn_of_left_out_names(facts)
        state, history = self._standing()
        self._check_model(state)
        read_before = self.values_from_store
        earlier = history.standing_facts(facts)
        again = self._again(earlier, facts)
        if values is not None and again:
            log.warning(
                "%s of earlier rounds: about a subject of this one, and the values given for it do not serve what was "
                "written before; it is overwritten.", number_of(len(again), "fact"),
            )  # fmt: skip
            again = []
        every = [*facts, *again]
        asked = self._forms(state, every)
        if values is not None:
            _check_values(values, (len(asked), self._layout.hidden_size))
        forms = self._behind_words(state, every, asked)
        seconds: dict[str, float] = {}
        with timed(seconds, MOMENTS):
            moments = self._moments(state)
        said: dict[int, Said] = {}
        with timed(seconds, "values"):
            values = self._values(state, forms, same_subject(every, forms), said) if values is None else values
        with timed(seconds, "update"):
            self._say(state, forms, values, said)
        with self._transaction():
            with timed(seconds, "update"):
                result = self._write(state, _prompts(forms), values, moments, history.knowledge)
                after = predictions(self._layout, _prompts(asked))
            read = self.values_from_store - read_before
            targets = [Targets(*said[place], one) for place, one in enumerate(after)]
            report = RoundReport.of(
                facts, again, by_fact(asked), result, targets, earlier, time.monotonic() - started, seconds, read
            )
            keys = result.keys if self.hparams.accumulate else {}
            sound = {form.owner for form, status in zip(asked, result.status, strict=True) if status != FAILED}
            written = [fact for place, fact in enumerate(every) if place in sound]
            # The commit: of a state that is in use, and of a new one; nothing comes after it.
            state.history = history.extended(self._weights(), keys, report, written)
            self.state = state
        give_back()
        return report

    # -- the model's weights and the rounds they hold ----------------------------------------------------------

    def _weights(self) -> Mapping[int, str]:
        return weights_of(self._matrices, self._read_fingerprint)

    def _use_what_was_given(self, state: EditState) -> None:
        if self._given_moments is not None:
            state.moments = self._given_moments
        if self._given_templates is not None:
            state.templates = self._given_templates

    def _standing(self) -> tuple[EditState, History]:
        """The state that the present weights belong to, and the rounds that they hold.

        Where others have changed them it is a new state, which only a round that is made puts in the old one's place.
        """
        self.state.originals.check_dtypes(self._matrices)
        earlier = self.state.history
        history = earlier.standing(self._weights())
        if history is None:
            log.warning(
                "The edited matrices have other weights than any of the %d rounds of this session left: starting "
                "afresh from them. Earlier rounds are no longer protected; these weights count as the original ones.",
                len(earlier.made),
            )
            state = EditState.fresh(self._matrices, self._read_fingerprint)
            self._use_what_was_given(state)
            return state, state.history
        undone = set(earlier.rounds) - set(history.rounds)
        if undone:
            log.warning(
                "%d of %d rounds were undone: their facts are no longer protected.", len(undone), len(earlier.rounds)
            )
        return self.state, history

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Within, weights may change; whatever goes wrong, they are put back, unless the history has grown."""
        weights, history = OriginalWeights.of(self._matrices), self.state.history

        def put_back() -> None:
            if self.state.history is history:
                weights.restore(self._matrices)

        with restoring(put_back):
            yield

    @contextmanager
    def _original_model(self, state: EditState) -> Iterator[None]:
        """Within, the model has its original weights."""
        with torch.inference_mode(False), state.originals.rewound(self._matrices):
            yield

    def _check_model(self, state: EditState) -> None:
        """Refuse a model whose layers cannot be replayed, before anything is computed; forget what was measured when
        something else than the edited matrices has changed.

        A model with hooks or replaced forwards is checked every time: what they do may have changed unseen.
        """
        identity = state.identity_of(self.model, self._matrices)
        if state.identity is not None and state.identity[1] != identity[1]:
            log.info("More than the edited matrices has changed of the model: what was measured of it is forgotten.")
            state.forget_measured()
            self._use_what_was_given(state)
        state.identity = identity
        unseen = ModelIdentity(self.model).unseen
        if unseen is not None:
            state.checked = {}
        if not state.checked.get(self.hparams.layers[-1]):
            check_model(self._layout_of(state), self.hparams.layers, self.tokenizer)

    def _check_length(self, state: EditState, prompts: Sequence[FactPrompts]) -> None:
        """The same for rows that are longer than any that was checked."""
        longest = max(len(row.ids) for fact in prompts for row in (*fact.rewrites, fact.essence))
        if longest > state.checked.get(self.hparams.layers[-1], 0):
            check_model(self._layout_of(state), self.hparams.layers, self.tokenizer, longest)

    def _layout_of(self, state: EditState) -> Layout:
        return dataclasses.replace(self._layout, batched=state.batched, checked=state.checked)

    # -- what is measured once, on the original weights --------------------------------------------------------

    def _templates(self, state: EditState) -> list[str]:
        if state.templates is None:
            with self._original_model(state):
                state.templates = context_templates(self.model, self.tokenizer, self.hparams.seed)
        return state.templates

    def _moments(self, state: EditState) -> dict[int, Tensor]:
        if state.moments is None:
            with self._original_model(state):
                state.moments = second_moments(self._layout_of(state), self.tokenizer, self.hparams)
        return state.moments

    # -- one round ---------------------------------------------------------------------------------------------

    def _forms(self, state: EditState, facts: Sequence[Fact]) -> list[Form]:
        """Every fact in all its forms, as it is asked."""
        self.hparams.check()
        if self.hparams.layers != state.layers:
            raise HyperParamsError(
                f"layers = {self.hparams.layers} cannot be used: this session edits {state.layers}; begin another "
                "session for other layers."
            )
        forms = forms_of(self.tokenizer, facts, self._templates(state), self.hparams.chat, self._layout)
        self._check_length(state, _prompts(forms))
        return forms

    def _behind_words(self, state: EditState, facts: Sequence[Fact], forms: list[Form]) -> list[Form]:
        """The forms without attention sinks, told of with a warning."""
        if not early(_prompts(forms)):
            return forms
        with self._original_model(state):
            prompts = without_sinks(
                self._layout_of(state), self.hparams.layers[-1], _prompts(forms), self.hparams.tokens_per_batch
            )
        found = [Form(form.owner, rows) for form, rows in zip(forms, prompts, strict=True)]
        sinks = [facts[form.owner] for form, rows in zip(forms, prompts, strict=True) if rows is not form.prompts]
        if sinks:
            log.warning(
                "%s, %r the first: the subject ends with the first tokens of the prompt, where this model has an "
                "attention sink, which no fact can be written to. It is written for prompts with words before the "
                "subject; begin the prompt with some, or ask it so.", number_of(len(sinks), "fact"), sinks[0].text,
            )  # fmt: skip
        return found

    def _again(self, earlier: Sequence[Fact], facts: Sequence[Fact]) -> list[Fact]:
        """The earlier facts that are written again with these, which replace none of them."""
        replaced = {fact.question for fact in facts}
        return [fact for fact in earlier if self.hparams.accumulate and fact.question not in replaced]

    def _values(self, state: EditState, forms: Sequence[Form], groups: _Groups, said: dict[int, Said]) -> Tensor:
        """groups: those that share what is added to h. said: gets what the model says of those that are computed."""
        prompts = _prompts(forms)
        with bar("values z, facts", len(prompts)) as advance:
            if not self.hparams.rewind:
                return optimize_values(self._layout_of(state), prompts, self.hparams, advance, None, groups, said)
            with self._original_model(state):
                return self._rewound_values(state, prompts, groups, said, advance)

    def _rewound_values(
        self,
        state: EditState,
        prompts: Sequence[FactPrompts],
        groups: _Groups,
        said: dict[int, Said],
        on_done: Callable[[int], None],
    ) -> Tensor:
        """On the original weights. Nothing that was kept is used of a model that may have changed unseen."""
        unseen = ModelIdentity(self.model).unseen
        if unseen is None and self.hparams.store is not None:
            return self._kept_values(Store(self.hparams.store), state, prompts, groups, on_done)
        if unseen is not None and self.hparams.store is not None:
            log.warning("store %s is not used: the model has %s.", self.hparams.store, unseen)
        contexts = None if unseen else state.contexts
        return optimize_values(self._layout_of(state), prompts, self.hparams, on_done, contexts, groups, said)

    def _kept_values(
        self,
        store: Store,
        state: EditState,
        prompts: Sequence[FactPrompts],
        groups: _Groups,
        on_done: Callable[[int], None],
    ) -> Tensor:
        """What the store has of the values, the rest computed and put there."""
        _, full = state.identity_of(self.model, self._matrices)
        addresses = value_addresses(full, prompts, self.hparams, groups)
        values = [store.get(address) for address in addresses]
        missing = [group for group in groups if any(values[place] is None for place in group)]
        count = sum(map(len, missing))
        on_done(len(prompts) - count)
        for some in _at_most(KEPT_AT_ONCE, missing):
            places = [place for group in some for place in group]
            own = [[places.index(place) for place in group] for group in some]
            computed = optimize_values(
                self._layout_of(state), [prompts[i] for i in places], self.hparams, on_done, state.contexts, own
            )
            for place, value in zip(places, computed, strict=True):
                values[place] = value
            store.put_all((addresses[i], z, VALUE, prompts[i].text) for i, z in zip(places, computed, strict=True))
        self.values_from_store += len(prompts) - count
        log.info("values z: %d computed, %d read from %s", count, len(prompts) - count, store.folder)
        return torch.stack([value.to(self._layout.device) for value in values if value is not None])

    def _say(self, state: EditState, forms: Sequence[Form], values: Tensor, said: dict[int, Said]) -> None:
        """Have the model that the values were made for say what it says of those that were not computed here."""
        missing = [place for place in range(len(forms)) if place not in said]
        if missing:
            with self._original_model(state) if self.hparams.rewind else nullcontext():
                own = _prompts([forms[place] for place in missing])
                found = said_with(self._layout_of(state), self.hparams.layers[-1], own, values[missing])
            said.update(zip(missing, found, strict=True))

    def _write(
        self,
        state: EditState,
        prompts: Sequence[FactPrompts],
        values: Tensor,
        moments: Mapping[int, Tensor],
        protected: Knowledge,
    ) -> RoundResult:
        knowledge = protected if self.hparams.accumulate else Knowledge()
        return edit_layers(self._layout_of(state), prompts, values, moments, knowledge, self.hparams)


def _prompts(forms: Sequence[Form]) -> list[FactPrompts]:
    return [form.prompts for form in forms]


def _at_most(count: int, groups: _Groups) -> Iterator[list[list[int]]]:
    """Groups together that have so many members, or one that has more."""
    some: list[list[int]] = []
    for group in groups:
        if some and sum(map(len, some)) + len(group) > count:
            yield some
            some = []
        some.append(group)
    if some:
        yield some


def _check_values(values: Tensor, needed: tuple[int, int]) -> None:
    """Raise ValueError unless values are numbers [n, d], `needed`."""
    if not isinstance(values, Tensor):
        raise ValueError(
            f"values is a {type(values).__name__}, and these facts need a tensor {needed}, as `values` returns it."
        )
    if tuple(values.shape) != needed:
        raise ValueError(f"values has shape {tuple(values.shape)}, and these facts need {needed}: a row for each.")


def _warn_of_adapters(model: nn.Module) -> None:
    """PEFT means it so: what it saves of a model is the adapter."""
    if any(isinstance(getattr(module, "merged_adapters", None), list) for module in model.modules()):
        log.warning(
            "This model has PEFT adapters, and edits go into the base model: save_pretrained of the PEFT model writes "
            "the adapters alone, without the edits. Call merge_and_unload() and save what it returns."
        )
