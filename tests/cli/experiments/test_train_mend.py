"""`nse train-mend`: its options, and what it passes to the training."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from nse_plugin.cli import main
from nse_plugin.experiments.plan import model as plan_model


@pytest.fixture
def facts(tmp_path):
    path = tmp_path / "facts.json"
    record = {"prompt": "{} is in", "target_new": "Peru", "locality_prompts": [["Rome is in", "Italy"]]}
    path.write_text(json.dumps([{**record, "subject": f"Town {number}"} for number in range(9)]))
    return str(path)


def test_facts_are_parted_behind_those_that_are_left_out(facts, saved, tmp_path, capsys, monkeypatch):
    asked = []

    def trained(model, tokenizer, train, val, hparams, out, steps):
        asked.append(([fact.subject for fact in train], [fact.subject for fact in val], hparams, out, steps))
        return SimpleNamespace(path=out, step=3, validation={"edit/acc_val": 0.5})

    monkeypatch.setattr("nse_plugin.baselines.mend.train_mend", trained)
    monkeypatch.setattr("nse_plugin.baselines.hparams.load_hparams", lambda *given: given[:2])
    monkeypatch.setattr(plan_model, "tuned_name", lambda config: "smollm2-135m")  # the tiny model is taken for it
    command = ["train-mend", "--model", "smollm2-135m", "--source", saved, "--data", facts, "--skip", "2"]
    out = tmp_path / "mend.pt"
    assert main([*command, "--train", "4", "--val", "2", "--steps", "5", "--out", str(out)]) == 0
    [(train, val, (alg_name, preset), path, steps)] = asked
    assert (train, val) == ([f"Town {number}" for number in (2, 3, 4, 5)], ["Town 6", "Town 7"])
    assert (alg_name, preset.name, path, steps) == ("MEND", "smollm2-135m.yaml", out, 5)
    assert capsys.readouterr().out == f"{out}: best after step 3, where it edits 50% of the validation facts.\n"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--val", "0"], "--val 0: give a number above 0."),
        (["--train", "8", "--val", "2"], "has 9 facts, and 10 are asked for"),
        (["--train", "4", "--val", "2"], "another shape than smollm2-135m's"),
    ],
)
def test_mistakes_are_one_sentence(facts, saved, capsys, more, words):
    command = ["train-mend", "--model", "smollm2-135m", "--source", saved, "--data", facts, "--skip", "0"]
    assert main([*command, *more]) == 1
    assert words in capsys.readouterr().err
