"""One process of a cluster: it loads the model, and computes shards of values z or second moments."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from nse_plugin.facts import Fact
from nse_plugin.hparams import HyperParamsError, NSEHyperParams
from nse_plugin.method.subjects import Form, forms_of, same_subject
from nse_plugin.method.value_cache_key import value_cache_keys
from nse_plugin.method.values import optimize_values
from nse_plugin.models.identity import ModelIdentity
from nse_plugin.models.layout import Layout
from nse_plugin.models.loading import load
from nse_plugin.models.prompts import FactPrompts
from nse_plugin.models.writing.templates import context_templates
from nse_plugin.moments.corpora import Batch, token_batches
from nse_plugin.moments.measure import MomentSums, measure_moments
from nse_plugin.replay.context_states import ContextStates
from nse_plugin.replay.outputs import has_norms
from nse_plugin.replay.sinks import without_sinks


class ClusterError(RuntimeError):
    """Workers that cannot be started, or cannot continue; the message gives the reason and the remedy."""


class Worker:
    """A model in one process. source, dtype, device: as for `load`. hparams: None: the ones tuned for the model.

    threads: the number of CPU threads of this process.
    """

    def __init__(self, source: str, dtype: str, device: str, hparams: NSEHyperParams | None, threads: int) -> None:
        self._source, self._dtype, self._device = source, dtype, device
        self._given, self._threads = hparams, threads

    def load(self) -> tuple[str, int]:
        """Load the model and prepare for the other methods. Returns the host's name and the process ID."""
        torch.set_num_threads(max(1, min(self._threads, os.cpu_count() or 1)))
        self._model, self._tokenizer = load(self._source, self._dtype, self._device)
        self._hparams = (self._given or NSEHyperParams.for_model(self._model)).completed(self._model)
        self._layout = Layout.of(self._model, self._hparams.rewrite_module_tmp)
        self._layout.output_matrices(self._hparams.layers)  # raises for layers that are not there
        self._fingerprint = ModelIdentity(self._model).full()
        self._contexts = ContextStates()
        return socket.gethostname(), os.getpid()

    def encode(self, facts: Sequence[Fact]) -> tuple[list[str], list[FactPrompts]]:
        """Return the address and the token rows, in contexts that the model writes, of every fact with a value of its
        own.

        Facts about one subject, and facts with several forms, share a value that depends on which of them are in force:
        it is computed in their round. Raises FactError, and HyperParamsError if `rewind` is off.
        """
        if not self._hparams.rewind:
            raise HyperParamsError("rewind = False cannot be used: z then depends on what was edited; leave it out.")
        templates = context_templates(self._model, self._tokenizer, self._hparams.seed)
        hparams = self._hparams
        forms = forms_of(self._tokenizer, facts, templates, hparams.chat, self._layout, hparams.target_eos)
        groups = same_subject(facts, forms)
        alone = [forms[i] for group in groups if len({_asked(facts, forms[i]) for i in group}) == 1 for i in group]
        prompts = [form.prompts for form in sorted(alone, key=lambda form: form.owner)]
        prompts = without_sinks(self._layout, self._hparams.layers[-1], prompts, self._hparams.tokens_per_batch)
        return self._addresses(prompts), prompts

    def values(self, prompts: Sequence[FactPrompts], addresses: Sequence[str]) -> Tensor:
        """Return z of some facts, [n, d]. addresses: their addresses in the store, from the `encode` of another worker.

        Raises ClusterError if this worker would give them other addresses.
        """
        self._require_same(self._addresses(prompts) == addresses)
        return optimize_values(self._layout, prompts, self._hparams, contexts=self._contexts).cpu()

    def _addresses(self, prompts: Sequence[FactPrompts]) -> list[str]:
        normed = has_norms(self._layout, self._hparams.layers, prompts)
        return value_cache_keys(self._fingerprint, prompts, self._hparams, has_norms=normed)

    def moments(self, text: range | list[Batch], layers: Sequence[int], fingerprint: str) -> MomentSums:
        """Return the sums over a part of the text: batches of token rows, or numbers of batches that the model is to
        write.

        fingerprint: of the model to be measured. Raises ClusterError if this worker has another model.
        """
        self._require_same(self._fingerprint == fingerprint)
        batches: Any = text
        if isinstance(text, range):
            batches = islice(token_batches(self._layout, self._tokenizer, self._hparams, text.start), len(text))
        sums = measure_moments(self._layout, layers, batches)
        return MomentSums({layer: total.cpu() for layer, total in sums.sums.items()}, sums.tokens, sums.batches)

    def _require_same(self, same: bool) -> None:
        if not same:
            raise ClusterError(
                f"Host {socket.gethostname()} has another model as {self._source!r}, or another version of nse-plugin, "
                "than the others: give all hosts the same."
            )


def _asked(facts: Sequence[Fact], form: Form) -> tuple[object, ...]:
    """Return question and lookup tokens. If two forms have the same, the later fact replaces the earlier: they never
    share a value."""
    return facts[form.owner].question, form.prompts.rewrites[0].to_lookup
