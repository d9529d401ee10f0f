"""The whole demo on a tiny random model, through the EasyEdit at hand."""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from nse_plugin.demo import run
from nse_plugin.demo.report import Measurement
from nse_plugin.demo.stages import Stages
from nse_plugin.facts import Fact
from nse_plugin.hparams import NSEHyperParams

if importlib.util.find_spec("easyeditor") is None and not os.environ.get("EASYEDIT_HOME"):
    pytest.skip("needs EasyEdit: the wheel, or a clone named by EASYEDIT_HOME", allow_module_level=True)


@pytest.fixture
def hparams() -> NSEHyperParams:
    return NSEHyperParams(
        layers=[1, 2], alpha=0.5, p=0.8, mom2_update_weight=0.1, v_lr=0.5, v_num_grad_steps=20, clamp_norm_factor=4.0,
        mom2_n_samples=8, batch_size=2, device="cpu",
    )  # fmt: skip


@pytest.fixture
def methods(hparams: NSEHyperParams) -> dict[str, NSEHyperParams]:
    return {"NSE": hparams, "sequential MEMIT": dataclasses.replace(hparams, **run.SEQUENTIAL_MEMIT)}


@pytest.fixture
def screen() -> Console:
    return Console(file=io.StringIO(), width=120)


@pytest.fixture
def compared(
    model: Any, tokenizer: Any, facts: list[Fact], methods: Any, screen: Console, tmp_path: Path, monkeypatch: Any
) -> list[Measurement]:
    monkeypatch.chdir(tmp_path)
    with Stages(screen, tmp_path / "out" / "demo.log") as stages:
        return run.compare(model, tokenizer, facts, methods, stages)


def test_each_method_is_measured_beside_the_unedited_model(
    compared: list[Measurement], model: Any, weights_of: Any, same_weights: Any
) -> None:
    before, nse, memit = compared
    assert [(m.method, m.edits) for m in compared] == [("before", 0), ("NSE", 4), ("sequential MEMIT", 4)]
    assert before.means["efficacy"] < nse.means["efficacy"] == 1.0
    assert nse.scores["round"].tolist() == memit.scores["round"].tolist() == [1, 1, 2, 2]
    assert nse.scores["status"].isin(["done", "off_target"]).all()
    assert nse.texts != before.texts != memit.texts != nse.texts
    assert (memit.scores["passes"] == 1).all()


def test_the_model_itself_is_not_edited(
    model: Any, tokenizer: Any, facts: list[Fact], methods: Any, screen: Console, tmp_path: Path, weights_of: Any,
    same_weights: Any,
) -> None:  # fmt: skip
    before = weights_of(model)
    with Stages(screen, tmp_path / "demo.log") as stages:
        run.compare(model, tokenizer, facts, methods, stages)
    assert same_weights(before, weights_of(model))


def test_sequential_memit_is_what_a_session_with_these_settings_makes(
    model: Any, tokenizer: Any, facts: list[Fact], methods: Any, compared: list[Measurement]
) -> None:
    from nse_plugin.session import EditSession

    session = EditSession(model, tokenizer, methods["sequential MEMIT"])
    frames = [session.edit(facts[:2]).frame, session.edit(facts[2:]).frame]
    expected = [residual for frame in frames for residual in frame["residual"]]
    assert compared[2].scores["residual"].tolist() == pytest.approx(expected, rel=1e-4)


def test_the_screen_says_what_was_measured_and_what_was_read(
    compared: list[Measurement], model: Any, tokenizer: Any, facts: list[Fact], methods: Any, tmp_path: Path
) -> None:
    again = Console(file=io.StringIO(), width=300)
    with Stages(again, tmp_path / "demo.log") as stages:
        run.compare(model, tokenizer, facts, methods, stages)
    assert "read from" in again.file.getvalue()


def test_only_the_demo_speaks_on_screen(
    compared: list[Measurement], screen: Console, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text = screen.file.getvalue()
    assert "measured, kept in" in text
    assert [line.split("  ")[1] for line in text.splitlines() if " s " in line] == [
        "EasyEdit", "before: scored", "second moments", "NSE: edited", "NSE: scored", "sequential MEMIT: edited",
        "sequential MEMIT: scored",
    ]  # fmt: skip
    assert capfd.readouterr() == ("", "")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]  # no ./logs


def test_the_same_seed_gives_the_same_numbers(
    compared: list[Measurement], model: Any, tokenizer: Any, facts: list[Fact], methods: Any, screen: Console, tmp_path: Path
) -> None:
    torch.manual_seed(123)
    with Stages(screen, tmp_path / "demo.log") as stages:
        again = run.compare(model, tokenizer, facts, methods, stages)
    for first, second in zip(compared, again, strict=True):
        assert first.texts == second.texts
        columns = [name for name in first.scores if name != "seconds"]
        assert first.scores[columns].equals(second.scores[columns])


def test_the_whole_command(
    model: Any, tokenizer: Any, hparams: Any, facts: list[Fact], screen: Console, tmp_path: Path, monkeypatch: Any
) -> None:
    """`run_demo` itself, with the tiny model in the place of the embedded one."""
    records = [{**dataclasses.asdict(fact), "relation": "any"} for fact in facts]
    monkeypatch.setattr(run, "embedded_model", lambda: (model, tokenizer))
    monkeypatch.setattr(run, "demo_records", lambda: records)
    monkeypatch.setattr(NSEHyperParams, "for_model", classmethod(lambda cls, model, **_: hparams))
    summary = run.run_demo(tmp_path / "results", console=screen)
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == [
        "demo.log", "efficacy_by_age.png", "facts.csv", "summary.csv"
    ]  # fmt: skip
    assert len(summary) == 3 * 4
    assert "Specificity" in screen.file.getvalue()


def test_errors_are_not_hidden(tmp_path: Path, screen: Console) -> None:
    with pytest.raises(ValueError, match="wrong"), Stages(screen, tmp_path / "demo.log") as stages, stages("stage"):
        raise ValueError("wrong")
