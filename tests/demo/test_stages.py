"""The demo's output while it works."""

from __future__ import annotations

import io
import re
import sys

import pytest
from rich.console import Console

from nse_plugin.demo.stages import Stages


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=100)


def test_a_line_a_stage_and_all_other_output_in_the_log(console, tmp_path, capsys):
    log = tmp_path / "new" / "log.txt"
    with Stages(console, log) as stages:
        with stages("model") as note:
            print("Loading weights")
            print("a warning", file=sys.stderr)
            note("read from the cache")
        with stages("moments", has_bar=True):
            print("a bar", file=sys.stderr)
        assert stages.total >= 0
    assert log.read_text() == "Loading weights\na warning\n"
    assert capsys.readouterr() == ("", "a bar\n")
    model, moments = console.file.getvalue().splitlines()
    assert re.fullmatch(r"  model +\d+\.\d s  read from the cache", model)
    assert re.fullmatch(r"  moments +\d+\.\d s *", moments)


def test_a_stage_that_fails_says_no_line_and_its_error_goes_on(console, tmp_path):
    with pytest.raises(KeyError), Stages(console, tmp_path / "log.txt") as stages, stages("model"):
        raise KeyError
    assert "model" not in console.file.getvalue()
