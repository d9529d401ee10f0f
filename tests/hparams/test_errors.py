"""Error messages for faulty hyperparameters."""

from __future__ import annotations

import pickle

import nse_plugin.hparams
from nse_plugin.hparams.errors import HyperParamsError


def test_it_is_a_value_error_under_its_public_name_and_goes_through_processes():
    assert nse_plugin.hparams.HyperParamsError is HyperParamsError
    assert issubclass(HyperParamsError, ValueError)
    again = pickle.loads(pickle.dumps(HyperParamsError("p = 2 cannot be used")))  # as workers send it
    assert (type(again), str(again)) == (HyperParamsError, "p = 2 cannot be used")
