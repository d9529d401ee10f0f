"""Multiple-choice questions against one forward pass per question, and item by item against lm-evaluation-harness."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from task_files import LETTERS, questions, task_file
from tiny import tiny_model, tiny_tokenizer

from nse_plugin.evaluation.ability.multiple_choice import (
    LOG_PROBABILITIES,
    Question,
    QuestionError,
    accuracy,
    answer_questions,
    kept,
    read_questions,
)
from nse_plugin.evaluation.intervals import wilson

GOOD = {"question": "Where is Lyon?", "subject": "towns", "choices": ["Italy", "France", "Japan", "Rome"], "answer": 1}


def by_hand(model: Any, tokenizer: Any, question: Question, positions: int) -> list[float]:
    """The definition: one unpadded pass a letter, over the last `positions` tokens."""
    found = []
    for letter in LETTERS:
        text = (
            f"The following are multiple choice questions (with answers) about {question.subject.replace('_', ' ')}."
            f"\n\n{question.question.strip()}\nA. {question.choices[0]}\nB. {question.choices[1]}"
            f"\nC. {question.choices[2]}\nD. {question.choices[3]}\nAnswer:"
        )
        before = len(tokenizer(text)["input_ids"])
        ids = tokenizer(f"{text} {letter}")["input_ids"]
        count = len(ids) - before
        row = ids[:-1][-positions:]
        logs = model(torch.tensor([row])).logits[0].detach().double().log_softmax(-1)[-count:]
        found.append(sum(float(logs[i, token]) for i, token in enumerate(ids[-count:])))
    return found


@pytest.fixture(params=["a token a letter", "two tokens a letter", "BOS, and too long"])
def asked(request: Any) -> tuple[Any, Any, int]:
    """A model, a tokenizer, and how many positions the model has."""
    tokenizer = tiny_tokenizer(bos=request.param.startswith("BOS"))
    positions = 64 if tokenizer("")["input_ids"] else 512
    if request.param.startswith("a token"):
        tokenizer.add_tokens([f" {letter}" for letter in LETTERS])
    model = tiny_model("llama", torch.float64)
    model.resize_token_embeddings(len(tokenizer) + 8, mean_resizing=False)
    with torch.no_grad():  # rows that were added too
        torch.manual_seed(1)
        model.lm_head.weight.normal_(std=0.3)
        model.model.embed_tokens.weight.normal_(std=0.3)
    model.config.max_position_embeddings = positions
    return model, tokenizer, positions


@pytest.mark.parametrize("tokens_per_batch", [1, 10_000])
def test_as_one_pass_a_letter_by_hand(asked: tuple[Any, Any, int], tokens_per_batch: int) -> None:
    model, tokenizer, positions = asked
    found = answer_questions(model, tokenizer, questions(), tokens_per_batch)
    expected = np.array([by_hand(model, tokenizer, question, positions) for question in questions()])
    assert found[LOG_PROBABILITIES].to_numpy() == pytest.approx(expected, abs=1e-5)
    assert list(found["chosen"]) == list(expected.argmax(axis=1))
    assert list(found["correct"]) == [row.argmax() == q.answer for row, q in zip(expected, questions(), strict=True)]
    assert list(found["subject"]) == [question.subject for question in questions()]
    assert len(set(found["chosen"])) > 1  # else this model would agree with anything


def test_the_cases_are_what_they_say(asked: tuple[Any, Any, int]) -> None:
    _, tokenizer, positions = asked
    lengths = [len(tokenizer(question.prompt)["input_ids"]) for question in questions()]
    letter = len(tokenizer(" A", add_special_tokens=False)["input_ids"])
    if positions == 64:
        assert min(lengths) > positions
        assert tokenizer("")["input_ids"] == [0]
    else:
        assert max(lengths) < positions
        assert letter == (1 if " A" in tokenizer.get_vocab() else 2)


def test_letters_of_one_token_share_a_pass(asked: tuple[Any, Any, int]) -> None:
    model, tokenizer, _ = asked
    rows: list[Any] = []
    handle = model.register_forward_pre_hook(lambda _, args, kw: rows.extend(kw["input_ids"]), with_kwargs=True)
    answer_questions(model, tokenizer, questions())
    handle.remove()
    assert len(rows) == len(questions())  # " A" of two tokens is " " and "A": the rows are the same there too


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_tokenizers_padding_plays_no_part(side: str) -> None:
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    expected = answer_questions(model, tokenizer, questions())
    tokenizer.padding_side = side
    pd.testing.assert_frame_equal(answer_questions(model, tokenizer, questions()), expected)


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("positions", [64, 512])
def test_lm_evaluation_harness_answers_the_same_to_the_last_item(
    tmp_path: Any, monkeypatch: Any, bos: bool, positions: int
) -> None:
    lm_eval = pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed (extra `eval`)")
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    model, tokenizer = tiny_model("llama", torch.float32), tiny_tokenizer(bos=bos)
    model.config.max_position_embeddings = positions
    results = lm_eval.simple_evaluate(
        model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=3),
        tasks=[str(task_file(tmp_path))],
        task_manager=TaskManager(include_defaults=False),
    )
    items = sorted(results["samples"]["towns"], key=lambda item: item["doc_id"])
    ours = answer_questions(model, tokenizer, questions())
    assert [item["arguments"][0][0] for item in items] == [question.prompt for question in questions()]
    theirs = np.array([[float(likelihood) for likelihood, _ in item["filtered_resps"]] for item in items])
    assert ours[LOG_PROBABILITIES].to_numpy() == pytest.approx(theirs, abs=1e-4)
    assert list(ours["chosen"]) == list(theirs.argmax(axis=1))
    assert list(ours["correct"]) == [item["acc"] == 1.0 for item in items]
    [row] = accuracy(ours)[accuracy(ours)["subject"] == "all"].to_dict("records")
    assert row["accuracy"] == pytest.approx(results["results"]["towns"]["acc,none"])


# -- shares -------------------------------------------------------------------------------------------------------


def answers(chosen: list[int]) -> pd.DataFrame:
    """To four questions whose right answers are 0, 1, 2, 3."""
    frame = pd.DataFrame({"subject": ["law", "art", "law", "art"], "answer": [0, 1, 2, 3], "chosen": chosen})
    return frame.assign(correct=frame["chosen"] == frame["answer"])


def test_accuracy_by_subject_and_of_all() -> None:
    found = accuracy(answers([0, 1, 2, 0])).set_index("subject")
    assert list(found.index) == ["all", "art", "law"]
    assert list(found["n"]) == [4, 2, 2]
    assert list(found["accuracy"]) == [0.75, 0.5, 1.0]
    assert tuple(found.loc["law", ["low", "high"]]) == wilson(1.0, 2)


def test_kept_sees_what_accuracy_does_not() -> None:
    before, after = answers([1, 1, 1, 1]), answers([2, 2, 2, 2])
    assert accuracy(before)["accuracy"][0] == accuracy(after)["accuracy"][0] == 0.25
    assert list(kept(after, before)["kept"]) == [0.0, 0.0, 0.0]
    assert list(kept(before, before)["kept"]) == [1.0, 1.0, 1.0]
    found = kept(answers([1, 1, 0, 1]), before).set_index("subject")
    assert found["kept"].to_dict() == {"all": 0.75, "art": 1.0, "law": 0.5}
    assert tuple(found.loc["all", ["low", "high"]]) == wilson(0.75, 4)


def test_answers_to_other_questions_are_not_compared() -> None:
    with pytest.raises(QuestionError, match="3 answers cannot be compared with 4 of other questions: put the same"):
        kept(answers([0, 1, 2, 3])[:3], answers([0, 1, 2, 3]))


# -- files --------------------------------------------------------------------------------------------------------


def test_reading_a_file(tmp_path: Any) -> None:
    path = tmp_path / "own.json"
    path.write_text(json.dumps([GOOD, {**GOOD, "answer": 3, "more": "of no use"}]), encoding="utf-8")
    first, second = read_questions(path)
    assert first == Question("Where is Lyon?", "towns", ("Italy", "France", "Japan", "Rome"), 1)
    assert second.answer == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"choices": ["Italy", "France", "Japan"]}, ["choices = ['Italy', 'France', 'Japan'] are 3", "give four"]),
        ({"choices": "Italy"}, ["choices = 'Italy'", "four texts"]),
        ({"choices": [1, 2, 3, 4]}, ["choices = [1, 2, 3, 4]", "four texts"]),
        ({"answer": 4}, ["answer = 4", "0, 1, 2 or 3"]),
        ({"answer": -1}, ["answer = -1"]),
        ({"answer": "B"}, ["answer = 'B'", "0, 1, 2 or 3"]),
        ({"answer": True}, ["answer = True"]),
        ({"answer": 1.0}, ["answer = 1.0"]),
        ({"question": " "}, ["question = ' '", "give a text"]),
        ({"subject": None}, ["subject = None", "give a text"]),
        ({"choices": ["a", "\ud800", "", ""]}, ["'\\ud800' has half of a character", "write it whole"]),
    ],
)
def test_a_bad_entry_is_named(tmp_path: Any, change: dict[str, Any], words: list[str]) -> None:
    path = tmp_path / "own.json"
    path.write_text(json.dumps([GOOD, {**GOOD, **change}]), encoding="utf-8")
    with pytest.raises(QuestionError) as caught:
        read_questions(path)
    assert all(word in str(caught.value) for word in [f"{path}, entry 1 (counted from 0): ", *words]), caught.value


@pytest.mark.parametrize("field", GOOD)
def test_a_missing_field_is_named(tmp_path: Any, field: str) -> None:
    path = tmp_path / "own.json"
    path.write_text(json.dumps([{name: value for name, value in GOOD.items() if name != field}]), encoding="utf-8")
    with pytest.raises(
        QuestionError, match=f"own.json, entry 0 .counted from 0.: {field} is missing: give question, subject"
    ):
        read_questions(path)


def test_a_misspelt_field_is_named(tmp_path: Any) -> None:
    path = tmp_path / "own.json"
    path.write_text(json.dumps([{"choise" if name == "choices" else name: value for name, value in GOOD.items()}]))
    with pytest.raises(QuestionError, match=r"choices is missing, and there is no field 'choise': rename it"):
        read_questions(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is not JSON"),
        (b"[{", "is not JSON"),
        (b"[" * 100_000, "is not JSON .maximum recursion depth exceeded"),
        (b"[" + b"9" * 5000 + b"]", "is not JSON .Exceeds the limit"),
        (b"\xff\xfe[]", "is not JSON"),
        (b"[]", "holds an empty list: give a JSON list of one question or more"),
        (b'{"questions": []}', "holds a dict: give a JSON list"),
        (b'["Where is Lyon?"]', "entry 0 .counted from 0.: 'Where is Lyon[?]' is no question"),
    ],
)
def test_a_file_that_is_none(tmp_path: Any, content: bytes, words: str) -> None:
    path = tmp_path / "own.json"
    path.write_bytes(content)
    with pytest.raises(QuestionError, match=f"own.json.*{words}"):
        read_questions(path)


def test_no_file(tmp_path: Any) -> None:
    with pytest.raises(
        QuestionError, match="nowhere.json cannot be read .No such file or directory.: give a JSON file"
    ):
        read_questions(tmp_path / "nowhere.json")


def test_the_models_answers_are_probabilities() -> None:
    found = answer_questions(tiny_model("gpt2"), tiny_tokenizer(), questions())
    assert (found[LOG_PROBABILITIES].to_numpy() < 0).all()
    assert math.isfinite(found[LOG_PROBABILITIES].to_numpy().sum())
