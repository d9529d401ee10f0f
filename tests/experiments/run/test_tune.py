"""`nse tune`: the better settings go on within the time budget, and the result is scored on held-out facts."""

from __future__ import annotations

import itertools
import json
import re
import time
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
import yaml
from tiny import CHAT, tiny_model, tiny_tokenizer

from nse_plugin.cli import main
from nse_plugin.evaluation.metrics.probability import METRICS
from nse_plugin.experiments.plan import ModelChoice, PlanError
from nse_plugin.experiments.run import trials as trials_module
from nse_plugin.experiments.run import tune as module
from nse_plugin.hparams import NSEHyperParams
from nse_plugin.moments import provider
from nse_plugin.support.progress import duration

UNRELATED = [["The wind is", "cold"], ["He plays the", "violin"], ["She speaks", "French"]]
RECORDS = [
    {
        "prompt": prompt, "subject": subject, "target_new": new, "target_true": true,
        "rephrase_prompts": [f"We know {subject} is in"], "locality_prompts": UNRELATED,
    }
    for prompt in ("The capital of {} is", "{} is in", "{} stands in", "The town {} is")
    for subjects, new, true in ((("France", "Lyon"), "Rome", "Paris"), (("Berlin", "Japan"), "Paris", "Rome"))
    for subject in subjects
]  # fmt: skip


@pytest.mark.parametrize("layers", [4, 6, 12, 28, 30, 32, 48, 80])
def test_windows_lie_within_the_model(layers):
    windows = module._windows(layers)
    assert len({tuple(window) for window in windows}) == len(windows) >= 1
    for window in windows:
        assert window == list(range(window[0], window[0] + (5 if layers >= 32 else 3)))
        assert window[-1] < layers - 1
    published = {28: 4, 30: 4, 32: 4, 48: 13}  # about where the presets begin
    assert layers not in published or any(window[0] == published[layers] for window in windows)


def test_norms_are_those_of_the_layers_outputs(llama, tokenizer):
    from tiny import tiny_facts

    seen = []
    for layer in llama.model.layers:
        layer.register_forward_hook(lambda _, __, out: seen.append((out[0] if isinstance(out, tuple) else out)[0, -1]))
    facts = tiny_facts()[:2]
    found = module._hidden_norms(llama, tokenizer, facts)
    # the last state that transformers hands out has been through the final norm
    expected = [float((seen[i].norm() + seen[i + 4].norm()) / 2) for i in range(3)]
    assert found[:3] == pytest.approx(expected)


