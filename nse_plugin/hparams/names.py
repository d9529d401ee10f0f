"""The names of a hyperparameter in files: NSE's, EasyEdit's and the authors'."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Any

from nse_plugin.hparams.errors import HyperParamsError
from nse_plugin.hparams.values import require
from nse_plugin.support.suggestions import did_you_mean

log = logging.getLogger(__name__)

# Keys in MEMIT's and the authors' files that NSE does not need: it finds the model's modules by structure, and always
# optimises at the last layer. A file may contain these keys, but only with the value given here (None: any value).
_FOUND_BY_STRUCTURE: dict[str, Any] = {
    "layer_module_tmp": None, "mlp_module_tmp": None, "attn_module_tmp": None, "ln_f_module": None,
    "lm_head_module": None, "v_loss_layer": None, "layer_selection": "all", "mom2_adjustment": True,
}  # fmt: skip
_ALIASES = {"neuron_threshold": "p", "alg": "alg_name", "L2": "ridge"}


def known_fields(names: Collection[str], config: Mapping[str, Any]) -> dict[str, Any]:
    """Resolve aliases, drop keys that NSE finds by structure, and reject unknown keys with a suggestion.

    names: the names of the fields. Raises HyperParamsError for an unknown name, for two names of the same field, and
    for a dropped key with a value that NSE does not support.
    """
    known: dict[str, Any] = {}
    spelt: dict[str, str] = {}
    given = list(config.items())
    if isinstance(config.get("values"), Mapping):  # settings of the value step may be nested under this key
        given = [(key, value) for key, value in given if key != "values"] + list(config["values"].items())
    for key, value in given:
        name = _ALIASES.get(key, key)
        if name in _FOUND_BY_STRUCTURE:
            right = _FOUND_BY_STRUCTURE[name]
            require(right is None or value == right, name, value, f"NSE supports {right!r} only")
            log.debug("%s is not needed: found by structure", name)
        elif name not in names:
            hint = did_you_mean(key, [*names, *_ALIASES], f"the fields are {', '.join(sorted(names))}.", cutoff=0.4)
            raise HyperParamsError(f"Unknown hyperparameter {key!r}: {hint}")
        elif name in known:
            raise HyperParamsError(f"{spelt[name]!r} and {key!r} are the same hyperparameter: give one of them.")
        else:
            known[name] = value
            spelt[name] = key
    return known
