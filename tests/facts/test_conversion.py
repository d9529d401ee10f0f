"""The forms in which facts can be passed: single facts, dicts, lists."""

from __future__ import annotations

from types import MappingProxyType

import pandas as pd
import pytest
from record_forms import FRANCE

from nse_plugin.facts import Fact, FactError
from nse_plugin.facts.conversion import as_facts

RECORD = {"prompt": "The capital of {} is", "subject": "France", "target_new": "Lyon", "target_true": "Paris"}


@pytest.mark.parametrize(
    "given",
    [FRANCE, RECORD, [FRANCE], [RECORD], (RECORD,), (fact for fact in [FRANCE]), {"a": FRANCE}.values(),
     MappingProxyType(RECORD)],
)  # fmt: skip
def test_facts_are_taken_as_people_have_them(given):
    assert as_facts(given) == [FRANCE]


def test_several_are_taken_in_their_order():
    other = Fact("{} is in", "Rome", "Peru", case_id="a")
    assert as_facts([RECORD, other]) == [FRANCE, other]
    assert as_facts([]) == []
    assert as_facts(pd.DataFrame([RECORD]).to_dict("records")) == [FRANCE]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("The capital of France is Lyon", "facts is 'The capital of France is Lyon': give a Fact, a dict with prompt,"),
        (b"x", "facts is b'x': give"),
        (None, "facts is None: give"),
        (7, "facts is 7: give"),
        (object(), "facts is of type object: give"),
        (
            pd.DataFrame([RECORD]),
            r"facts is of type DataFrame \(its .to_dict\('records'\) is what is wanted\): give a Fact",
        ),
        (pd.Series(RECORD), r"facts is of type Series \(its .to_dict\(\) is what is wanted\): give a Fact"),
        ([pd.Series(RECORD)], r"facts\[0\] is of type Series \(its .to_dict\(\) is what is wanted\): give a Fact"),
        ([FRANCE, "France"], r"facts\[1\] is 'France': give a Fact"),
        ([FRANCE, None], r"facts\[1\] is None: give a Fact"),
        ([[FRANCE]], r"facts\[0\] is of type list: give a Fact"),
        ([FRANCE, {"prompt": "{} is", "subject": "A"}], r"facts\[1\]: target_new is missing: "),
        ({"prompt": "{} is", "subject": "A", "taget_new": "B"}, "facts: there is no field 'taget_new': did you mean"),
    ],
)
def test_what_is_no_fact_is_told_in_one_sentence(given, words):
    with pytest.raises(FactError, match=f"^{words}") as caught:
        as_facts(given)
    assert "\n" not in str(caught.value)
    assert str(caught.value)[-1] in ".?"
