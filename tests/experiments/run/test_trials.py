"""Trials of settings: the better ones get more facts, within the time budget."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from nse_plugin.experiments.plan import DataChoice, ModelChoice
from nse_plugin.experiments.run import trials as trials_module


class Known(trials_module.Trials):
    """Scores that are known: the better the nearer to 7, with a little noise on few facts."""

    def __init__(self, available: int = 64, seconds: float = 0.0, growth: int = 0) -> None:
        self.lines: list[str] = []
        super().__init__(ModelChoice("m", "m"), DataChoice("d"), 10, Path(), available, self.lines.append)
        self.asked: list[tuple[int, int]] = []
        self.now, self.seconds, self.growth = 0.0, seconds, growth

    def score(self, folder, setting, facts, skip=0):
        self.asked.append((facts, setting["p"]))
        self.now += self.seconds * (facts / 8) ** self.growth
        return {"score": 1 / (1 + abs(setting["p"] - 7)) + (0.01 * (setting["p"] % 3) if facts < 16 else 0.0)}


def settings(count: int) -> list[dict]:
    return [{"p": number} for number in range(count)]


@pytest.fixture
def known(monkeypatch):
    """Makes trials, and a clock that only they move."""

    def make(**how) -> Known:
        trials = Known(**how)
        monkeypatch.setattr(trials_module, "time", SimpleNamespace(monotonic=lambda: trials.now))
        return trials

    return make


def test_a_third_goes_on_to_twice_the_facts(known):
    trials = known()
    found = trials.halved("where", settings(12), 60.0)
    assert [trial.setting["p"] for trial in found[:3]] == [7, 8, 6]
    assert [sum(facts == count for facts, _ in trials.asked) for count in (8, 16, 32, 64)] == [12, 4, 2, 1]
    assert (found[0].facts, found[-1].facts) == (64, 8)
    assert sorted(trial.setting["p"] for trial in found) == list(range(12))


def test_no_more_facts_than_there_are(known):
    trials = known(available=12)
    assert trials.halved("where", settings(12), 60.0)[0].setting["p"] == 7
    assert {facts for facts, _ in trials.asked} == {8, 12}


def test_time_that_is_up_ends_it_with_the_best_so_far(known):
    trials = known(seconds=5.0)
    found = trials.halved("where", settings(12), 22.0)
    assert len(trials.asked) == 5
    assert found[0].setting["p"] == max(asked for _, asked in trials.asked)  # 7 is not reached
    assert any("out of time after" in line for line in trials.lines)
    hurried = known(seconds=5.0)
    assert hurried.halved("where", settings(3), -1.0)[0].setting["p"] == 0  # one at least
    assert hurried.lines[0] == "where: out of time after 1 of 3 settings on 8 facts; only the first guess was tried"


def test_settings_that_a_rung_has_no_time_for_keep_what_they_had(known):
    trials = known(seconds=1.0, growth=3)  # twice the facts take eight times as long, not twice
    found = trials.halved("where", settings(12), 22.0)
    assert [facts for facts, _ in trials.asked].count(16) == 2  # of four
    assert [trial.facts for trial in found] == [16] * 2 + [8] * 10
    assert sorted(trial.setting["p"] for trial in found) == list(range(12))
    assert [trial.score for trial in found[2:]] == sorted((trial.score for trial in found[2:]), reverse=True)
