"""`nse rollback` without the model, `nse retire` with it, and what `nse ask` hears before and after."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from nse_plugin import EditSession
from nse_plugin.cli import main
from nse_plugin.session.folder.opening import read_rounds


def weights(saved):
    model = AutoModelForCausalLM.from_pretrained(saved)
    with EditSession.open("session", model, AutoTokenizer.from_pretrained(saved)):
        return model.model.layers[2].mlp.down_proj.weight.detach().clone()


def test_undone_rounds_are_gone(edited, saved, capsys):
    first = read_rounds("session")[0]
    _, said = edited("rollback", model=False)
    assert "1 round undone" in said
    assert [one.id for one in read_rounds("session")] == [first.id]
    once = weights(saved)
    edited("edit", "--facts", "facts.json", "--skip", 1, "--limit", 2)
    assert not torch.equal(weights(saved), once)
    edited("rollback", "--to", first.id[:6], model=False)
    assert torch.equal(weights(saved), once)
    assert main(["rollback", "--session", "session", "--rounds", "2"]) == 1
    assert "--rounds 2 cannot be undone: 1 stand" in capsys.readouterr().err


def test_a_retired_fact_was_never_written(edited, saved, capsys):
    _, said = edited("retire", "7")
    assert "1 fact retired; 1 round made again, 2 of 2 stand." in said
    assert [fact.case_id for one in read_rounds("session") for fact in one.facts] == ["lyon", 2]
    assert main(["retire", "--model", saved, "--session", "session", "nobody"]) == 1
    assert "'nobody'" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["json", "table"])
def test_before_and_after(form, edited, saved):
    asked = ["The capital of France is", "--tokens", 3]
    if form == "table":
        assert "The capital of France is" in edited("ask", *asked)[1]
        return
    (row,) = json.loads(edited("ask", *asked, "--json")[1])
    model, tokenizer = AutoModelForCausalLM.from_pretrained(saved), AutoTokenizer.from_pretrained(saved)
    ids = tokenizer(asked[0], return_tensors="pt")
    for which in ("before", "after"):
        with torch.no_grad():
            text = ids.input_ids
            for _ in range(3):
                text = torch.cat([text, model(input_ids=text).logits[:, -1:].argmax(-1)], dim=1)
        answer = text[0, ids.input_ids.shape[1] :].tolist()
        if tokenizer.eos_token_id in answer:
            answer = answer[: answer.index(tokenizer.eos_token_id)]
        assert row[which] == tokenizer.decode(answer)
        session = EditSession.open("session", model, tokenizer)
        session.close()
