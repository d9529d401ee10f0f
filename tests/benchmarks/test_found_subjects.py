"""The shares of facts whose left-out subject is found."""

from __future__ import annotations

import pytest

from benchmarks import found_subjects
from nse_plugin.facts import Fact


@pytest.mark.parametrize(
    ("subject", "prompt", "what"),
    [
        ("Japan", "The capital of {} is", "exact"),
        ("United States of America", "The flag of the {} is", "exact"),
        ("the Hague", "What happened in {}?", "last word"),
        ("Danish pastry", "{} is made in", "wrong"),
        ("her", "Who is {}", "refused"),
    ],
)
def test_what_is_found_is_told_apart(subject: str, prompt: str, what: str) -> None:
    fact = Fact(prompt, subject, "x")
    assert found_subjects.outcome(fact, found_subjects.found(fact, False)) == what


def test_the_subjects_of_the_demo_are_found(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["found_subjects"])
    found_subjects.main()
    with_rephrased, without = capsys.readouterr().out.splitlines()
    assert "with         60 facts: exact 1.000" in with_rephrased
    assert "without      60 facts: exact 1.000" in without