def test_a_model_without_a_preset_gets_one(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(module, "LAMBDAS", (10.0, 600.0))
    monkeypatch.setattr(module, "SHARES", (0.8,))
    measured = []
    really = provider.measure_moments
    monkeypatch.setattr(provider, "measure_moments", lambda *a: measured.append(a[1]) or really(*a))
    folder = tmp_path / "town-model"
    tiny_model("qwen3", torch.float32).save_pretrained(folder)
    tiny_tokenizer(bos=True).save_pretrained(folder)
    facts, out = tmp_path / "facts.json", tmp_path / "out"
    facts.write_text(json.dumps(RECORDS))
    command = ["tune", "--model", str(folder), "--facts", str(facts), "--budget", "25s", "--out", str(out)]
    assert main(command) == 0
    printed = Path(capsys.readouterr().out.strip())
    assert printed == out / "town-model.yaml"
    text = printed.read_text()
    hparams = NSEHyperParams.from_hparams(printed)
    assert hparams.layers == [0, 1, 2]
    assert measured == [[0, 1, 2]]  # of all windows at once
    assert hparams.mom2_update_weight in (10.0, 600.0)
    assert yaml.safe_load(text)["model_name"] == str(folder)
    for name in ("layers", "v_lr", "mom2_update_weight", "p", "alpha"):
        assert re.search(rf"# {name}: best score of each value, and on how many facts: .*: \d+\.\d on \d+", text)

    ways = [json.loads(path.read_text()) for path in out.glob("how-8/cells/*/*/overall.json")]
    assert len(ways) > 1
    assert all(way["costs"]["values_from_store"] == 8 for way in ways)  # z is that of the stage before

    used = {name for path in out.glob("*-*/cells/*/*/facts.csv") if "held" not in str(path) for name in ids(path)}
    [last] = out.glob("held-out/cells/*/*/facts.csv")
    assert not used & ids(last)
    told = re.search(r"played no part in it: efficacy (\S+), generalization", text)
    assert float(told[1]) == pytest.approx(100 * pd.read_csv(last)["efficacy"].mean(), abs=0.1)

    before = {path: path.stat().st_mtime_ns for path in out.rglob("facts.csv")}
    assert main(command) == 0  # reads what is there
    assert all(path.stat().st_mtime_ns == written for path, written in before.items())

    facts.write_text(json.dumps(RECORDS[::-1]))
    assert main(command) == 1
    assert "content of data.source was" in capsys.readouterr().err


def ids(path: Path) -> set[str]:
    return set(pd.read_csv(path)["case_id"].astype(str))


@pytest.fixture
def experiment(tmp_path) -> list[str]:
    """Options of `nse tune` on a tiny model and 16 facts."""
    tiny_model("qwen3", torch.float32).save_pretrained(tmp_path / "model")
    tiny_tokenizer(bos=True, chat=CHAT).save_pretrained(tmp_path / "model")
    (tmp_path / "facts.json").write_text(json.dumps(RECORDS))
    return ["--model", str(tmp_path / "model"), "--facts", str(tmp_path / "facts.json"), "--out", str(tmp_path / "out")]


def test_a_budget_for_no_more_than_the_first_guess_is_told_before_and_after(experiment, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(module, "_hidden_norms", lambda *_: [5.0] * 4)  # whose times are the estimates
    ticks = itertools.count(0, 100.0)  # a clock that every look moves
    for one in (module, trials_module):
        monkeypatch.setattr(one, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
    assert main(["tune", *experiment, "--budget", "1s"]) == 0
    said = capsys.readouterr()
    cannot, no_search, *_ = (line for line in said.err.splitlines() if not line.startswith("Loading") and line)
    prompt = 100.0 / module.FEWEST
    moments, setting, last = 1000 * prompt, 8 * 40 * prompt, 5 * 40 * prompt
    assert cannot == (
        f"Budget: 1 s. This cannot be cut short, about {duration(moments + setting + last)}: the second moments where "
        f"they are not kept yet ({duration(moments)}), a setting on 8 facts ({duration(setting)}), the last score on 5 "
        f"held-out facts ({duration(last)})."
    )
    assert no_search.startswith("There is no time for a search: only the first guess is tried; among all 3 ")
    for stage in ("where", "how"):
        assert re.search(rf"{stage}: out of time after 1 of \d+ settings on 8 facts; only the first guess", said.err)
    text = (tmp_path / "out" / "model.yaml").read_text()
    assert "# No search: only the first guess was tried. A larger --budget goes on from here." in text
    assert len(list((tmp_path / "out").glob("where-8/cells/*"))) == 1


def test_the_last_score_has_its_share_of_the_budget(experiment, tmp_path, monkeypatch):
    """Neither stage may run into it, by the cost of a fact that was measured."""
    deadlines, plans = {}, []
    halved = trials_module.Trials.halved

    def follow(trials, stage, settings, deadline):
        deadlines[stage] = deadline - time.monotonic(), trials.seconds_per_fact
        plans.append(trials.plan(stage, settings[0], 8))
        if stage == "where":
            trials.seconds_per_fact = 2.0
        return halved(trials, stage, settings[:1], deadline)

    monkeypatch.setattr(trials_module.Trials, "halved", follow)
    monkeypatch.setattr(module, "_measure_moments", lambda *_: None)
    monkeypatch.setattr(trials_module.Trials, "score", lambda *_, **__: dict.fromkeys((*METRICS, "score"), 0.5))
    assert main(["tune", *experiment, "--budget", "100s", "--chat", "both"]) == 0
    assert deadlines["where"][0] == pytest.approx((100 - 5 * deadlines["where"][1]) / 2, abs=2)
    assert deadlines["how"] == (pytest.approx(100 - 5 * 2.0, abs=2), 2.0)
    # written and asked in the same forms
    asked = [(plan.nse["chat"], plan.metrics) for plan in plans]
    assert asked == [("both", {"probability": {"chat": "both"}})] * 2
    assert "# chat: as given; the facts were asked likewise\nchat: both\n" in (tmp_path / "out/model.yaml").read_text()


def test_too_few_facts(tmp_path):
    path = tmp_path / "few.json"
    path.write_text('[{"prompt": "{} is in", "subject": "Rome", "target_new": "Peru", "target_true": "Italy"}]')
    with pytest.raises(PlanError, match=r"few\.json holds 1 fact: tuning needs 16 at least"):
        module.tune(ModelChoice("m", "/nowhere"), str(path), seconds=1.0, out=tmp_path)
