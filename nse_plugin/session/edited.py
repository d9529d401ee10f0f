"""The model that a session edits, and what is measured once on its original weights."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from nse_plugin.facts import Fact
from nse_plugin.hparams import HyperParamsError, NSEHyperParams
from nse_plugin.method.subjects import Form, forms_of
from nse_plugin.models.identity import ModelIdentity, fingerprint
from nse_plugin.models.layout import Layout, OutputMatrix, ReplayState
from nse_plugin.models.prompts import FactPrompts
from nse_plugin.models.writing.templates import check_templates, context_templates
from nse_plugin.moments.check import check_moments
from nse_plugin.moments.measure import MomentsError
from nse_plugin.moments.provider import second_moments
from nse_plugin.replay.checked_models import check_new_model
from nse_plugin.replay.known_models import known_with
from nse_plugin.replay.sinks import early, without_sinks
from nse_plugin.session.history import Weights
from nse_plugin.session.state import EditState, weights_of
from nse_plugin.store import Store
from nse_plugin.support.suggestions import number_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)


class EditedModel:
    """A model with its tokenizer and hyperparameters; the arguments are those of `EditSession`.

    It holds nothing that changes from round to round: that is kept in an `EditState`, which the methods take.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        hparams: NSEHyperParams,
        moments: Mapping[int, Tensor] | None = None,
        templates: Sequence[str] | None = None,
        read_fingerprint: Callable[[Tensor], str] = fingerprint,
    ) -> None:
        if not isinstance(hparams, NSEHyperParams):
            raise HyperParamsError(
                f"hparams is a {type(hparams).__name__}: give NSEHyperParams, e.g. NSEHyperParams.for_model(model)."
            )
        hparams.check()
        self.layout = Layout.of(model, hparams.rewrite_module_tmp)
        self.model, self.tokenizer, self.hparams = model, tokenizer, hparams
        self.read_fingerprint = read_fingerprint
        self.layers = sorted(self.layout.edited_matrices(hparams.layers))  # raises if a layer cannot be edited
        if hparams.store is not None:
            Store(hparams.store).check_folder()
        if moments is not None and not isinstance(moments, Mapping):
            raise MomentsError(f"moments is a {type(moments).__name__}: give {{layer: tensor [f, f]}}, or None.")
        self._given_moments = None if moments is None else check_moments(moments, self.matrices)
        self._given_templates = None if templates is None else check_templates(list(templates))

    @property
    def hparams(self) -> NSEHyperParams:
        """The hyperparameters of the next round, with alpha and v_lr proposed from the model if they were None."""
        return self._hparams

    @hparams.setter
    def hparams(self, hparams: NSEHyperParams) -> None:
        self._hparams = hparams.completed(self.model)

    @property
    def matrices(self) -> dict[int, OutputMatrix]:
        """The edited matrices by layer, looked up on every access because modules may have been replaced."""
        return self.layout.output_matrices(self.layers)

    def weights(self) -> Weights:
        """Return the fingerprints of the current edited matrices."""
        return weights_of(self.matrices, self.read_fingerprint)

    def fresh_state(self) -> EditState:
        """Return the state of an unedited model: the current weights are taken as the original ones."""
        return EditState.fresh(self.matrices, self.read_fingerprint)

    def layout_of(self, state: EditState) -> Layout:
        """Return the layout with what the state knows of it."""
        return dataclasses.replace(self.layout, replay=state.replay)

    def use_what_was_given(self, state: EditState) -> None:
        """Put the moments and templates that were given to the constructor into a state."""
        if self._given_moments is not None:
            state.moments = self._given_moments
        if self._given_templates is not None:
            state.templates = self._given_templates

    @contextmanager
    def using(self, settings: Mapping[str, object]) -> Iterator[None]:
        """Run the block with these hyperparameters overridden."""
        hparams = self.hparams
        try:
            self.hparams = hparams.with_overrides(**settings)
            yield
        finally:
            self.hparams = hparams

    @contextmanager
    def original(self, state: EditState) -> Iterator[None]:
        """Run the block with the model's original weights."""
        with torch.inference_mode(False), state.originals.rewound(self.matrices):
            yield

    def check(self, state: EditState) -> None:
        """Raise LayoutError if the model's layers cannot be replayed, before anything is computed.

        Discards the state's measurements if anything but the edited matrices has changed. A model with hooks or
        replaced forwards is checked every time, because their effect may have changed unnoticed.
        """
        identity = state.identity_of(self.model, self.matrices)
        if state.identity is not None and state.identity[1] != identity[1]:
            log.info("More than the edited matrices has changed of the model: what was measured of it is forgotten.")
            state.forget_measured()
            self.use_what_was_given(state)
        state.identity = identity
        known = known_with(self.model, identity[1])
        if ModelIdentity(self.model).unseen is not None:
            state.replay = ReplayState()
        elif known is not None:
            state.contexts, state.replay = known.contexts, known.replay
        self._check_replay(state)

    # -- measured once, on the original weights ----------------------------------------------------------------

    def templates(self, state: EditState) -> list[str]:
        """Return the context templates, the bare "{}" first; generated by the original model when first needed."""
        if state.templates is None:
            with self.original(state):
                state.templates = context_templates(self.model, self.tokenizer, self.hparams.seed)
        return state.templates

    def moments(self, state: EditState) -> dict[int, Tensor]:
        """Return C0 by layer, [f, f]; read or measured on the original weights when first needed."""
        if state.moments is None:
            with self.original(state):
                identity = None if state.identity is None else state.identity[1]
                state.moments = second_moments(self.layout_of(state), self.tokenizer, self.hparams, identity=identity)
        return state.moments

    # -- forms of facts ----------------------------------------------------------------------------------------

    def forms(self, state: EditState, facts: Sequence[Fact]) -> list[Form]:
        """Return all forms of every fact, before attention sinks are avoided.

        Raises FactError, HyperParamsError, LayoutError.
        """
        self.hparams.check()
        if self.hparams.layers != state.layers:
            raise HyperParamsError(
                f"layers = {self.hparams.layers} cannot be used: this session edits {state.layers}; begin another "
                "session for other layers."
            )
        hparams = self.hparams
        forms = forms_of(
            self.tokenizer, facts, self.templates(state), hparams.chat, self.layout, hparams.target_eos
        )  # fmt: skip
        self._check_length(state, prompts_of(forms))
        return forms

    def behind_words(self, state: EditState, facts: Sequence[Fact], forms: list[Form]) -> list[Form]:
        """Return the forms, with the bare prompt replaced by a generated context if the subject is an attention sink.

        Warns if there are such facts.
        """
        if not early(prompts_of(forms)):
            return forms
        with self.original(state):
            prompts = without_sinks(
                self.layout_of(state), self.hparams.layers[-1], prompts_of(forms), self.hparams.tokens_per_batch
            )
        found = [Form(form.owner, rows) for form, rows in zip(forms, prompts, strict=True)]
        sinks = [facts[form.owner] for form, rows in zip(forms, prompts, strict=True) if rows is not form.prompts]
        warn_of_sinks(sinks)
        return found

    def _check_length(self, state: EditState, prompts: Sequence[FactPrompts]) -> None:
        """Check the model again if a row is longer than all rows checked so far."""
        self._check_replay(state, max(len(row.ids) for fact in prompts for row in (*fact.rewrites, fact.essence)))

    def _check_replay(self, state: EditState, longest: int = 1) -> None:
        """Check that rows of `longest` tokens can be replayed, unless that is known. Raises LayoutError."""
        layout = self.layout_of(state)
        if layout.checked_up_to(self.hparams.layers) < longest:
            unseen = ModelIdentity(self.model).unseen is not None
            identity = None if unseen or state.identity is None else state.identity[1]
            check_new_model(layout, self.hparams.layers, self.tokenizer, identity, longest)


def warn_of_sinks(facts: Sequence[Fact]) -> None:
    """Log a warning about the facts whose subject ends at an attention sink, if there are any."""
    if facts:
        log.warning(
            "%s, %r the first: the subject ends with the first tokens of the prompt, where this model has an "
            "attention sink, which no fact can be written to. It is written for prompts with words before the "
            "subject; begin the prompt with some, or ask it so.", number_of(len(facts), "fact"), facts[0].text,
        )  # fmt: skip


def prompts_of(forms: Sequence[Form]) -> list[FactPrompts]:
    """Return the token rows of each form."""
    return [form.prompts for form in forms]


def warn_of_adapters(model: nn.Module) -> None:
    """Warn if the model has PEFT adapters: by design, `save_pretrained` of a PEFT model saves only the adapters."""
    if any(isinstance(getattr(module, "merged_adapters", None), list) for module in model.modules()):
        log.warning(
            "This model has PEFT adapters, and edits go into the base model: save_pretrained of the PEFT model writes "
            "the adapters alone, without the edits. Call merge_and_unload() and save what it returns."
        )
