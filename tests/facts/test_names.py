"""Names of a subject that appear in a fact's texts but for which the fact is not written."""

from __future__ import annotations

import json
from importlib.resources import files

import pytest

from nse_plugin.facts import Fact
from nse_plugin.facts.names import left_out_names, warn_of_left_out_names


def fact(subject, *rephrased, **fields):
    return Fact("{} is in", subject, "Peru", rephrase_prompts=rephrased, **fields)


@pytest.mark.parametrize(
    ("subject", "text", "name"),
    [
        ("Munich", "the river in munich is", "munich"),
        ("iPhone", "The maker of the IPhone is", "IPhone"),
        ("Albert Einstein", "The field of Einstein was", "Einstein"),
        ("Albert Einstein", "In 1905, Einstein worked in", "Einstein"),
        ("The Louvre", "To see Louvre art, go to", "Louvre"),
        # none:
        ("Munich", "The river in Munich is", None),
        ("butterfly", "Butterfly is one of the", None),  # the sentence's capital
        ("Art", "The artist lives in", None),
        ("Percy Shelley", "The wife of Percy was Mary Shelley, who", None),  # somebody else
        ("Abbott House", "The road is beside House Creek, in", None),
        ("Statue of Liberty", "The torch of Liberty is in", None),
        ("Munich", "The river there is", None),
        ("日本", "その国の首都は", None),
    ],
)
def test_a_name_that_is_left_out_is_found(subject, text, name):
    found = list(left_out_names([fact(subject, "No name here", text)]))
    assert [one for _, one in found] == ([name] if name else [])
    if name:
        assert list(left_out_names([fact(subject, text, aliases=[name])])) == []
        assert list(left_out_names([fact(subject, f"{text} {subject}")])) == []
        assert [one for _, one in left_out_names([fact(subject, generation_prompts=[text])])] == [name]


def test_a_name_that_another_fact_of_the_round_gives():
    one, other = fact("Munich", aliases=["München"]), fact("Munich", "Through München flows the")
    assert list(left_out_names([other])) == []
    assert list(left_out_names([one, other])) == [(other, "München")]
    assert list(left_out_names([one, fact("Berlin", "Not München, but")])) == []


def test_one_warning_names_the_first_and_the_fix(caplog):
    warn_of_left_out_names([fact("Rome", "In Rome"), fact("Lima", "In lima"), fact("Oslo", "In oslo")])
    [message] = caplog.messages
    assert message.startswith("In 2 facts, a rephrase or generation prompt calls the subject by a name that the fact")
    assert "the first is 'Lima is in', with 'lima'." in message
    assert "among the fact's `aliases` (a field in Python and JSON, a column in CSV)" in message


def test_the_demos_facts_leave_no_name_out(caplog):
    records = json.loads((files("nse_plugin.data") / "demo_facts.json").read_text(encoding="utf-8"))
    warn_of_left_out_names([Fact.from_record(record) for record in records])
    assert caplog.messages == []
