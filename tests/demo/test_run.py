"""The whole demo on a tiny random model, with the installed EasyEdit."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import importlib.util
import io
import os
import shlex
from pathlib import Path

import pandas as pd
import pytest
import torch
from rich.console import Console
from tiny import tiny_facts, tiny_model, tiny_tokenizer

from nse_plugin.cli.main import _parser
from nse_plugin.demo import run
from nse_plugin.demo.report import Measurement
from nse_plugin.demo.stages import Stages
from nse_plugin.facts import Fact
from nse_plugin.hparams import NSEHyperParams
from nse_plugin.session import EditSession

if importlib.util.find_spec("easyeditor") is None and not os.environ.get("EASYEDIT_HOME"):
    pytest.skip("needs EasyEdit: the wheel, or a clone named by EASYEDIT_HOME", allow_module_level=True)


HPARAMS = NSEHyperParams(
    layers=[1, 2], alpha=0.5, p=0.8, mom2_update_weight=0.1, v_lr=0.5, v_num_grad_steps=20, clamp_norm_factor=4.0,
    mom2_n_samples=8, batch_size=2, device="cpu",
)  # fmt: skip
METHODS = {"NSE": HPARAMS, "sequential MEMIT": dataclasses.replace(HPARAMS, **run.SEQUENTIAL_MEMIT)}


def scorable_facts() -> list[Fact]:
    """Four facts, two rounds of two, with all that the measurements need."""
    return [
        dataclasses.replace(
            fact,
            target_true="Paris",
            rephrase_prompts=(f"The old town of {fact.subject} is", f"She speaks of {fact.subject} and"),
            locality_prompts=(("Rome is an old town of", "Italy"), ("The river runs through", "Paris")),
        )
        for fact in tiny_facts()
    ]


@dataclasses.dataclass
class Run:
    measurements: list[Measurement]
    screen: str
    folder: Path


def compared(folder: Path) -> Run:
    """`compare` on a fresh tiny model, in `folder` as the working directory."""
    console = Console(file=io.StringIO(), width=300)
    model = tiny_model("llama", torch.float32)
    before = copy.deepcopy(model.state_dict())
    with contextlib.chdir(folder), Stages(console, folder / "demo.log") as stages:
        measurements = run.compare(model, tiny_tokenizer(), scorable_facts(), METHODS, stages)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    return Run(measurements, console.file.getvalue(), folder)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    """The same run twice, with one cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NSE_HOME", str(tmp_path_factory.mktemp("nse-home")))
        torch.manual_seed(1)
        first = compared(tmp_path_factory.mktemp("first"))
        torch.manual_seed(2)
        return first, compared(tmp_path_factory.mktemp("second"))


def test_each_method_is_measured_beside_the_unedited_model(runs: tuple[Run, Run]) -> None:
    before, nse, memit = runs[0].measurements
    assert [(m.method, m.edits) for m in (before, nse, memit)] == [("before", 0), ("NSE", 4), ("sequential MEMIT", 4)]
    assert memit.scores["passes"].tolist() == [1, 1, 1, 1]
    assert nse.scores["round"].tolist() == memit.scores["round"].tolist() == [1, 1, 2, 2]
    assert nse.texts != before.texts != memit.texts != nse.texts


@pytest.mark.parametrize("name", METHODS)
def test_it_is_what_a_session_with_the_same_settings_makes(runs: tuple[Run, Run], name: str) -> None:
    """Two rounds, the scores and texts those of the final model."""
    model, tokenizer, facts = tiny_model("llama", torch.float32), tiny_tokenizer(), scorable_facts()
    session = EditSession(model, tokenizer, METHODS[name])
    edits = pd.concat([session.edit(facts[:2]).frame, session.edit(facts[2:]).frame], ignore_index=True)
    expected = run.measure(name, model, tokenizer, facts, edits.drop(columns="case_id"))
    found = next(m for m in runs[0].measurements if m.method == name)
    assert found.texts == expected.texts
    columns = [column for column in expected.scores if column != "seconds"]
    pd.testing.assert_frame_equal(found.scores[columns], expected.scores[columns], rtol=1e-3)


def test_a_second_run_reads_what_the_first_measured_and_says_so(runs: tuple[Run, Run]) -> None:
    assert "measured, kept in" in runs[0].screen
    assert "read from" in runs[1].screen


def test_only_the_demo_speaks_on_screen(runs: tuple[Run, Run]) -> None:
    names = [
        "EasyEdit",
        "before: scored",
        "second moments",
        *(f"{m}: {did}" for m in METHODS for did in ("edited", "scored")),
    ]
    assert [line.split("  ")[1] for line in runs[1].screen.splitlines()] == names


def test_the_working_directory_is_not_littered(runs: tuple[Run, Run]) -> None:
    assert [path.name for path in runs[0].folder.iterdir()] == ["demo.log"]


def test_a_second_run_gives_the_same_numbers(runs: tuple[Run, Run]) -> None:
    for first, second in zip(runs[0].measurements, runs[1].measurements, strict=True):
        assert first.texts == second.texts
        columns = [name for name in first.scores if name != "seconds"]
        assert first.scores[columns].equals(second.scores[columns])


def test_the_whole_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """`run_demo` itself, with the tiny model in the place of the embedded one."""
    records = [{**dataclasses.asdict(fact), "relation": "any"} for fact in scorable_facts()]
    monkeypatch.setattr(run, "embedded_model", lambda: (tiny_model("llama", torch.float32), tiny_tokenizer()))
    monkeypatch.setattr(run, "demo_records", lambda: records)
    monkeypatch.setattr(NSEHyperParams, "for_model", classmethod(lambda cls, model, **_: HPARAMS))
    screen = Console(file=io.StringIO(), width=120)
    summary = run.run_demo(tmp_path / "results", console=screen)
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == [
        "demo.log", "efficacy_by_age.png", "facts.csv", "summary.csv"
    ]  # fmt: skip
    assert len(summary) == 3 * 4
    assert "Specificity" in screen.file.getvalue()
    assert screen.file.getvalue().endswith(f"{run.NEXT}\n")
    assert capfd.readouterr().out == ""


def test_what_it_says_may_come_next_parses() -> None:
    commands = [line.split(maxsplit=1)[1] for line in run.NEXT.splitlines() if line.startswith("  nse ")]
    assert len(commands) == 4
    for command in commands:
        _parser().parse_args(shlex.split(command))


def test_errors_are_not_hidden(tmp_path: Path) -> None:
    screen = Console(file=io.StringIO())
    with pytest.raises(ValueError, match="wrong"), Stages(screen, tmp_path / "demo.log") as stages, stages("stage"):
        raise ValueError("wrong")
