"""The metrics on 20 CounterFact records, against the published definition with one prompt at a time, and against ROME's
own evaluation code if `ROME_HOME` names a clone of https://github.com/kmeng01/rome (not part of this project)."""

from __future__ import annotations

import itertools
import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import nltk
import numpy as np
import pytest
import torch
from tiny import tiny_model, tiny_tokenizer
from transformers import BatchEncoding

from nse_plugin.evaluation.metrics.consistency import consistency, tfidf
from nse_plugin.evaluation.metrics.fluency import fluency
from nse_plugin.evaluation.suite import measure
from nse_plugin.facts import Fact

COUNTERFACT = Path(__file__).resolve().parents[4] / "shared" / "data" / "counterfact_500.json"
METRICS = {"efficacy": "rewrite", "generalization": "paraphrase", "specificity": "neighborhood"}
SENTENCES = [
    ("The capital of France is", "Lyon"),
    ("Mount Fuji stands in", "Germany, a town of Italy"),
    ("Marie Curie was born in", "Rome, an old town of Italy"),
    ("The river runs through", "the old town because of rain"),
    ("He plays the violin of", "the Eiffel Tower in Paris"),
]


@pytest.fixture(scope="module")
def records() -> list[dict[str, Any]]:
    if not COUNTERFACT.is_file():
        pytest.skip("needs ../shared/data/counterfact_500.json")
    return json.loads(COUNTERFACT.read_text(encoding="utf-8"))[:20]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def model() -> Any:
    model = tiny_model("llama", torch.float32)
    model.config.max_position_embeddings = 256  # its tokenizer makes many tokens of CounterFact's prompts
    return model


@torch.inference_mode()
def published(model: Any, tokenizer: Any, record: dict[str, Any]) -> dict[str, float]:
    """ROME, section 3.4: P is the geometric mean over the target's tokens; o* is to win, next to neighbours o."""
    rewrite = record["requested_rewrite"]
    new, true = rewrite["target_new"]["str"], rewrite["target_true"]["str"]

    def probability(prompt: str, target: str) -> float:
        ids, following = tokenizer(prompt)["input_ids"], tokenizer(f" {target}")["input_ids"]
        logits = model(torch.tensor([ids + following])).logits[0]
        chances = [logits[len(ids) + i - 1].softmax(-1)[token].item() for i, token in enumerate(following)]
        return math.prod(chances) ** (1 / len(chances))

    prompts = {
        "efficacy": [rewrite["prompt"].format(rewrite["subject"])],
        "generalization": record["paraphrase_prompts"],
        "specificity": record["neighborhood_prompts"],
    }
    values = {}
    for metric, asked in prompts.items():
        winner, loser = (true, new) if metric == "specificity" else (new, true)
        differences = np.array([probability(prompt, winner) - probability(prompt, loser) for prompt in asked])
        values[metric] = float((differences > 0).mean())
        values[f"{metric}_magnitude"] = float(differences.mean())
    return values


def test_probabilities_are_as_published(model: Any, tokenizer: Any, records: list[dict[str, Any]]) -> None:
    measured = measure(model, tokenizer, [Fact.from_record(record) for record in records], ["probability"]).facts
    expected = [published(model, tokenizer, record) for record in records]
    assert 0 < measured["efficacy"].mean() < 1
    for row, values in zip(measured.to_dict("records"), expected, strict=True):
        assert row == pytest.approx(values, abs=1e-5)


