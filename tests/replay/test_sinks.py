"""A subject at the first token of a text without BOS is written only for prompts in which it is an ordinary token."""

from __future__ import annotations

import logging

import pytest
import torch
from tiny import TEMPLATES, tiny_model, tiny_moments, tiny_tokenizer

from nse_plugin import EditSession, Fact
from nse_plugin.models.layout import Layout
from nse_plugin.models.prompts import encode_fact
from nse_plugin.replay import sinks
from nse_plugin.replay.sinks import without_sinks

FIRST, LATER = Fact("{} is in", "The", "Spain"), Fact("The capital of {} is", "France", "Lyon")


def with_a_sink(place=0):
    """A tiny GPT-2 one of whose positions is ten times as long as any other, as trained models' first tokens are."""
    model = tiny_model("gpt2")
    with torch.no_grad():
        model.transformer.wpe.weight[place] *= 100
    return model


def encoded(bos=False):
    tokenizer = tiny_tokenizer(bos=bos)
    return [encode_fact(tokenizer, fact, list(TEMPLATES)) for fact in (FIRST, LATER)]


def test_a_sink_gives_way_to_the_first_context():
    prompts = encoded()
    assert prompts[0].rewrites[0].lookup == 0
    found = without_sinks(Layout.of(with_a_sink()), 2, prompts, 4096)
    assert found[1] is prompts[1]
    context = prompts[0].rewrites[1]
    assert found[0].rewrites == (context, *prompts[0].rewrites[1:])
    assert found[0].essence.ids == context.to_lookup
    assert found[0].essence.lookup == context.lookup
    assert found[0].text == prompts[0].text


def test_a_sink_may_be_the_second_token_or_the_third():
    for subject, place in (("The", 0), ("The capital", 1), ("The capital of", 2)):
        fact = encode_fact(tiny_tokenizer(), Fact("{} is", subject, "Spain"), list(TEMPLATES))
        assert fact.rewrites[0].lookup == place
        [found] = without_sinks(Layout.of(with_a_sink(place)), 2, [fact], 4096)
        assert found.rewrites[0] is fact.rewrites[1]
        [found] = without_sinks(Layout.of(tiny_model("gpt2")), 2, [fact], 4096)
        assert found is fact


def test_where_there_is_none_nothing_changes():
    for prompts, model in ((encoded(), tiny_model("gpt2")), (encoded(bos=True), with_a_sink())):
        assert all(map(lambda one, other: one is other, without_sinks(Layout.of(model), 2, prompts, 4096), prompts))
    alone = [encode_fact(tiny_tokenizer(), FIRST, ["{}"])]  # no context to go to
    assert without_sinks(Layout.of(with_a_sink()), 2, alone, 4096)[0] is alone[0]


def test_a_session_writes_it_behind_words_and_says_so(hparams, caplog):
    model = with_a_sink()
    session = EditSession(model, tiny_tokenizer(), hparams, tiny_moments(model, [1, 2]), list(TEMPLATES))
    with caplog.at_level(logging.WARNING):
        report = session.edit([FIRST, LATER])
    assert "1 fact, 'The is in' the first: the subject ends with the first tokens of the prompt" in caplog.text
    assert report.frame["residual"].notna().all()
    assert (report.frame["residual"] < report.frame["residual_before"]).all()


@pytest.mark.parametrize("longer", [0.0, 1e9])
def test_h_and_the_value_are_those_of_the_context(hparams, longer, monkeypatch):
    monkeypatch.setattr(sinks, "LONGER", longer)
    model = tiny_model("llama")
    session = EditSession(model, tiny_tokenizer(), hparams, tiny_moments(model, [1, 2]), list(TEMPLATES))
    row = encode_fact(tiny_tokenizer(), FIRST, list(TEMPLATES)).rewrites[1 if longer == 0.0 else 0]
    with torch.no_grad():
        ids = torch.tensor([row.to_lookup])
        h = model(input_ids=ids, output_hidden_states=True).hidden_states[3][0, -1]
    assert float((session.values([FIRST])[0] - h).norm()) <= hparams.clamp_norm_factor * float(h.norm()) + 1e-9
