"""A model is checked when its layers are replayed for the first time, and not again."""

from __future__ import annotations

import pytest
from architectures import LAYERS, session_on
from tiny import TEMPLATES, tiny_tokenizer

from nse_plugin import EditSession
from nse_plugin.models.layout import Layout, LayoutError
from nse_plugin.models.prompts import EncodedPrompt, encode_fact
from nse_plugin.replay import check, first_use
from nse_plugin.replay.context_states import ContextStates
from nse_plugin.replay.suffix import SuffixReplay


def count_checks(monkeypatch):
    checks = []
    own = check._errors
    monkeypatch.setattr(check, "_errors", lambda *args: checks.append(args[1]) or own(*args))
    return checks


def test_a_model_is_checked_once(llama, hparams, facts, monkeypatch):
    checks = count_checks(monkeypatch)
    session = session_on(llama, hparams)
    assert checks == []  # making a session costs nothing
    session.values(facts[:1])
    session.edit(facts[:2])
    EditSession(llama, tiny_tokenizer(), session.hparams, state=session.state).edit(facts[2:])
    assert checks == [LAYERS]


def test_it_is_checked_again_before_longer_rows_are_run(llama, hparams, facts, monkeypatch):
    checks = count_checks(monkeypatch)
    monkeypatch.setattr(check, "_USUAL", 8)
    session = session_on(llama, hparams)
    _ = session.templates
    assert checks == [LAYERS]
    session.values(facts)
    assert checks == [LAYERS, LAYERS]
    session.values(facts[:1])
    EditSession(llama, tiny_tokenizer(), session.hparams, state=session.state).edit(facts)
    assert checks == [LAYERS, LAYERS]
    layout = Layout.of(llama)
    rows = [encode_fact(tiny_tokenizer(), fact, TEMPLATES).rewrites[0] for fact in facts]
    for longest in (6, 6, max(len(row.ids) for row in rows)):
        SuffixReplay(layout, 2, [EncodedPrompt(row.ids[:longest], 2) for row in rows], ContextStates())
    assert len(checks) == 4


def test_it_is_checked_again_when_it_gets_hooks(llama, hparams, facts, monkeypatch):
    checks = count_checks(monkeypatch)
    session = session_on(llama, hparams)
    session.edit(facts[:1])
    llama.model.layers[3].mlp.register_forward_hook(lambda _, __, output: output + output.mean(dim=1, keepdim=True))
    with pytest.raises(LayoutError, match="hook that mixes tokens"):
        session.edit(facts[1:])
    assert len(checks) == 3  # after a prefix cache, and in whole rows


def test_layers_below_l_0_are_checked_too(llama, facts, monkeypatch):
    """By whoever is the first to run them, also where l_0 alone was run before; and not the other way round."""
    checks, layout = count_checks(monkeypatch), Layout.of(llama)
    rows = [encode_fact(tiny_tokenizer(), fact, TEMPLATES).rewrites[0] for fact in facts]
    for layers in ([2], [1, 2], [2], [1, 2]):
        first_use.check_once(layout, layers, rows)
    assert checks == [[2], [1, 2]]
