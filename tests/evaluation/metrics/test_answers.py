"""Whole answers: where they end, when one equals a target, and the scores of an edited and an unedited model."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest
import torch
from next_word import Written, chain
from tiny import tiny_model, tiny_tokenizer

from nse_plugin.evaluation.metrics.answers import METRICS, TOKENS, scores, stopped, whole_answers
from nse_plugin.evaluation.metrics.generation import begins
from nse_plugin.facts import Fact


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (" Lyon. It lies in France.", "Lyon"),
        (" Lyon\nQ: and Rome?", "Lyon"),
        (" Lyon", "Lyon"),
        (" Lyon, in France! Yes. No", "Lyon, in France! Yes"),
        (" St. Louis", "St"),
        ("\n\nLyon", ""),
        (". Lyon", ""),
        ("", ""),
    ],
)
def test_an_answer_ends_at_the_first_full_stop_or_newline(text: str, answer: str) -> None:
    assert stopped(text) == answer


@pytest.mark.parametrize(
    ("answer", "exact", "begun"),
    [
        ("United States", 1, 1),
        ("the  united states!", 1, 1),
        ("An United, States", 1, 1),
        ("United States of America", 0, 1),
        ("United Statesmen", 0, 0),
        ("the United", 0, 0),
        ("in the United States", 0, 0),
        ("", 0, 0),
    ],
)
def test_a_whole_answer_is_the_target_and_nothing_else(answer: str, exact: int, begun: int) -> None:
    fact = Fact("{} lies in", "Ohio", "The United States")
    found = scores(fact, answer, answer, "")
    assert found == {"answer_exact": exact, "answer_rephrase_exact": exact / 2, "answer_begins": begun}


@pytest.mark.parametrize(("text", "target", "found"), [("北京市", "北京", True), ("Paris2", "Paris", False)])
def test_begins_ends_at_a_word(text: str, target: str, found: bool) -> None:
    assert begins(text, target) is found


def test_frames_by_hand(tokenizer: Any) -> None:
    following = {**chain("is Los Angeles . we saw"), **chain("in Lima Peru <end>"), **chain("boat red boat")}
    facts = [
        Fact("{} is", "France", "Los Angeles", rephrase_prompts=("Peru is", "France is in")),
        Fact("{} is in", "Rome", "Lima"),  # it goes on talking
        Fact("{} red", "Italy", "boat"),  # nothing ends it
    ]
    frame, texts = whole_answers(Written(tokenizer.get_vocab(), following), tokenizer, facts)
    assert tuple(frame) == METRICS
    assert frame["answer_exact"].tolist() == [1, 0, 0]
    assert frame["answer_rephrase_exact"].tolist() == pytest.approx([1 / 2, math.nan, math.nan], nan_ok=True)
    assert frame["answer_begins"].tolist() == [1, 1, 1]
    assert texts["fact"].tolist() == [0, 0, 0, 1, 2]
    assert texts["prompt"].tolist() == ["France is", "Peru is", "France is in", "Rome is in", "Italy red"]
    assert texts["text"][0].split()[:5] == ["Los", "Angeles", ".", "we", "saw"]  # and what follows the stop
    endless = " ".join(["boat", "red"] * 16)
    assert texts["text"].map(stopped).tolist() == ["Los Angeles", "Los Angeles", "Lima Peru", "Lima Peru", endless]


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_batching_answers_what_one_row_without_cache_answers(kind: str) -> None:
    model, tokenizer = tiny_model(kind), tiny_tokenizer()
    facts = [Fact("{} is", "Rome", "Lyon", rephrase_prompts=("Marie Curie",)), Fact("The town of {}", "Japan", "Rome")]
    _, texts = whole_answers(model, tokenizer, facts)
    expected = []
    for prompt in texts["prompt"]:
        ids, written = tokenizer(prompt)["input_ids"], []
        while len(written) < TOKENS and tokenizer.eos_token_id not in written:
            written.append(int(model(torch.tensor([ids + written])).logits[0, -1].argmax()))
        expected.append(tokenizer.decode(written, skip_special_tokens=True))
    assert texts["text"].tolist() == expected
    assert all(expected)
    for more in ({"tokens_per_batch": 1}, {"tokenizer": tiny_tokenizer(padding_side="left")}):
        _, again = whole_answers(**{"model": model, "tokenizer": tokenizer, "facts": facts, **more})
        pd.testing.assert_frame_equal(again, texts)


def test_a_model_before_and_after_an_edit(tokenizer: Any) -> None:
    ids = tokenizer.get_vocab()
    model = Written(ids, chain("is Paris in France . we saw") | chain("Lima in"))
    facts = [Fact("{} is", "Peru", "Lima", rephrase_prompts=("Rome is",))]
    assert whole_answers(model, tokenizer, facts)[0].to_numpy().tolist() == [[0, 0, 0]]
    with torch.no_grad():
        model.embedding.weight[ids["is"], ids["Lima"]] = 0.0  # log 1
    assert whole_answers(model, tokenizer, facts)[0].to_numpy().tolist() == [[0, 0, 1]]
    with torch.no_grad():  # and after that, nothing else
        model.embedding.weight[ids["Lima"], ids["<end>"]] = 0.0
    assert whole_answers(model, tokenizer, facts)[0].to_numpy().tolist() == [[1, 1, 1]]


def test_no_facts_write_nothing(tokenizer: Any) -> None:
    frame, texts = whole_answers(Written(tokenizer.get_vocab(), {}), tokenizer, [])
    assert (len(frame), len(texts)) == (0, 0)
    assert tuple(frame) == METRICS
