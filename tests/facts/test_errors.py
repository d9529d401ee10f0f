"""Error messages for faulty facts."""

from __future__ import annotations

import pickle

import nse_plugin
from nse_plugin.facts.errors import FactError


def test_it_is_a_value_error_under_its_public_name_and_goes_through_processes():
    assert nse_plugin.FactError is FactError
    assert issubclass(FactError, ValueError)
    again = pickle.loads(pickle.dumps(FactError("prompt is ''")))  # as workers send it
    assert (type(again), str(again)) == (FactError, "prompt is ''")
