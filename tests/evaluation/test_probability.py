from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from nse_plugin.evaluation.probability import mean_log_probabilities, mean_scores, score_facts
from nse_plugin.facts import Fact, FactError

PAIRS = [
    ("The capital of France is", "Paris"),
    ("The capital of France is", "Rome"),
    ("The capital of France is", "Los Angeles"),
    ("we saw a red boat in Los Angeles . The capital of Peru is", "Lima"),
    ("Peru", "is in Rome"),
]


def one_by_one(model: Any, tokenizer: Any, prompt: str, target: str) -> float:
    """The definition, with one unpadded pass over prompt and target."""
    ids = tokenizer(f"{prompt} {target}")["input_ids"]
    count = len(target.split())
    logprobs = model(torch.tensor([ids])).logits[0].detach().log_softmax(-1)
    return float(sum(logprobs[i - 1, ids[i]] for i in range(len(ids) - count, len(ids))) / count)


class NextWord(torch.nn.Module):
    """By hand: after "is", P(Paris) = 1/2, P(Los) = 1/4; after "Los", P(Angeles) = 1/16."""

    def __init__(self, ids: dict[str, int]) -> None:
        super().__init__()
        table = torch.zeros(len(ids), len(ids))
        spread = len(ids) - 1
        for word, following in {"is": {"Paris": 1 / 2, "Los": 1 / 4}, "Los": {"Angeles": 1 / 16}}.items():
            table[ids[word]] = (1 - sum(following.values())) / (spread + 1 - len(following))
            for other, probability in following.items():
                table[ids[word], ids[other]] = probability
        self.embedding = torch.nn.Embedding.from_pretrained(table.log())

    def get_input_embeddings(self) -> torch.nn.Embedding:
        return self.embedding

    def forward(self, input_ids: torch.Tensor, logits_to_keep: torch.Tensor, **_: Any) -> Any:
        return type("Out", (), {"logits": self.embedding(input_ids)[:, logits_to_keep]})


def test_log_probabilities_by_hand(tokenizer: Any) -> None:
    model = NextWord(tokenizer.get_vocab())
    pairs = [("The city is", "Paris"), ("The city is ", " Los Angeles"), ("Peru is", "Los")]
    found = mean_log_probabilities(model, tokenizer, pairs)
    expected = [math.log(1 / 2), (math.log(1 / 4) + math.log(1 / 16)) / 2, math.log(1 / 4)]
    assert found.tolist() == pytest.approx(expected, abs=1e-6)


def test_each_pair_as_if_it_were_alone(model: Any, tokenizer: Any) -> None:
    expected = [one_by_one(model, tokenizer, *pair) for pair in PAIRS]
    for tokens_per_batch in (1, 12, 10_000):
        found = mean_log_probabilities(model, tokenizer, PAIRS, tokens_per_batch)
        assert found.tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_tokenizers_padding_plays_no_part(model: Any, tokenizer: Any, side: str) -> None:
    expected = mean_log_probabilities(model, tokenizer, PAIRS)
    tokenizer.padding_side = side
    assert torch.equal(mean_log_probabilities(model, tokenizer, PAIRS), expected)


def test_one_token_targets_of_a_prompt_share_their_row(model: Any, tokenizer: Any) -> None:
    rows = []
    handle = model.register_forward_pre_hook(
        lambda _, args, kwargs: rows.extend(kwargs["input_ids"].tolist()), with_kwargs=True
    )
    mean_log_probabilities(model, tokenizer, PAIRS)
    handle.remove()
    assert len(rows) == len(PAIRS) - 1


def test_the_model_is_left_as_it_was(model: Any, tokenizer: Any) -> None:
    model.train()
    mean_log_probabilities(model, tokenizer, PAIRS)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    model.eval()


def test_scores_by_hand(tokenizer: Any) -> None:
    model = NextWord(tokenizer.get_vocab())  # after "is": Paris, then Los, then all others alike
    won = Fact(
        "The capital of {} is", "Italy", target_new="Paris", target_true="Rome", case_id="a",
        rephrase_prompts=("we saw Italy . Italy is", "we saw Los"),  # a tie does not win
        locality_prompts=(("France is", "Los"), ("France is", "Paris"), ("Peru is", "Rome")),  # Paris wins
    )  # fmt: skip
    lost = Fact(
        "The capital of {} is", "France", target_new="Rome", target_true="Paris", case_id="b",
        locality_prompts=(("Peru is", "Paris"), ("Peru is", "Los"), ("Peru is", "Lima"), ("Los", "Angeles")),
    )  # fmt: skip
    frame = score_facts(model, tokenizer, [won, lost])
    assert list(frame.columns) == ["case_id", "efficacy", "generalization", "specificity"]
    assert frame["case_id"].tolist() == ["a", "b"]
    assert frame.iloc[0, 1:].tolist() == [1.0, 0.5, 0.0]
    assert frame["efficacy"].tolist() == [1.0, 0.0]
    assert math.isnan(frame["generalization"][1])
    # Paris and Los beat Rome after "is"; Lima ties with it; after "Los", Angeles (1/16) beats Rome
    assert frame["specificity"][1] == 3 / 4
    assert mean_scores(frame) == {"efficacy": 0.5, "generalization": 0.5, "specificity": 0.375}


def test_a_fact_without_a_true_target_is_refused(model: Any, tokenizer: Any) -> None:
    with pytest.raises(FactError, match="fact 7: target_true is None"):
        score_facts(model, tokenizer, [Fact("{} is", "Peru", "Lima", case_id=7)])


def test_no_facts_are_refused(model: Any, tokenizer: Any) -> None:
    with pytest.raises(FactError, match="facts is empty"):
        score_facts(model, tokenizer, [])
