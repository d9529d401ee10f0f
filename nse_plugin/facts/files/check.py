"""Check a file of facts: every bad record, and the facts that one round cannot take together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nse_plugin.facts.conflicts import same_questions
from nse_plugin.facts.conversion import warn_of_found_subjects
from nse_plugin.facts.fact import Fact
from nse_plugin.facts.files.load import cells_of, contradicted, converted, open_source, repeated


@dataclass(frozen=True)
class FileCheck:
    """The result of a check.

    facts: of the good records. problems: (place, what is wrong) of each bad record, in the order of the file.
    conflicts: (place, what is said) of each fact whose prompt and subject an earlier fact has too; no round may contain
    both. largest_round: up to this many facts per round, no round contains two such facts; None if there are none.
    """

    facts: list[Fact]
    problems: list[tuple[str, str]]
    conflicts: list[tuple[str, str]]
    largest_round: int | None


def check_file(source: str | Path) -> FileCheck:
    """Check all records of a file, or of a data set by its name, as `load_facts` takes them. Raises DatasetError if the
    file cannot be read as a list of records at all."""
    path, _, records = open_source(source)
    good, problems = [], []
    for record, fact in converted(records):
        if isinstance(fact, Fact):
            good.append((record, fact))
        else:
            problems.append((record.place, str(fact)))
    facts = [fact for _, fact in good]
    warn_of_found_subjects([cells_of(record) for record, _ in good], facts, f"{path}: ")
    pairs = list(same_questions(facts))
    conflicts = []
    for earlier, later in pairs:
        (record, new), (before, old) = good[later], good[earlier]
        is_same = old.signature == new.signature
        said = repeated(new, before.place) if is_same else contradicted(new, old.target_new, before.place)
        conflicts.append((record.place, said))
    return FileCheck(facts, problems, conflicts, min((later - earlier for earlier, later in pairs), default=None))
