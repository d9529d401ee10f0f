"""The state of an edited model, and the weights that it belongs to."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from session_cases import LAYERS, ROUNDS, edited_weights, put_back, session_on
from tiny import tiny_model, tiny_tokenizer

from nse_plugin import EditSession
from nse_plugin.models.identity import fingerprint
from nse_plugin.models.layout import Layout
from nse_plugin.session.state import EditState, StateError


def test_a_state_that_does_not_belong_to_the_weights_is_refused(hparams):
    edited = tiny_model("llama")
    session = session_on(edited, hparams)
    session.edit(ROUNDS[0])
    with pytest.raises(StateError, match="state does not belong to this model's weights"):
        session_on(tiny_model("llama", seed=1), hparams, session.state)
    edited.model.layers[2].mlp.down_proj.weight.data[7, 9] += 1e-9  # unseen by torch
    with pytest.raises(StateError, match="state does not belong to this model's weights"):
        session_on(edited, hparams, session.state)


def test_a_state_of_other_matrices_is_refused(llama, hparams):
    session = session_on(llama, hparams)
    session.edit(ROUNDS[0])
    with pytest.raises(
        StateError, match=r"edited in model\.layers\.1.*and these hyperparameters edit model\.layers\.0"
    ):
        EditSession(llama, tiny_tokenizer(), dataclasses.replace(hparams, layers=[0, 1]), state=session.state)


@pytest.mark.parametrize("stand", [0, 1, 2])
def test_a_state_fits_any_of_its_rounds(stand, hparams):
    model, twin = tiny_model("llama"), tiny_model("llama")
    session = session_on(model, hparams)
    weights = [edited_weights(model)]
    for facts in ROUNDS[:2]:
        session.edit(facts)
        weights.append(edited_weights(model))
    loaded = tiny_model("llama")  # as from a checkpoint of that round
    put_back(loaded, weights[stand])
    session_on(loaded, hparams, session.state).edit(ROUNDS[2])
    plain = session_on(twin, hparams)
    for facts in [*ROUNDS[:stand], ROUNDS[2]]:
        plain.edit(facts)
    assert all(map(torch.equal, edited_weights(loaded), edited_weights(twin)))


def test_a_fresh_state_reads_every_matrix_once(llama):
    read = []
    matrices = Layout.of(llama).output_matrices(LAYERS)
    state = EditState.fresh(matrices, lambda tensor: read.append(tensor) or fingerprint(tensor))
    assert len(read) == 2
    assert state.history.start == {layer: fingerprint(matrix.weight) for layer, matrix in matrices.items()}
