"""Configurations composed by hydra, and one-sentence errors for mistakes in them."""

from __future__ import annotations

import re

import pytest

from nse_plugin.experiments.plan import PlanError
from nse_plugin.experiments.plan.checks import CommandLineError
from nse_plugin.experiments.plan.configuration import asks_for_help, check_words, composed


def test_settings_go_on_top_as_plain_values():
    found = composed("compare", ["facts=4", "methods=[NSE]", "+methods.NSE.hparams.p=0.5"])
    assert (found["facts"], type(found), type(found["model"])) == (4, dict, dict)
    assert found["model"]["name"] == composed("compare", ["model=smollm2-135m"])["model"]["name"]


@pytest.mark.parametrize(
    ("config", "words", "said"),
    [
        ("sweep", "nse.alfa=1", "There is no setting 'nse.alfa'; did you mean 'nse.alpha'?"),
        ("sweep", "nothing.like=it", "There is no setting 'nothing.like': `nse sweep --help` shows them all."),
        ("compare", "data=nope", "data: 'nope' is not known; there are counterfact, demo"),
        ("compare", "model=gpt2-xxl", "model: 'gpt2-xxl' is not known; did you mean 'gpt2-xl'? A model of your own"),
        ("compare", "facts=[1", "no viable alternative"),
    ],
)
def test_mistakes_say_what_there_is(config, words, said):
    with pytest.raises(PlanError, match=re.escape(said)):
        composed(config, [words])


def test_words_that_are_no_settings():
    check_words(["facts=4", "-m", "--cfg", "job", "~methods.FT", "+a.b=1"])
    for word in ("facts", "--facts=4", "--verbose"):
        with pytest.raises(CommandLineError, match=f"'{word}' is no setting: settings are written NAME=VALUE"):
            check_words(["round=2", word])


def test_who_asks_for_help():
    assert asks_for_help(["facts=4", "--cfg=job"])
    assert asks_for_help(["-h"])
    assert not asks_for_help(["facts=4", "-m"])
