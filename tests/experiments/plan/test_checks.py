"""Checks before a comparison starts."""

from __future__ import annotations

import pytest

from nse_plugin.experiments.plan import PlanError
from nse_plugin.experiments.plan.checks import check_rounds
from nse_plugin.facts import Fact

LYON, ROME = (Fact("The capital of {} is", "France", city) for city in ("Lyon", "Rome"))
BERLIN, NICE = (Fact("The capital of {} is", country, "Nice") for country in ("Germany", "Italy"))


def test_the_same_prompt_may_come_again_in_another_round() -> None:
    check_rounds([LYON, BERLIN, ROME, NICE, LYON], 2)


@pytest.mark.parametrize(("second", "what"), [(ROME, "for different targets"), (LYON, "are the same")])
def test_a_round_that_would_be_refused_is_told_before(second: Fact, what: str) -> None:
    with pytest.raises(PlanError, match=f"^Round 2 of 2 facts cannot be written: .*{what}") as caught:
        check_rounds([BERLIN, NICE, LYON, second], 2)
    assert "data.skip" in str(caught.value)
