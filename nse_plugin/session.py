"""EditSession: a model, and the rounds of facts written into it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nse_plugin.addresses import value_addresses
from nse_plugin.facts import Fact, FactError
from nse_plugin.heap import give_back
from nse_plugin.hparams import HyperParamsError, NSEHyperParams
from nse_plugin.method.knowledge import Knowledge
from nse_plugin.method.multilayer import RoundResult, edit_layers
from nse_plugin.method.rewind import OriginalWeights
from nse_plugin.method.values import optimize_values
from nse_plugin.models.fingerprint import model_fingerprint
from nse_plugin.models.layout import Layout
from nse_plugin.models.prompts import FactPrompts, check_round, encode_fact
from nse_plugin.models.replay import ContextStates
from nse_plugin.models.writing import check_templates, context_templates
from nse_plugin.progress import bar
from nse_plugin.second_moments import check_moments, second_moments
from nse_plugin.state import EditState, RoundReport
from nse_plugin.store import VALUE, Store
from nse_plugin.timing import timed

log = logging.getLogger(__name__)

KEPT_AT_ONCE = 64  # facts whose values are computed together and then put in the store: a stop loses no more


class EditSession:
    """Rounds of edits on a loaded model, without EasyEdit.

    model: a transformers causal language model; it is edited in place. tokenizer: its tokenizer, in any padding state.
    hparams: NSEHyperParams. moments: {layer: [f, f]}, E[k k^T] on the original weights; None: read or measured when
    first needed. templates: ["{}", "Some text. {}", ...]; None: written by the model, seeded.
    values_from_store: how many of the values so far were read and not computed.

    Between rounds the model must go on computing what it computed before the first: begin another session after
    switching an adapter, replacing a forward method or anything else that weights do not show.

    Raises HyperParamsError, LayoutError, MomentsError or ValueError for what cannot be used; the model is untouched.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        hparams: NSEHyperParams,
        moments: Mapping[int, Tensor] | None = None,
        templates: Sequence[str] | None = None,
        state: EditState | None = None,
    ) -> None:
        if not isinstance(hparams, NSEHyperParams):
            raise HyperParamsError(
                f"hparams is a {type(hparams).__name__}: give NSEHyperParams, e.g. NSEHyperParams.for_model(model)."
            )
        hparams.check()
        self.model, self.tokenizer, self.hparams = model, tokenizer, hparams
        self._layout = Layout.of(model, hparams.rewrite_module_tmp)
        self._matrices = self._layout.output_matrices(hparams.layers)
        self.state = state or EditState.fresh(self._layout, hparams.layers)
        self.values_from_store = 0
        if moments is not None:
            self.state.moments = check_moments(moments, self._matrices)
        if templates is not None:
            self.state.templates = check_templates(list(templates))

    @property
    def templates(self) -> list[str]:
        """The contexts a fact is seen in, the bare "{}" first; written by the original model when first asked for."""
        if self.state.templates is None:
            with self.state.originals.rewound(self._matrices):
                self.state.templates = context_templates(self.model, self.tokenizer, self.hparams.seed)
        return self.state.templates

    @property
    def moments(self) -> dict[int, Tensor]:
        """C0 by layer, [f, f]; read or measured on the original weights when first asked for."""
        if self.state.moments is None:
            with self.state.originals.rewound(self._matrices):
                self.state.moments = second_moments(self._layout, self.tokenizer, self.hparams)
        return self.state.moments

    def values(self, facts: Sequence[Fact]) -> Tensor:
        """z of every fact [n, d]: on the original weights, or with `rewind: false` on the present ones. Edits nothing.

        A fact whose optimisation is not finite has a row of NaN. Raises FactError.
        """
        if not facts:
            raise FactError("facts is empty: give at least one.")
        return self._values(self._encoded(facts))

    def edit(self, facts: Sequence[Fact]) -> RoundReport:
        """Write one round of facts into the model.

        The round is made whole or not at all: whatever goes wrong, the weights are as before. Raises FactError,
        HyperParamsError, MomentsError, UpdateError.
        """
        return self.edit_with_values(facts, None)

    def edit_with_values(self, facts: Sequence[Fact], values: Tensor | None) -> RoundReport:
        """`edit`, with z [n, d] as `values` returned it earlier; None: computed here. Raises also ValueError."""
        started = time.monotonic()
        check_round(facts)
        read_before = self.values_from_store
        prompts = self._encoded(facts)
        seconds: dict[str, float] = {}
        with timed(seconds, "moments"):
            moments = self.moments
        with timed(seconds, "values"):
            values = self._values(prompts) if values is None else values
        needed = (len(prompts), self._layout.hidden_size)
        if tuple(values.shape) != needed:
            raise ValueError(f"values has shape {tuple(values.shape)}, and these facts need {needed}: a row for each.")
        before = OriginalWeights.of(self._matrices)
        try:
            with timed(seconds, "update"):
                result = self._write(prompts, values, moments)
            knowledge = self.state.knowledge.extended(result.keys if self.hparams.accumulate else {})
        except BaseException:
            before.restore(self._matrices)
            raise
        self.state.knowledge = knowledge
        read = self.values_from_store - read_before
        report = _report(facts, result, time.monotonic() - started, seconds, read)
        self.state.reports.append(report)
        del before
        give_back()
        return report

    def _encoded(self, facts: Sequence[Fact]) -> list[FactPrompts]:
        self.hparams.check()
        if self.hparams.layers != self.state.layers:
            raise HyperParamsError(
                f"layers = {self.hparams.layers} cannot be used: this session edits {self.state.layers}; begin another "
                "session for other layers."
            )
        limit = self._layout.max_positions
        return [encode_fact(self.tokenizer, fact, self.templates, limit) for fact in facts]

    def _values(self, prompts: Sequence[FactPrompts]) -> Tensor:
        with bar("values z, facts", len(prompts)) as advance:
            if not self.hparams.rewind:
                return optimize_values(self._layout, prompts, self.hparams, advance)
            with self.state.originals.rewound(self._matrices):
                if _is_hooked(self.model):
                    if self.hparams.store is not None:
                        log.warning(
                            "store %s is not used: this model has forward hooks, which may change what it computes.",
                            self.hparams.store,
                        )
                    return optimize_values(self._layout, prompts, self.hparams, advance)
                if self.hparams.store is None:
                    return self._computed(prompts, advance)
                return self._kept_values(Store(self.hparams.store), prompts, advance)

    def _computed(self, prompts: Sequence[FactPrompts], on_done: Callable[[int], None]) -> Tensor:
        """The values, on the original weights, with what earlier rounds know of the templates."""
        return optimize_values(self._layout, prompts, self.hparams, on_done, self.state.contexts)

    def _kept_values(self, store: Store, prompts: Sequence[FactPrompts], on_done: Callable[[int], None]) -> Tensor:
        """What the store has of the values, the rest computed and put there; on the original weights."""
        # each time: what others did to layers that are not edited here is not noticed otherwise
        fingerprint = model_fingerprint(self.model)
        if fingerprint != self.state.contexts.fingerprint:  # which notices more than the contexts themselves do
            self.state.contexts = ContextStates(fingerprint)
        addresses = value_addresses(fingerprint, prompts, self.hparams)
        values = [store.get(address) for address in addresses]
        missing = [place for place, value in enumerate(values) if value is None]
        on_done(len(prompts) - len(missing))
        for first in range(0, len(missing), KEPT_AT_ONCE):
            places = missing[first : first + KEPT_AT_ONCE]
            computed = self._computed([prompts[place] for place in places], on_done)
            for place, value in zip(places, computed, strict=True):
                values[place] = value
            store.put_all((addresses[i], z, VALUE, prompts[i].text) for i, z in zip(places, computed, strict=True))
        self.values_from_store += len(prompts) - len(missing)
        log.info("values z: %d computed, %d read from %s", len(missing), len(prompts) - len(missing), store.folder)
        return torch.stack([value.to(self._layout.device) for value in values if value is not None])

    def _write(self, prompts: Sequence[FactPrompts], values: Tensor, moments: Mapping[int, Tensor]) -> RoundResult:
        knowledge = self.state.knowledge if self.hparams.accumulate else Knowledge()
        return edit_layers(self._layout, prompts, values, moments, knowledge, self.hparams)


def _is_hooked(model: nn.Module) -> bool:
    """Whether forward hooks may change what the model computes, unseen by its fingerprint: GRACE's codebook is one.

    transformers' own, which it leaves behind where hidden states were once asked for, only look.
    """
    hooks = (
        hook
        for module in model.modules()
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    )
    return any(not getattr(hook, "__module__", "").startswith("transformers.") for hook in hooks)


def _report(
    facts: Sequence[Fact], result: RoundResult, total: float, parts: dict[str, float], read: int
) -> RoundReport:
    import pandas

    frame = pandas.DataFrame(
        {
            "case_id": [number if fact.case_id is None else fact.case_id for number, fact in enumerate(facts)],
            "status": result.status,
            "residual_before": result.residual_before.tolist(),
            "residual": result.residual.tolist(),
            "passes": result.passes.tolist(),
            "seconds": total / len(facts),
        }
    )
    return RoundReport(frame, parts, read)
