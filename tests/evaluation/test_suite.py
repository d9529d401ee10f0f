from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest

from nse_plugin.evaluation.metrics.answers import whole_answers
from nse_plugin.evaluation.metrics.chat import Chat, answered
from nse_plugin.evaluation.metrics.consistency import consistency, tfidf
from nse_plugin.evaluation.metrics.fluency import continuations, fluency
from nse_plugin.evaluation.metrics.generation import Generation, free_generation
from nse_plugin.evaluation.metrics.judge import Judge, JudgeError
from nse_plugin.evaluation.metrics.locality import locality_drift, locality_reference
from nse_plugin.evaluation.metrics.perplexity import perplexity
from nse_plugin.evaluation.metrics.probability import harmonic_mean, score_facts
from nse_plugin.evaluation.suite import FAMILIES, measure
from nse_plugin.facts import Fact, FactError

TEXT = "The capital of Peru is Lima . we saw a red boat in Los Angeles ."
FAMILIES_OF_TWO = ("accuracy", "generation")
SHARED = ("France is in", "Paris")
FACTS = [
    Fact(
        "The capital of {} is", "France", "Rome", "Paris", ("France is",), (("Peru is", "Lima"), SHARED),
        generation_prompts=("France is in", "we saw France"), portability_prompts=(("we saw", "Paris"),),
        reference_texts=("Rome is a city", "Lima"),
    ),
    Fact("The capital of {} is", "Italy", "Los Angeles", "Rome", locality_prompts=(SHARED,)),
    Fact("{} is in", "Lima", "Italy", "Peru", ("we saw Lima in",), reference_texts=("a red boat in Rome",),
         reversal_prompts=(("Italy is in", "Lima"),)),
    Fact("{} is in", "Paris", "Peru", "France", reference_texts=("Paris is a city in Peru",)),
]  # fmt: skip


@pytest.fixture
def reference(model: Any, tokenizer: Any) -> Any:
    return locality_reference(model, tokenizer, FACTS)


def test_each_family_is_what_it_is_alone(model: Any, tokenizer: Any, reference: Any) -> None:
    measured = measure(model, tokenizer, FACTS, FAMILIES, reference=reference, text=TEXT)
    assert list(measured.facts) == [name for names in FAMILIES.values() for name in names if name != "perplexity"]
    expected = score_facts(model, tokenizer, FACTS).drop(columns="case_id")
    pd.testing.assert_frame_equal(measured.facts[list(expected)], expected, atol=1e-6)
    drift = locality_drift(reference, model, tokenizer, FACTS).drop(columns="case_id")
    pd.testing.assert_frame_equal(measured.facts[list(drift)], drift, atol=1e-6)
    assert measured.facts["rewrite_accuracy"].notna().all()

    frame, freely = free_generation(model, tokenizer, FACTS)
    pd.testing.assert_frame_equal(measured.facts[list(frame)], frame)
    written, whole, answers, told = (
        measured.texts[first:last] for first, last in ((0, 5), (5, 11), (11, 17), (17, 21))
    )
    assert len(measured.texts) == 21
    assert answers["fact"].tolist() == freely["fact"].tolist()
    assert answers["text"].tolist() == list(freely["prompt"] + " " + freely["text"])
    frame, own = whole_answers(model, tokenizer, FACTS)
    pd.testing.assert_frame_equal(measured.facts[list(frame)], frame)
    assert whole["fact"].tolist() == own["fact"].tolist()
    assert whole["text"].tolist() == list(own["prompt"] + " " + own["text"])
    frame, replies = answered(model, tokenizer, FACTS, Chat().frame(tokenizer))
    pd.testing.assert_frame_equal(measured.facts[list(frame)], frame)
    prompts = [f"{fact.text} (in a chat)" for fact in FACTS]
    assert told["text"].tolist() == [" ".join(pair) for pair in zip(prompts, replies, strict=True)]
    assert (told["fact"].tolist(), told["prompt"].tolist()) == ([0, 1, 2, 3], prompts)

    assert written["fact"].tolist() == [0, 0, 1, 2, 3]
    assert written["prompt"].tolist() == ["France is in", "we saw France", *(fact.text for fact in FACTS[1:])]
    texts = continuations(model, tokenizer, written["prompt"].tolist())
    assert written["text"].tolist() == texts
    assert measured.facts["fluency"].tolist() == pytest.approx(
        [fluency(texts[:2]), *(fluency([text]) for text in texts[2:])]
    )
    vectorizer = tfidf(document for fact in FACTS for document in fact.reference_texts)
    assert measured.facts["consistency"][0] == pytest.approx(
        consistency(vectorizer, texts[:2], FACTS[0].reference_texts)
    )
    assert math.isnan(measured.facts["consistency"][1])  # it has no reference texts

    assert measured.facts[list(FAMILIES["subjects"])].isna().all(axis=None)  # nothing was written
    means = measured.facts.mean().dropna().to_dict()
    score = harmonic_mean(means["efficacy"], means["generalization"], means["specificity"])
    assert measured.overall == pytest.approx(
        {**means, "score": score, "perplexity": perplexity(model, tokenizer, TEXT)}
    )


