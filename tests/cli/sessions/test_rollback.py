"""`nse rollback` without the model, `nse retire` with it, and the output of `nse ask` before and after."""

from __future__ import annotations

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
    assert "--rounds 2 cannot be undone: the session has 1." in capsys.readouterr().err
