"""The test files that take longest. They run first: a worker that got one last would be alone with it at the end."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).parent
LONGEST = [
    TESTS / name
    for name in (
        "test_examples.py", "test_smollm2.py", "experiments/run/test_comparison.py", "patch/served/test_check.py",
        "test_documentation.py", "cli/test_tested_types.py", "session/folder/test_kill.py",
        "session/folder/test_journal.py", "experiments/run/test_sweep.py", "benchmarks/test_comparisons.py",
        "session/test_transaction.py",
    )
]  # fmt: skip
PLACES = {path: place for place, path in enumerate(LONGEST)}
