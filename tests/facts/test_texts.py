"""Joining a prompt and its continuation as people write them."""

from __future__ import annotations

import pytest

from nse_plugin.facts import Fact
from nse_plugin.facts.texts import continuation


@pytest.mark.parametrize(
    ("prompt", "target", "separator", "joined"),
    [
        ("Rome is in", "Peru", None, " Peru"),
        ("It was founded in", "1871", None, " 1871"),
        ("He was born in 19", "71", None, " 71"),
        ("Rome is in", " Peru", None, " Peru"),
        ("Rome is in ", "Peru", None, "Peru"),
        ("Rome is in ", " Peru", None, "Peru"),  # one space, written twice
        ("Where is Rome?\n", "Peru", None, "Peru"),
        ("assistant\n", "\tPeru", None, "\tPeru"),
        ("Answer:", "Peru", None, "Peru"),
        ('He said "', "Peru", None, "Peru"),
        ("Rome (", "Peru", None, "Peru"),
        ("Rome is in", "(Peru)", None, "(Peru)"),
        ("罗马在", "秘鲁", None, "秘鲁"),
        ("ローマは", "ペルー", None, "ペルー"),
        ("กรุงโรมอยู่ที่", "เปรู", None, "เปรู"),
        ("罗马在", "Peru", None, "Peru"),
        ("Rome is written", "罗马", None, "罗马"),
        ("로마는", "페루", None, " 페루"),
        ("रोम की राजधानी", "पेरू", None, " पेरू"),  # ends in a vowel's mark
        ("روما في", "بيرو", None, " بيرو"),
        ("Рим в", "Перу", None, " Перу"),
        ("Rome is in Pe", "ru", "", "ru"),
        ("Answer:", "Peru", " ", " Peru"),
        ("Rome is in", "Peru", "\n", "\nPeru"),
        ("Rome is in\n", "Peru", " ", "Peru"),
    ],
)
def test_prompt_and_target_are_taken_as_they_are_written(prompt, target, separator, joined):
    assert continuation(prompt, target, separator) == joined
    assert Fact("{}", prompt, target, separator=separator).asked(prompt, target)[2:] in ((separator,), ())
