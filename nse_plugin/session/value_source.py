"""Provide the values z of a round: computed on the original weights, or read from the store."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from nse_plugin.method.subjects import Form
from nse_plugin.method.targets import TargetPredictions, predictions_under_values
from nse_plugin.method.value_cache_key import value_cache_keys
from nse_plugin.method.values import optimize_values
from nse_plugin.models.identity import ModelIdentity
from nse_plugin.models.prompts import FactPrompts
from nse_plugin.replay.outputs import has_norms
from nse_plugin.session.edited import EditedModel, prompts_of
from nse_plugin.session.state import EditState
from nse_plugin.store import VALUE, Store
from nse_plugin.support.progress import bar

log = logging.getLogger(__name__)

Groups = Sequence[list[int]]  # groups of indices that share a value
KEPT_AT_ONCE = 64  # facts per batch; each batch is put into the store, so an interrupt loses at most one batch


class ValueSource:
    """Values of facts for an edited model. from_store: how many so far were read from the store and not computed."""

    def __init__(self, edited: EditedModel) -> None:
        self._edited = edited
        self.from_store = 0

    def values(
        self, state: EditState, forms: Sequence[Form], groups: Groups, said: dict[int, TargetPredictions] | None = None
    ) -> Tensor:
        """Return z of every form, [n, d]. groups: forms (indices) that share delta. said: filled with the forms' target
        predictions, by index, unless a store is used; None: they are not made."""
        edited, prompts = self._edited, prompts_of(forms)
        with bar("values z, facts", len(prompts)) as advance:
            if not edited.hparams.rewind:
                return optimize_values(edited.layout_of(state), prompts, edited.hparams, advance, None, groups, said)
            with edited.original(state):
                return self._rewound_values(state, prompts, groups, said, advance)

    def say(self, state: EditState, forms: Sequence[Form], values: Tensor, said: dict[int, TargetPredictions]) -> None:
        """Add the predictions under values [n, d] to `said`, for the forms that it has none for yet.

        They are made by the model that the values were computed for: with `rewind`, the original one.
        """
        edited = self._edited
        missing = [place for place in range(len(forms)) if place not in said]
        if missing:
            with edited.original(state) if edited.hparams.rewind else nullcontext():
                own = prompts_of([forms[place] for place in missing])
                found = predictions_under_values(
                    edited.layout_of(state), edited.hparams.layers[-1], own, values[missing]
                )
            said.update(zip(missing, found, strict=True))

    def _rewound_values(
        self,
        state: EditState,
        prompts: Sequence[FactPrompts],
        groups: Groups,
        said: dict[int, TargetPredictions] | None,
        on_done: Callable[[int], None],
    ) -> Tensor:
        """Compute or read values on the original weights. For a model that may have changed unnoticed, neither stored
        values nor cached contexts are used."""
        edited = self._edited
        unseen = ModelIdentity(edited.model).unseen
        if unseen is None and edited.hparams.store is not None:
            return self._kept_values(Store(edited.hparams.store), state, prompts, groups, on_done)
        if unseen is not None and edited.hparams.store is not None:
            log.warning("store %s is not used: the model has %s.", edited.hparams.store, unseen)
        contexts = None if unseen else state.contexts
        return optimize_values(edited.layout_of(state), prompts, edited.hparams, on_done, contexts, groups, said)

    def _kept_values(
        self,
        store: Store,
        state: EditState,
        prompts: Sequence[FactPrompts],
        groups: Groups,
        on_done: Callable[[int], None],
    ) -> Tensor:
        """Read values from the store; compute the missing ones and put them into the store."""
        edited = self._edited
        _, full = state.identity_of(edited.model, edited.matrices)
        normed = has_norms(edited.layout_of(state), edited.hparams.layers, prompts)
        addresses = value_cache_keys(full, prompts, edited.hparams, groups, normed)
        values = [store.get(address) for address in addresses]
        missing = [group for group in groups if any(values[place] is None for place in group)]
        count = sum(map(len, missing))
        on_done(len(prompts) - count)
        for some in _at_most(KEPT_AT_ONCE, missing):
            places = [place for group in some for place in group]
            own = [[places.index(place) for place in group] for group in some]
            computed = optimize_values(
                edited.layout_of(state), [prompts[i] for i in places], edited.hparams, on_done, state.contexts, own
            )
            for place, value in zip(places, computed, strict=True):
                values[place] = value
            store.put_all((addresses[i], z, VALUE, prompts[i].text) for i, z in zip(places, computed, strict=True))
        self.from_store += len(prompts) - count
        log.info("values z: %d computed, %d read from %s", count, len(prompts) - count, store.folder)
        return torch.stack([value.to(edited.layout.device) for value in values if value is not None])


def _at_most(count: int, groups: Groups) -> Iterator[list[list[int]]]:
    """Yield lists of consecutive groups with at most `count` members in total, or one larger group."""
    some: list[list[int]] = []
    for group in groups:
        if some and sum(map(len, some)) + len(group) > count:
            yield some
            some = []
        some.append(group)
    if some:
        yield some
