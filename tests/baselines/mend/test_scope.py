"""MEND's scopes: what they refuse, and that they restore everything."""

from __future__ import annotations

import pytest
from mend_cases import FACTS

from nse_plugin.baselines.mend import train_mend
from nse_plugin.hparams import HyperParamsError


def test_matrices_that_are_not_there_are_named(tiny_llama, tiny_tokenizer, hparams_of):
    hparams = hparams_of(tiny_llama, inner_params=["model.layers.9.mlp.down_proj.weight"])
    with pytest.raises(HyperParamsError, match=r"inner_params = .*layers\.9"):
        train_mend(tiny_llama, tiny_tokenizer, FACTS, FACTS, hparams, steps=1)
