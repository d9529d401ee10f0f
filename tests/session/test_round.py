"""Checks and questions of a round before it writes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from session_cases import session_on
from tiny import tiny_facts, tiny_model
from tiny_sessions import COLD, OTHER, WET, base, begun, edited, equal, of_rounds

from nse_plugin import FactError


def test_given_values_are_the_computed_ones(hparams, weights_of, same_weights):
    computed, given = session_on(tiny_model("llama"), hparams), session_on(tiny_model("llama"), hparams)
    values = given.values(tiny_facts())
    computed.edit(tiny_facts())
    given.edit_with_values(tiny_facts(), values)
    assert same_weights(weights_of(computed.model), weights_of(given.model))


def test_values_of_the_wrong_shape_are_refused(llama, hparams, weights_of, same_weights):
    session = session_on(llama, hparams)
    before = weights_of(llama)
    with pytest.raises(ValueError, match=r"values has shape \(3, 16\).*\(4, 16\)"):
        session.edit_with_values(tiny_facts(), torch.zeros(3, 16))
    for values in ([[0.0] * 16] * 4, np.zeros((4, 16))):
        with pytest.raises(ValueError, match=r"values is a (list|ndarray), and these facts need a tensor \(4, 16\)"):
            session.edit_with_values(tiny_facts(), values)
    assert same_weights(weights_of(llama), before)


def test_conflicts_are_found_before_anything_is_written():
    session = of_rounds([[COLD]])
    assert session.conflicts([OTHER, WET]) == [(WET, COLD)]
    assert session.conflicts([OTHER, COLD]) == []


@pytest.mark.parametrize("where", ["memory", "folder"])
def test_what_becomes_of_a_conflict(where, tmp_path):
    session = begun(where, base(), tmp_path)
    session.edit(COLD)
    before = edited(session.model)
    with pytest.raises(FactError, match=r"1 fact of this round would replace .* would be 'wet' where 'cold' stands"):
        session.edit([OTHER, WET], on_conflict="error")
    with pytest.raises(ValueError, match="on_conflict = 'ask' cannot be used: use one of replace, keep, error"):
        session.edit(WET, on_conflict="ask")
    assert session.edit([WET], on_conflict="keep").frame["status"].tolist() == ["kept"]
    assert equal(edited(session.model), before)
    assert len(session.rounds) == 1
    report = session.edit([WET, OTHER], on_conflict="keep")
    assert report.frame["case_id"].tolist() == ["wet", "other"]
    assert report.frame["status"].tolist()[0] == "kept" != report.frame["status"].tolist()[1]
    assert equal(edited(session.model), edited(of_rounds([[COLD], [OTHER]]).model))
    assert session.edit(WET).frame["replaces"].tolist() == ["cold"]
