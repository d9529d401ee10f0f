"""`nse ask`: what a model says before and after the edits of a session."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from nse_plugin.cli.options import add_json, add_model, add_session, check_counts
from nse_plugin.cli.sessions.opening import opened

if TYPE_CHECKING:
    from nse_plugin.session import EditSession


def add(commands: Any) -> None:
    """The command and its options. commands: argparse's subparsers."""
    command = commands.add_parser("ask", help="how a model goes on with a prompt, before and after the edits")
    add_model(command)
    add_session(command)
    command.add_argument("prompts", nargs="+", metavar="PROMPT", help="as it is; nothing is added")
    command.add_argument("--tokens", type=int, default=20, help="how many it may write (%(default)s)")
    add_json(command)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Run it. Raises SessionError, ValueError."""
    from nse_plugin.cli.tables import print_json, print_table

    check_counts(arguments, "tokens")
    with opened(arguments) as session:
        after = _answers(session, arguments)
        with session.unedited():
            before = _answers(session, arguments)
    rows = [
        {"prompt": prompt, "before": one, "after": other}
        for prompt, one, other in zip(arguments.prompts, before, after, strict=True)
    ]
    if arguments.json:
        print_json(rows)
    else:
        print_table(rows, {"prompt": "prompt", "before": "before", "after": "after"})


def _answers(session: EditSession, arguments: argparse.Namespace) -> list[str]:
    """Greedy continuations, up to the end of the text."""
    from nse_plugin.models.writing.generation import encoded, greedy_answers

    model, tokenizer = session.model, session.tokenizer
    rows = [encoded(model, tokenizer, prompt, arguments.tokens) for prompt in arguments.prompts]
    ends = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    return [tokenizer.decode(ids) for ids in greedy_answers(model, rows, arguments.tokens, ends)]
