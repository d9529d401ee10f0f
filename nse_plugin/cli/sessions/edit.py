"""`nse edit`: write facts into a model, as rounds of a session on disk."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nse_plugin.cli.options import NOT_ALL, add_json, add_model, add_session, add_skip_bad, check_counts
from nse_plugin.cli.sessions.opening import ROUND_COLUMNS, fact_rows, opened, row_of
from nse_plugin.support.suggestions import number_of

if TYPE_CHECKING:
    from nse_plugin.cli.options import Commands
    from nse_plugin.facts import Fact
    from nse_plugin.hparams import NSEHyperParams
    from nse_plugin.session import EditSession, RoundRecord
    from nse_plugin.session.report import RoundReport

COLUMNS = {
    "case_id": "case", "prompt": "prompt", "target": "target", "status": "status", "target_before": "P unedited",
    "target_after": "P after", "is_said": "said", "replaces": "replaces",
}  # fmt: skip


def add(commands: Commands) -> None:
    """Add the command and its options. commands: argparse's subparsers."""
    command = commands.add_parser(
        "edit",
        help="write facts into a model, as rounds of a session on disk",
        epilog="The model's own files are never changed: its edits are in the session's folder, which is made when it "
        "is new. Exit code: 0 the edited model says every fact; 3 it does not say every one; 1 an error, and nothing "
        "was written.",
    )
    add_model(command)
    add_session(command)
    command.add_argument("--facts", metavar="FILE", help="a .csv, .json or .jsonl file, or a known name such as demo")
    command.add_argument(
        "--fact",
        nargs=3,
        action="append",
        default=[],
        metavar=("PROMPT", "SUBJECT", "TARGET"),
        help="one fact; PROMPT has {} where the subject goes; may be given several times",
    )
    add_skip_bad(command)
    command.add_argument("--limit", type=int, help="the first N facts of the file; default: all", metavar="N")
    command.add_argument("--skip", type=int, default=0, help="leave out the first N facts of the file", metavar="N")
    command.add_argument("--round", type=int, help="facts written at a time; default: all in one round")
    command.add_argument(
        "--hparams", help="of a new session: a preset's name or a YAML/JSON file; default: the preset for the model"
    )
    command.add_argument("--solver", choices=("exact", "fast"), help="of a new session; default: the preset's")
    command.add_argument(
        "--on-conflict",
        choices=("replace", "keep", "error"),
        default="replace",
        help="where an earlier round gave a fact another target: replace it, keep it, or refuse (%(default)s)",
    )
    command.add_argument("--author", help="who makes the change; kept with the round")
    command.add_argument("--reason", help="why it is made; kept with the round")
    command.add_argument(
        "--dry-run", action="store_true", help="show conflicts, tokens and the time it would take, and write nothing"
    )
    add_json(command)
    command.set_defaults(run=run, goes_on=False)


def run(arguments: argparse.Namespace) -> int:
    """Run the command. Returns `NOT_ALL` if the model does not predict every target. Raises FactError, DatasetError,
    SessionError."""
    from nse_plugin.cli.tables import print_json
    from nse_plugin.facts.conflicts import check_round

    facts, hparams = _facts(arguments), _hparams(arguments)
    size = arguments.round or len(facts)
    batches = [facts[first : first + size] for first in range(0, len(facts), size)]
    for batch in batches:
        check_round(batch)  # before a session is started
    if arguments.dry_run:
        from nse_plugin.cli.sessions.dry_run import show

        with opened(arguments, hparams, keep=False) as session:
            return show(session, batches, arguments)
    with opened(arguments, hparams) as session:
        results, said = list[dict[str, Any]](), True
        for batch in batches:
            before, own = len(session.rounds), _numbered(session, batch)
            report = session.edit(own, arguments.on_conflict, arguments.author, arguments.reason)
            made = next(iter(session.rounds[before:]), None)  # None: every fact was kept
            results.append(_result(made, own, report))
            said &= bool(report.frame["is_said"].all())
            if not arguments.json:
                _print(made, own, report)
        if arguments.json:
            print_json(results)
    return 0 if said else NOT_ALL


def _facts(arguments: argparse.Namespace) -> list[Fact]:
    """Return the facts of --fact and --facts."""
    from nse_plugin.facts import Fact
    from nse_plugin.facts.files import load_facts

    check_counts(arguments, "round", "limit")
    if not arguments.facts and not arguments.fact:
        raise argparse.ArgumentError(None, "give --facts FILE, or --fact PROMPT SUBJECT TARGET.")
    given = [Fact(prompt, subject, target) for prompt, subject, target in arguments.fact]
    if arguments.facts:
        given += load_facts(arguments.facts, arguments.limit, arguments.skip_bad, skip=arguments.skip).facts
    return given


def _numbered(session: EditSession, facts: Sequence[Fact]) -> list[Fact]:
    """Return the facts with case_ids that are unique in the session.

    A fact without a case_id, or with that of a fact with another question or target, gets the round's number and its
    place in it, e.g. "3.1"; a higher number if a round that was renumbered when facts were retired has such ids.
    """
    rounds = session.rounds
    taken = {str(fact.case_id): fact.signature for one in rounds for fact in one.facts}
    number = len(rounds) + 1
    while any(known.startswith(f"{number}.") for known in taken):
        number += 1
    return [
        fact
        if fact.case_id is not None and taken.get(str(fact.case_id), fact.signature) == fact.signature
        else dataclasses.replace(fact, case_id=f"{number}.{place}")
        for place, fact in enumerate(facts, 1)
    ]


def _hparams(arguments: argparse.Namespace) -> NSEHyperParams | None:
    """Return the hyperparameters of --hparams, or the model's own for a new session or with --solver; None: the
    session's."""
    from pathlib import Path
    from types import SimpleNamespace

    from nse_plugin.cli.options import checked_config
    from nse_plugin.hparams import NSEHyperParams

    given = {} if arguments.solver is None else {"solver": arguments.solver}
    if arguments.hparams is not None:
        return NSEHyperParams.from_hparams(arguments.hparams).with_overrides(**given)
    if given or not (Path(arguments.session) / "session.json").exists():
        return NSEHyperParams.for_model(SimpleNamespace(config=checked_config(arguments)), **given)
    return None


def _result(made: RoundRecord | None, facts: Sequence[Fact], report: RoundReport) -> dict[str, Any]:
    """Return a round as --json prints it. made: None if nothing was written."""
    record = dict.fromkeys(ROUND_COLUMNS) if made is None else {**row_of(made), "id": made.id}
    return {**record, "facts": fact_rows(facts, report)}


def _print(made: RoundRecord | None, facts: Sequence[Fact], report: RoundReport) -> None:
    from nse_plugin.cli.tables import print_table

    name = "no round: nothing was written" if made is None else f"round {made.number} ({made.id[:8]})"
    print_table(fact_rows(facts, report), COLUMNS, title=name)
    frame = report.frame
    statuses = ", ".join(f"{count} {status}" for status, count in frame["status"].value_counts().items())
    again = f"; {number_of(len(report.again), 'fact')} of earlier rounds written again" if len(report.again) else ""
    print(f"{number_of(len(frame), 'fact')}: {int(frame['is_said'].sum())} said, {statuses}{again}.")
