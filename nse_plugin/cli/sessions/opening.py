"""Functions shared by the commands on a session."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nse_plugin.facts import Fact
    from nse_plugin.hparams import NSEHyperParams
    from nse_plugin.session import EditSession
    from nse_plugin.session.folder.record import RoundRecord
    from nse_plugin.session.report import RoundReport


@contextmanager
def opened(
    arguments: argparse.Namespace, hparams: NSEHyperParams | None = None, keep: bool = True
) -> Iterator[EditSession]:
    """Run the block with the session of --session on the model of --model, restored to its last round.

    hparams: for a new session. keep: create the folder of a new session; False: keep the session in memory only.
    """
    from nse_plugin.cli.options import check_device
    from nse_plugin.models.loading import load
    from nse_plugin.session import EditSession

    check_device(arguments)
    model, tokenizer = load(arguments.model, arguments.dtype, arguments.device)
    if hparams is not None and not keep and not Path(arguments.session).exists():
        yield EditSession(model, tokenizer, hparams)
        return
    with EditSession.open(arguments.session, model, tokenizer, hparams) as session:
        yield session


def row_of(record: RoundRecord) -> dict[str, Any]:
    """Return a round as a row of tables and JSON."""
    return {
        "number": record.number,
        "id": record.id[:8],
        "time": record.time,
        "author": record.author,
        "reason": record.reason,
        "facts": len(record.facts),
        "done": sum(status == "done" for status in record.statuses),
        "said": int(record.report.frame["is_said"].sum()),
    }


def fact_rows(facts: Sequence[Fact], report: RoundReport) -> list[dict[str, Any]]:
    """Return the rows of a round's report, with each fact's prompt and target."""
    from nse_plugin.cli.tables import records

    rows = records(report.frame)
    return [{**row, "prompt": fact.text, "target": fact.target_new} for row, fact in zip(rows, facts, strict=True)]


ROUND_COLUMNS = {
    "number": "round", "id": "id", "time": "time (UTC)", "author": "author", "reason": "reason", "facts": "facts",
    "done": "done", "said": "said",
}  # fmt: skip
