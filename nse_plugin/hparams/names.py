"""The names a hyperparameter may have in a file: NSE's, EasyEdit's and the authors'."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Any

from nse_plugin.hparams.errors import HyperParamsError
from nse_plugin.hparams.values import require
from nse_plugin.support.suggestions import did_you_mean

log = logging.getLogger(__name__)

# What MEMIT's and the authors' files also carry and NSE needs nobody to say: it finds the model's parts by
# structure, and always optimises at the last layer. Such a key may stand in a file, with the one value that is
# right (None: any).
_FOUND_BY_STRUCTURE: dict[str, Any] = {
    "layer_module_tmp": None, "mlp_module_tmp": None, "attn_module_tmp": None, "ln_f_module": None,
    "lm_head_module": None, "v_loss_layer": None, "layer_selection": "all", "mom2_adjustment": True,
}  # fmt: skip
_ALIASES = {"neuron_threshold": "p", "alg": "alg_name", "L2": "ridge"}


def known_fields(names: Collection[str], config: Mapping[str, Any]) -> dict[str, Any]:
    """Resolve aliases, drop what is found by structure, and refuse unknown keys with the nearest name.

    names: of the fields. Raises HyperParamsError for an unknown name, and for two names of one field.
    """
    known: dict[str, Any] = {}
    spelt: dict[str, str] = {}
    given = list(config.items())
    if isinstance(config.get("values"), Mapping):  # the value step's own may stand under one heading
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
