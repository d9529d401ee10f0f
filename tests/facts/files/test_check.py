"""All bad records of a file, and the facts that one round cannot take together."""

from __future__ import annotations

import json

import pytest

from nse_plugin.facts import FactError
from nse_plugin.facts.conflicts import check_round
from nse_plugin.facts.files import DatasetError, load_facts
from nse_plugin.facts.files.check import check_file


def line(subject, target):
    return json.dumps({"prompt": "The capital of {} is", "subject": subject, "target_new": target})


def test_every_bad_line_is_named(written, caplog):
    lines = [line("Japan", "Kyoto"), line("Japan", "Kyoto"), line("Peru", None), "none", line("Italy", "Milan"), "{"]
    path = written("\n".join(lines), "facts.jsonl")
    found = check_file(path)
    assert [place for place, _ in found.problems] == ["line 3", "line 4", "line 6"]
    assert [fact.subject for fact in found.facts] == ["Japan", "Japan", "Italy"]
    assert caplog.messages == []
    with pytest.raises(DatasetError, match="line 3: target_new is missing"):  # the first of them
        load_facts(path)


def test_a_file_of_bad_lines_only(written):
    found = check_file(written("none\n{}\n", "facts.jsonl"))
    assert [place for place, _ in found.problems] == ["line 1", "line 2"]
    assert (found.facts, found.conflicts, found.largest_round) == ([], [], None)
    with pytest.raises(DatasetError, match="holds an empty list"):
        check_file(written("[]"))


def test_facts_that_one_round_cannot_take(written, caplog):
    asked = [("Japan", "Kyoto"), ("Italy", "Milan"), ("Peru", "Lima"), ("Japan", "Osaka"), ("Italy", "Milan")]
    path = written("\n".join(line(*one) for one in asked), "facts.jsonl")
    found = check_file(path)
    assert found.problems == []
    assert found.conflicts == [
        ("line 4", "'The capital of Japan is' is 'Osaka' here and 'Kyoto' in line 1"),
        ("line 5", "it is the fact of line 2 again, 'The capital of Italy is' to 'Milan'"),
    ]
    assert caplog.messages == []
    assert found.largest_round == 3
    facts = load_facts(path).facts
    for first in range(3):
        check_round(facts[first : first + 3])
    with pytest.raises(FactError, match="different targets"):
        check_round(facts[:4])


def test_subjects_that_are_found_are_logged_once(written, caplog):
    check_file(written([{"prompt": "The capital of Japan is", "target_new": "Kyoto"}, {"prompt": "x"}]))
    [message] = caplog.messages
    assert "1 fact without a subject" in message
