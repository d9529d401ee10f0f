"""The names that a hyperparameter may have in a file."""

from __future__ import annotations

import pytest

from nse_plugin.hparams.errors import HyperParamsError
from nse_plugin.hparams.names import known_fields

NAMES = ("p", "ridge", "alg_name", "solver")


def test_the_field_s_names_and_the_value_step_s_own_heading():
    given = {"neuron_threshold": 0.7, "L2": 10, "alg": "NSE", "values": {"solver": "fast"}}
    assert known_fields(NAMES, given) == {"p": 0.7, "ridge": 10, "alg_name": "NSE", "solver": "fast"}


def test_what_is_found_by_structure_is_left_out():
    assert known_fields(NAMES, {"p": 1, "layer_module_tmp": "model.layers.{}", "layer_selection": "all"}) == {"p": 1}
    with pytest.raises(HyperParamsError, match="layer_selection = 'random' cannot be used: NSE supports 'all' only"):
        known_fields(NAMES, {"layer_selection": "random"})


def test_two_names_of_one_field():
    with pytest.raises(HyperParamsError, match="'L2' and 'ridge' are the same hyperparameter"):
        known_fields(NAMES, {"L2": 10, "ridge": 1})


def test_an_unknown_name():
    with pytest.raises(HyperParamsError, match="Unknown hyperparameter 'rigde': did you mean 'ridge'"):
        known_fields(NAMES, {"rigde": 10})
