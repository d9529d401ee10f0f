"""What this process has found out about loaded models, so that a new session on one of them does not repeat it."""

from __future__ import annotations

from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from torch import nn

from nse_plugin.models.identity import ModelIdentity
from nse_plugin.models.layout import ReplayState
from nse_plugin.replay.context_states import ContextStates


@dataclass
class KnownModel:
    """What is known of one model with its original weights.

    seen: what was compared when `identity` was computed. identity: `ModelIdentity.full`. contexts, replay: as in
    `EditState`; sessions share these objects.
    """

    seen: tuple[object, ...]
    identity: str
    contexts: ContextStates = field(default_factory=ContextStates)
    replay: ReplayState = field(default_factory=ReplayState)


_MODELS: WeakKeyDictionary[nn.Module, KnownModel] = WeakKeyDictionary()


def known_model(model: nn.Module, *seen: object) -> KnownModel:
    """Return what is known of a model; if it differs in anything of `seen`, its identity is computed again, and what
    was known of another identity is dropped. Of each model, only the last identity is remembered."""
    known = _MODELS.get(model)
    if known is None or known.seen != seen:
        identity = ModelIdentity(model).full()
        if known is None or known.identity != identity:
            known = KnownModel(seen, identity)
        known.seen = seen
        _MODELS[model] = known
    return known


def known_with(model: nn.Module, identity: str) -> KnownModel | None:
    """Return what is known of a model if its last identity is this one."""
    known = _MODELS.get(model)
    return known if known is not None and known.identity == identity else None
