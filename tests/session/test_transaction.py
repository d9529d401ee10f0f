"""A round is made completely or not at all, wherever it is stopped."""

from __future__ import annotations

import builtins
import dataclasses

import pytest
import torch
from interrupting import interrupted_at_every_line
from session_cases import ROUNDS, Boom, edited_weights, failing, session_on
from tiny import tiny_model, tiny_tokenizer

from nse_plugin import EditSession
from nse_plugin.easyedit import algorithm
from nse_plugin.easyedit.algorithm import NSE
from nse_plugin.method.protected_keys import ProtectedKeys
from nse_plugin.session import edited as edited_module
from nse_plugin.session import round as round_module
from nse_plugin.session import session as session_module
from nse_plugin.session import transaction
from nse_plugin.session.history import History
from nse_plugin.session.report import RoundReport
from nse_plugin.support import restoring


def failing_import(monkeypatch, name):
    own = builtins.__import__

    def stopped(module, *rest, **more):
        if module == name:
            raise Boom
        return own(module, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", stopped)


LATE = {
    "pandas is imported": lambda patch: failing_import(patch, "pandas"),
    "the report is made": lambda patch: failing(patch, RoundReport, "of"),
    "the history grows": lambda patch: failing(patch, History, "extended"),
    "keys are protected": lambda patch: failing(patch, ProtectedKeys, "extended"),
    "weights are read": lambda patch: failing(patch, edited_module, "weights_of", 2),
}


@pytest.mark.parametrize("moment", LATE)
def test_a_round_that_stops_late_was_not_made(moment, llama, hparams, monkeypatch):
    session = session_on(llama, hparams)
    session.edit(ROUNDS[0])
    before, history = edited_weights(llama), session.state.history
    with monkeypatch.context() as patch:
        LATE[moment](patch)
        with pytest.raises(Boom):
            session.edit(ROUNDS[1])
    assert all(map(torch.equal, edited_weights(llama), before))
    assert session.state.history is history
    session.edit(ROUNDS[2])
    twin = session_on(tiny_model("llama"), hparams)
    twin.edit(ROUNDS[0])
    twin.edit(ROUNDS[2])
    assert all(map(torch.equal, edited_weights(llama), edited_weights(twin.model)))


def test_a_round_that_is_stopped_after_its_commit_was_made(llama, hparams, monkeypatch):
    """There is no moment at which weights and history disagree."""
    session = session_on(llama, hparams)
    with monkeypatch.context() as patch:
        failing(patch, session_module, "trim_heap")
        with pytest.raises(Boom):
            session.edit(ROUNDS[0])
    assert len(session.state.reports) == 1
    session.edit(ROUNDS[1])
    assert session.state.knowledge.count == 3


@pytest.mark.parametrize("earlier", [0, 1])
@pytest.mark.parametrize("through", ["session", "EasyEdit"])
def test_weights_and_history_agree_after_an_interrupt_at_any_line(through, earlier, hparams):
    model, nse = tiny_model("llama"), NSE()
    settings = dataclasses.replace(hparams, v_num_grad_steps=1, max_iterations=1, mom2_n_samples=2)
    session = EditSession(model, tiny_tokenizer(), settings)
    request = {"prompt": "The capital of {} is", "subject": "France", "target_new": "Lyon"}

    def edit():
        if through == "session":
            session.edit(request)
        else:
            nse.apply_to_model(model, tiny_tokenizer(), [request], settings)

    def rounds():
        if through == "session":
            assert session.state.history.standing(session._edited.weights()) is session.state.history
            return len(session.state.reports)
        state = nse.state_of(model)
        return 0 if state is None else len(state.reports)

    original = edited_weights(model)
    for _ in range(earlier):
        edit()
    before, made = edited_weights(model), earlier
    modules = (session_module, round_module, transaction, restoring) if through == "session" else (algorithm,)
    for where in interrupted_at_every_line(edit, *modules):
        changed = not all(map(torch.equal, edited_weights(model), before))
        now = rounds()
        assert now == made + 1 or (now == made and not changed), where
        before, made = edited_weights(model), now
    assert made > earlier  # the last lines are those after a commit
    state = session.state if through == "session" else nse.state_of(model)
    assert torch.equal(state.originals.tensors[1], original[0])