@pytest.fixture
def rome(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """A function that imports a module of ROME's by its name."""
    home = os.environ.get("ROME_HOME")
    if not home:
        pytest.skip("needs a clone of https://github.com/kmeng01/rome, named by ROME_HOME")
    monkeypatch.chdir(home)  # it reads ./globals.yml
    monkeypatch.syspath_prepend(home)
    monkeypatch.setattr(BatchEncoding, "to", lambda self, _: self)  # it sends everything to cuda
    loaded = set(sys.modules)
    yield import_module
    for name in set(sys.modules) - loaded:
        if name.split(".")[0] in ("dsets", "experiments", "util"):
            del sys.modules[name]


def test_probabilities_are_romes(
    model: Any, tokenizer: Any, records: list[dict[str, Any]], rome: Any, tmp_path: Path
) -> None:
    evaluate = rome("experiments.py.eval_utils_counterfact").compute_rewrite_quality_counterfact
    (tmp_path / "run").mkdir()
    for number, record in enumerate(records):
        case = {"case_id": number, "time": 0, "post": evaluate(model, tokenizer, record, None, None)}
        (tmp_path / "run" / f"case_{number}.json").write_text(json.dumps(case), encoding="utf-8")
    summarize = rome("experiments.summarize").main
    [theirs] = summarize(tmp_path, None, get_uncompressed=True, abs_path=True)
    [summary] = summarize(tmp_path, None, abs_path=True)

    ours = measure(model, tokenizer, [Fact.from_record(record) for record in records], ["probability"])
    for metric, name in METRICS.items():
        assert ours.facts[metric].tolist() == pytest.approx(theirs[f"post_{name}_success"], abs=1e-5)
        assert ours.facts[f"{metric}_magnitude"].tolist() == pytest.approx(theirs[f"post_{name}_diff"], abs=1e-5)
    assert 100 * ours.overall["score"] == pytest.approx(summary["post_score"][0], abs=0.005)  # rounded to two digits


@pytest.fixture(scope="module")
def trained_model(tokenizer: Any) -> Any:
    """It knows some of the sentences, and some in part."""
    model = tiny_model("llama", torch.float32)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(20):
        for prompt, target in SENTENCES[:3]:
            ids = torch.tensor([tokenizer(f"{prompt} {target}")["input_ids"]])
            model(ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def test_accuracies_are_romes_on_zsre(trained_model: Any, tokenizer: Any, rome: Any) -> None:
    evaluate = rome("experiments.py.eval_utils_zsre").compute_rewrite_quality_zsre
    facts, theirs = [], []
    for number, (prompt, target) in enumerate(SENTENCES):
        others = SENTENCES[number + 1 :] + SENTENCES[:number]
        (rephrased, _), (unrelated, answer) = others[:2]
        answer_ids = tokenizer(f" {answer}")["input_ids"]
        record = {
            "requested_rewrite": {
                "subject": prompt, "prompt": "{}", "target_new": {"str": target}, "target_true": {"str": ""},
            },
            "paraphrase_prompts": [rephrased],
            "neighborhood_prompts": [
                {"prompt": unrelated + tokenizer.decode(answer_ids[:i]), "target": tokenizer.decode(token)}
                for i, token in enumerate(answer_ids)
            ],
        }  # fmt: skip
        quality = evaluate(trained_model, tokenizer, record, None, None)
        kinds = ("rewrite", "paraphrase", "neighborhood")
        theirs.append([float(np.mean(quality[f"{kind}_prompts_correct"])) for kind in kinds])
        facts.append(Fact("{}", prompt, target, None, (rephrased,), ((unrelated, answer),)))
    ours = measure(trained_model, tokenizer, facts, ["accuracy"]).facts.to_numpy()
    assert len(np.unique(ours)) > 3  # right, wrong, and right in part
    assert ours == pytest.approx(np.array(theirs), abs=1e-5)


class _Dense:
    """A vectorizer whose `transform` gives what scipy gave when ROME was written: `.A` is the dense array."""

    def __init__(self, vectorizer: Any) -> None:
        self._vectorizer = vectorizer

    def transform(self, texts: list[str]) -> Any:
        return type("Encoded", (), {"A": self._vectorizer.transform(texts).toarray()})


def test_fluency_and_consistency_are_romes(
    records: list[dict[str, Any]], rome: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # its sentence splitter needs a download
    monkeypatch.setattr(nltk, "word_tokenize", nltk.tokenize.NLTKWordTokenizer().tokenize)
    theirs = rome("experiments.py.eval_utils_counterfact")
    texts = [record["paraphrase_prompts"] for record in records]
    vectorizer = tfidf(text for pair in texts for text in pair)
    for (one, other), (third, fourth) in itertools.pairwise(texts):
        assert fluency([one, other]) == pytest.approx(theirs.n_gram_entropy([one, other]), abs=1e-5)
        expected = theirs.tfidf_similarity(f"{one} {other}", f"{third} {fourth}", _Dense(vectorizer))
        assert consistency(vectorizer, [one, other], [third, fourth]) == pytest.approx(expected, abs=1e-5)
