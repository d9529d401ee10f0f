"""The page of a session: one self-contained HTML file with its rounds, its facts, and the changes of the weights."""

from __future__ import annotations

import base64
import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from nse_plugin.session.folder.journal import Head, Journal
from nse_plugin.session.folder.lock import now as time_now
from nse_plugin.session.folder.opening import read_rounds
from nse_plugin.session.folder.record import RoundRecord
from nse_plugin.session.page.facts import REPLACED, Key, Now, fact_rows
from nse_plugin.support.files import written_whole
from nse_plugin.support.suggestions import number_of

if TYPE_CHECKING:
    from jinja2 import Template

_LEAST_SLOTS = 24  # per chart, so that few rounds do not give bars as wide as the page


@dataclass(frozen=True)
class LayerChange:
    """The changes of the matrix of one layer. base: the norm of the matrix before the first round; None if an earlier
    version did not record it. norms: the Frobenius norm of the change, one per round. columns: the number of changed
    columns, one per round."""

    layer: int
    base: float | None
    norms: list[float]
    columns: list[int]

    def share(self, norm: float) -> str:
        """Format a norm as a percentage of the matrix's norm, in brackets; empty if the latter is not known."""
        return f" ({100 * norm / self.base:.2g}%)" if self.base else ""


def default_path(folder: str | os.PathLike[str]) -> Path:
    """Return the default path of the page: next to the session's folder, with its name and `.html`."""
    path = Path(folder).resolve()
    return path.with_name(f"{path.name}.html")


def write_page(folder: str | os.PathLike[str], out: Path, now: Mapping[Key, Now] | None = None) -> None:
    """Write the page of a session's folder. now: the model's answers (`facts.ask`); None to use only the folder.

    Raises SessionError if there is no session or a file is damaged, ValueError if `out` is within the folder,
    ImportError without jinja2, OSError.
    """
    if out.resolve().is_relative_to(Path(folder).resolve()):
        raise ValueError(f"out = {out} is within the session's folder, which has files of rounds only: name another.")
    html = page_of(folder, now)
    with written_whole(out) as path:
        path.write_text(html, encoding="utf-8", errors="replace")  # an author may hold bytes a shell could not decode


def page_of(folder: str | os.PathLike[str], now: Mapping[Key, Now] | None = None) -> str:
    """Return the page as text; the arguments are those of `write_page`."""
    journal, records = Journal(folder), read_rounds(folder)
    facts = fact_rows(records, now or {})
    changes, script = _changes(journal, records), _file("search.js")
    return str(
        _template().render(
            name=Path(folder).resolve().name,
            session=journal.description(),
            made=time_now(),
            rounds=list(reversed(records)),
            facts=list(reversed(facts)),
            facts_of={number: list(rows) for number, rows in groupby(facts, lambda row: row.place.round)},
            states=Counter(row.state for row in facts).most_common(),
            replaced=[row for row in reversed(facts) if row.state == REPLACED],
            changes=changes,
            largest=max((norm for change in changes for norm in change.norms), default=0.0),
            slots=max(_LEAST_SLOTS, len(records)),
            asked=now is not None,
            script=script,
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            number_of=number_of,
        )
    )


def _changes(journal: Journal, records: Sequence[RoundRecord]) -> list[LayerChange]:
    """Return the changes of each layer, with the columns of only one round in memory at a time."""
    about = journal.description()
    norms = about.get("norms", {})
    changes = [LayerChange(layer, norms.get(str(layer)), [], []) for layer in sorted(map(int, about["matrices"]))]
    for record in records:
        columns = journal.columns(Head(record.number, record.id))
        for one in changes:
            change = columns.get(one.layer)
            one.norms.append(float((change.new.double() - change.old.double()).norm()) if change else 0.0)
            one.columns.append(len(change.neurons) if change else 0)
    return changes


def _template() -> Template:
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError as error:
        raise ImportError("The page of a session needs jinja2, which comes with torch: pip install jinja2.") from error
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return page.from_string(_file("session.html.j2"))


def _file(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
