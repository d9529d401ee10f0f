"""The options of `nse tune`."""

from __future__ import annotations

import pytest

from nse_plugin.cli import main


def test_help_says_what_is_needed_and_how_to_go_on(capsys):
    with pytest.raises(SystemExit):
        main(["tune", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    for words in ("16 facts or more", "is held out", "The same command goes on", "with a larger --budget"):
        assert words in said


@pytest.mark.parametrize("budget", ["30", "m", "0s", "infh", "3d"])
def test_a_budget_that_is_none(budget, capsys):
    assert main(["tune", "--model", "/nowhere", "--facts", "demo", "--budget", budget]) == 1
    assert f"--budget {budget}: write a number above 0 and its unit" in capsys.readouterr().err