def test_the_teacher_forced_families_share_one_pass(
    model: Any, tokenizer: Any, reference: Any, rows_read: list[list[int]]
) -> None:
    measure(model, tokenizer, FACTS, ["probability"])
    alone = len(rows_read)
    measure(model, tokenizer, FACTS, ["probability", "accuracy", "locality", "subjects"], reference=reference)
    assert len(rows_read) == 2 * alone
    rows_read.clear()
    measure(model, tokenizer, FACTS, ["accuracy", "chat"], chat=Chat(facts=0))
    both = len(rows_read)
    for family in ("accuracy", "chat"):
        measure(model, tokenizer, FACTS, [family], chat=Chat(facts=0))
    assert len(rows_read) == 2 * both


def test_only_the_families_asked_for(model: Any, tokenizer: Any, rows_read: list[list[int]]) -> None:
    measured = measure(model, tokenizer, FACTS, ["accuracy"])
    assert tuple(measured.facts) == FAMILIES["accuracy"]
    assert measured.overall.keys() == set(FAMILIES["accuracy"])
    assert measured.texts.empty
    read = len(rows_read)
    assert measure(model, tokenizer, FACTS, ["perplexity"], text=TEXT).overall.keys() == {"perplexity"}
    assert len(rows_read) == read + 1


def test_what_no_fact_has_is_absent(model: Any, tokenizer: Any) -> None:
    facts = [Fact("{} is in", "Lima", "Italy", "Peru")]
    measured = measure(model, tokenizer, facts, ["probability", "consistency"])
    assert measured.facts["consistency"].isna().all()
    assert measured.overall.keys() == {"efficacy", "efficacy_magnitude"}


def test_a_checkpoint_is_the_first_rows_of_the_whole(model: Any, tokenizer: Any, reference: Any) -> None:
    whole = measure(model, tokenizer, FACTS, FAMILIES, reference=reference, text=TEXT, fluency_facts=2, seed=5)
    asked = [0, 0, 1, 2, 2, 3]  # by answers, and by generation; before them fluency, after them a chat
    assert whole.texts["fact"].tolist() == [0, 0, 2, *asked, *asked, 0, 1, 2, 3]
    assert whole.facts["fluency"].isna().tolist() == [False, True, False, True]
    for edited in (1, 3):
        part = measure(
            model,
            tokenizer,
            FACTS,
            FAMILIES,
            rounds=[1] * edited,
            reference=reference,
            text=TEXT,
            fluency_facts=2,
            seed=5,
        )
        pd.testing.assert_frame_equal(part.facts, whole.facts[:edited], atol=1e-6)
        expected = whole.texts[whole.texts["fact"] < edited].reset_index(drop=True)
        pd.testing.assert_frame_equal(part.texts, expected)


def test_some_of_the_facts_generate(model: Any, tokenizer: Any) -> None:
    """The second and fourth of the four do not; at a checkpoint the same ones do."""
    for rounds, rows in ((None, [0, 2]), ([1, 1], [0])):
        measured = measure(model, tokenizer, FACTS, ["generation"], rounds=rounds, generation=Generation(facts=2))
        alone, _ = free_generation(model, tokenizer, [FACTS[row] for row in rows])
        assert measured.facts["generation_exact"].dropna().index.tolist() == rows
        pd.testing.assert_frame_equal(measured.facts.loc[rows].reset_index(drop=True), alone)
        assert sorted(set(measured.texts["fact"])) == rows
        whole = measure(model, tokenizer, FACTS, ["answers"], rounds=rounds, answers_facts=2)
        assert whole.facts["answer_exact"].dropna().index.tolist() == sorted(set(whole.texts["fact"])) == rows
        asked = measure(model, tokenizer, FACTS, ["chat"], rounds=rounds, chat=Chat(facts=2))
        assert asked.facts["chat_states_new"].dropna().index.tolist() == rows
        assert asked.facts["chat_first_token"].notna().all()


def test_generation_is_checked_before_anything_is_measured(
    model: Any, tokenizer: Any, rows_read: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_KEY", raising=False)
    monkeypatch.setattr(tokenizer, "chat_template", None)
    with pytest.raises(ValueError, match="no chat template"):
        measure(model, tokenizer, FACTS, FAMILIES_OF_TWO, generation=Generation(chat=True))
    with pytest.raises(FactError, match="metrics has chat, and .* no chat template: leave chat out of metrics"):
        measure(model, tokenizer, FACTS, ["accuracy", "chat"])
    with pytest.raises(FactError, match="metrics.chat.template is 'loud', and .* no chat template 'loud'"):
        measure(model, tokenizer, FACTS, ["accuracy", "chat"], chat=Chat("loud"))
    with pytest.raises(JudgeError):
        measure(model, tokenizer, FACTS, FAMILIES_OF_TWO, generation=Generation(judge=Judge("m", key="NO_KEY")))
    assert rows_read == []


def test_the_seed_decides_the_texts(model: Any, tokenizer: Any) -> None:
    one, other = (measure(model, tokenizer, FACTS, ["fluency"], seed=seed).texts["text"] for seed in (0, 1))
    assert (one != other).any()


@pytest.mark.parametrize(
    ("families", "message"),
    [
        (["probabilty"], "families: 'probabilty' is unknown; did you mean 'probability'?"),
        (["zzz"], "families: 'zzz' is unknown; there are probability, accuracy"),
        (["locality"], "reference is None: locality needs it"),
        (["perplexity"], "text is None: perplexity needs it"),
    ],
)
def test_what_is_missing_is_named(model: Any, tokenizer: Any, families: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        measure(model, tokenizer, FACTS, families)


def test_no_facts_are_refused(model: Any, tokenizer: Any) -> None:
    with pytest.raises(FactError, match="facts is empty"):
        measure(model, tokenizer, [], ["accuracy"])
