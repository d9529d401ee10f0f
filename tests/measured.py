"""Data for the tests of instruments: questions with four choices, and facts."""

from __future__ import annotations

from nse_plugin.facts import Fact

QUESTIONS = [
    {"question": f"What is {n} and one?", "subject": subject, "choices": ["a", "b", "c", "d"], "answer": n % 4}
    for n, subject in enumerate(["sums", "sums", "letters", "letters", "letters", "sums"])
]
FACTS = [
    Fact("The capital of {} is", "France", "Rome", "Paris", (), (("Peru is", "Lima"), ("Italy is in", "Rome"))),
    Fact("{} is in", "Lima", "Italy", "Peru", (), (("Peru is", "Lima"), ("we saw Paris in", "France"))),
]
