"""The end of `nse compare`: exit codes, and errors that are passed on."""

from __future__ import annotations

import pytest

from nse_plugin.cli import main
from nse_plugin.experiments.report.collect import record_of
from nse_plugin.experiments.run import comparison

METHODS = ["methods=[NSE,ROME]", "facts=2"]


@pytest.fixture
def ending(monkeypatch):
    """Makes `run` end its methods so, {name: status}."""

    def set_ends(ends: dict[str, str]) -> None:
        def run(plan, console=None, command=None):
            for name, status in ends.items():
                record_of(plan, name).end(status=status, error=None, note=None)

        monkeypatch.setattr(comparison, "run", run)

    return set_ends


@pytest.mark.parametrize(
    ("ends", "code"),
    [
        ({"NSE": "done", "ROME": "done"}, 0),
        ({"NSE": "done", "ROME": "failed"}, 0),
        ({"NSE": "failed", "ROME": "failed"}, 1),
        ({}, 1),
    ],
)
def test_a_comparison_without_a_single_result_fails(ending, tmp_path, capsys, ends, code):
    ending(ends)
    assert main(["compare", *METHODS, f"out={tmp_path}"]) == code
    said = capsys.readouterr().err
    assert said == (f"nse: no method came to its end: {tmp_path / 'report.html'} has the reasons.\n" if code else "")


def test_what_goes_wrong_is_one_sentence(monkeypatch, tmp_path, capsys):
    def run(*_, **__):
        raise RuntimeError("the unedited model could\nnot be measured")

    monkeypatch.setattr(comparison, "run", run)
    assert main(["compare", *METHODS, f"out={tmp_path}"]) == 1
    assert capsys.readouterr().err == "nse: the unedited model could not be measured\n"
