"""The report of a round."""

from __future__ import annotations

import re
import time

import pandas as pd
from session_cases import LAYERS, NEW, ROUNDS, session_on
from tiny import TEMPLATES, tiny_facts, tiny_moments, tiny_tokenizer

import nse_plugin.session.session
from nse_plugin import EditSession
from nse_plugin.session.report import RoundReport


def test_the_report_has_a_row_a_fact(llama, hparams):
    facts = [*tiny_facts()[:2], NEW]
    frame = session_on(llama, hparams).edit(facts).frame
    assert list(frame.columns) == [
        "case_id", "subject", "status", "residual_before", "residual", "passes", "target_before", "target_under_z",
        "target_after", "is_said", "same_subject", "replaces", "seconds",
    ]  # fmt: skip
    assert frame["subject"].tolist() == [fact.subject for fact in facts]
    assert frame["case_id"].tolist() == [10, 11, 2]
    assert (frame["seconds"] > 0).all()


def test_seconds_of_facts_are_without_the_moments_of_the_model(llama, hparams, monkeypatch):
    slept = []

    def slow(*_, **__):
        """As long as ten minutes would be: what the clock shows, without waiting."""
        slept.append(600.0)
        return tiny_moments(llama, LAYERS)

    own = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: own() + sum(slept))

    monkeypatch.setattr(nse_plugin.session.edited, "second_moments", slow)
    session = EditSession(llama, tiny_tokenizer(), hparams, templates=TEMPLATES)
    report = session.edit(tiny_facts())
    assert report.seconds["moments"] >= 600
    parts = report.seconds["values"] + report.seconds["update"]
    assert parts <= report.frame["seconds"].sum() < parts + 300
    assert re.search(r"facts: .*; \d+\.\d s, and 60\d\.\d s for second moments, once for this model$", str(report))
    assert "second moments" not in str(session.edit(ROUNDS[0]))


def test_a_report_of_one_fact_is_of_one_fact() -> None:
    frame = pd.DataFrame({"status": ["done"], "seconds": [1.5]})
    assert str(RoundReport(frame, frame.iloc[:0])) == "1 fact: 1 done; 1.5 s"
    assert str(RoundReport(pd.concat([frame, frame]), frame)) == (
        "2 facts: 2 done; of earlier rounds again: 1 done; 3.0 s"
    )
