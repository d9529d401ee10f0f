"""`nse ask`: the model's texts before and after the edits."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from nse_plugin import EditSession


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
