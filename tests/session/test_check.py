"""Which facts of a session hold, and what replaced those that do not."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tiny import tiny_tokenizer
from tiny_sessions import COLD, OTHER, SUBJECTS, WET, base, begun, in_memory, of_rounds

from nse_plugin import Fact
from nse_plugin.evaluation.teacher_forcing import predict
from nse_plugin.session import check


def said_by(model, prompt):
    """A fact that the model says already: of the first subject whose next token is one that text gives again."""
    tokenizer = tiny_tokenizer()
    for subject in SUBJECTS:
        with torch.no_grad():
            token = model(**tokenizer(prompt.format(subject), return_tensors="pt")).logits[0, -1].argmax()
        fact = Fact(prompt, subject, tokenizer.decode(token), case_id="said", separator="")
        if predict(model, tokenizer, [fact.asked(fact.text, fact.target_new)]).popitem()[1].is_said:
            return fact
    raise AssertionError


@pytest.mark.parametrize("where", ["memory", "folder"])
def test_check_says_which_facts_hold_and_what_took_the_place_of_the_others(where, tmp_path):
    model = base()
    said = said_by(model, "The wind of {} is")
    session = begun(where, model, tmp_path, mom2_update_weight=1e6)  # hardly changes the model
    session.edit([said, COLD, OTHER])
    session.edit(WET)
    frame = session.check()
    facts = [said, COLD, OTHER, WET]
    expected = predict(model, session.tokenizer, [fact.asked(fact.text, fact.target_new) for fact in facts])
    assert frame["case_id"].tolist() == ["said", "cold", "other", "wet"]
    assert frame["prompt"].tolist() == [fact.text for fact in facts]
    assert frame["target"].tolist() == [fact.target_new for fact in facts]
    assert frame["holds"].tolist() == [True, False, False, False] == [one.is_said for one in expected.values()]
    assert frame["probability"].tolist() == pytest.approx([one.probability for one in expected.values()], rel=1e-4)
    assert frame["round"].tolist() == [1, 1, 1, 2]
    after = [*session.rounds[0].report.frame["target_after"], *session.rounds[1].report.frame["target_after"]]
    assert frame["probability_after_round"].tolist() == after
    assert frame["overwritten_by"].tolist() == [[], ["wet"], [], []]
    again = dataclasses.replace(said, case_id="again")
    session.edit(again)
    assert session.check()["case_id"].tolist() == ["cold", "other", "wet", "again"]


def test_check_names_later_facts_about_the_subject_of_one_that_no_longer_holds(monkeypatch):
    session = of_rounds([[OTHER], [Fact("The wind of {} is", "Lyon", "cold")]])
    own = check.predictions
    monkeypatch.setattr(
        check, "predictions", lambda *args: [type(p)(p.log_probability, p.target, ()) for p in own(*args)]
    )
    assert session.check()["overwritten_by"].tolist() == [["The wind of Lyon is"], []]


def test_check_of_a_session_without_rounds_is_empty():
    assert list(in_memory(base()).check().columns)[:5] == ["case_id", "subject", "prompt", "target", "holds"]


def test_check_asks_for_the_eos_token_that_the_facts_were_written_with():
    session = of_rounds([[OTHER]], target_eos=True)
    frame, report = session.check(), session.rounds[0].report.frame
    assert frame["probability"].tolist() == pytest.approx(report["target_after"].tolist(), rel=1e-4)
    assert frame["holds"].tolist() == report["is_said"].tolist()
