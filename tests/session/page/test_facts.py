"""What happened to every fact, as listed on a session's page."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tiny_sessions import COLD, OTHER, WET, of_rounds

from nse_plugin.session.page.facts import AGAIN, HOLDS, LOST, NOT_WRITTEN, REPLACED, Now, Place, ask, fact_rows


@pytest.fixture(scope="module")
def session():
    """Rome is cold, then wet; Lyon is a town of Japan, and again."""
    session = of_rounds([[COLD, OTHER], [WET]])
    session.edit(replace(OTHER, case_id="again"))
    session.edit([COLD], on_conflict="keep")
    session.edit([COLD, replace(WET, prompt="{} is now", case_id="now")], on_conflict="keep")
    return session


def test_without_the_model_a_row_a_fact_and_what_took_its_place(session):
    rows = fact_rows(session.rounds, {})
    assert [row.place for row in rows] == [
        Place(1, 1), Place(1, 2), Place(2, 1), Place(3, 1), Place(4, 1), Place(4, 2),
    ]  # fmt: skip
    assert [row.fact.case_id for row in rows] == ["cold", "other", "wet", "again", "cold", "now"]
    assert rows[0].later == (Place(2, 1), "wet")
    assert rows[1].later == (Place(3, 1), "Japan")
    assert [row.state for row in rows][:2] == [REPLACED, AGAIN]
    assert rows[4].state == NOT_WRITTEN
    assert (rows[4].before, rows[4].after, rows[4].later) == (None, None, None)
    assert rows[2].state == rows[2].status.replace("_", " ")
    assert Place(4, 2).anchor == "fact-4-2"
    frame = session.rounds[0].report.frame
    assert [(row.before, row.after, row.is_said) for row in rows[:2]] == [
        (before, after, said)
        for before, after, said in zip(frame["target_before"], frame["target_after"], frame["is_said"], strict=True)
    ]


def test_with_the_model_what_it_says_now(session):
    now = ask(session)
    checked = session.check()
    rows = fact_rows(session.rounds, now)
    assert len(now) == len(checked) == 4  # the fact that was written again stands once
    for row in rows:
        if row.now is None:
            assert row.state in (NOT_WRITTEN, AGAIN)
            continue
        [line] = [one for one in checked.to_dict("records") if one["case_id"] == row.fact.case_id]
        assert (row.now.holds, row.now.probability) == (line["holds"], line["probability"])
        assert row.state == (REPLACED if row.later else HOLDS if line["holds"] else LOST)
    assert rows[0].now.overwritten_by == ["wet"]


def test_a_fact_holds_or_is_lost_as_the_model_says(session):
    [*_, last] = session.rounds
    fact = last.facts[1]
    for holds, state in ((True, HOLDS), (False, LOST)):
        now = {(last.number, fact.subject, fact.text, fact.target_new): Now(holds, 0.5, [], "", "")}
        assert fact_rows([last], now)[1].state == state
