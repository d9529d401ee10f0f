"""Requests to EasyEdit's algorithms, made from facts."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from tiny import tiny_tokenizer

from nse_plugin import Fact
from nse_plugin.baselines.requests import padded_tokenizer, prompts_and_targets, request_of
from nse_plugin.baselines.runner import EasyEditRunner
from nse_plugin.easyedit.algorithm import nse
from nse_plugin.facts import FactError

ROME, FT = SimpleNamespace(fact_token="subject_last"), SimpleNamespace(lr=1e-3)


@pytest.mark.parametrize("family", ["llama"])
def test_nse_is_given_the_whole_fact(new_model: Callable[[], Any], method_on: Callable[..., EasyEditRunner]) -> None:
    fact = Fact("Where is {}?", "Rome", "Peru", separator="\n", aliases=("Roma",), case_id=3)
    method = method_on(new_model(), "NSE")
    assert method.edit([fact])["case_id"].tolist() == [3]
    [written] = nse.state_of(method.model).history.written
    assert (written.text, written.target_new) == (fact.text, fact.target_new)
    assert (written.separator, written.aliases) == (fact.separator, fact.aliases)


@pytest.mark.parametrize(("hparams", "prompt"), [(ROME, "The capital of {} is"), (FT, "The capital of France is")])
def test_algorithms_that_look_the_subject_up_are_given_its_place(hparams, prompt):
    fact = Fact("The capital of {} is", "France", " Lyon", "Paris", case_id=3)
    assert request_of(fact, hparams) == {
        "prompt": prompt, "subject": "France", "target_new": "Lyon", "ground_truth": "Paris", "case_id": 3,
    }  # fmt: skip
    assert request_of(Fact("{} is", "Rome", "old"), hparams)["ground_truth"] == "<|endoftext|>"


def test_tokenizers_are_padded_copies():
    own = tiny_tokenizer(bos=True)
    padded = padded_tokenizer(own, "FT", "left")
    assert (padded.padding_side, padded.pad_token, padded.unk_token) == ("left", "<s>", "<s>")
    own.pad_token = None
    assert padded_tokenizer(own, "ROME", "right").pad_token == "<s>"
    assert (own.padding_side, own.pad_token, own.unk_token) == ("right", None, None)


def test_requests_as_texts():
    given = [{"prompt": "{} is in", "subject": "Rome", "target_new": "Italy", "separator": ""},
             {"prompt": "Rome is", "target_new": "old"}]  # fmt: skip
    assert prompts_and_targets(given) == [("Rome is in", "Italy", ""), ("Rome is", "old", " ")]
    for wrong, words in (
        ({"prompt": " ", "target_new": "Italy"}, "request 2: prompt is ' '"),
        ({"prompt": "Rome is", "target_new": None}, "request 2: target_new is None"),
        ({"prompt": "{} is", "target_new": "Italy"}, "request 2: subject is None.*so give it"),
    ):
        with pytest.raises(FactError, match=words):
            prompts_and_targets([*given, wrong])
