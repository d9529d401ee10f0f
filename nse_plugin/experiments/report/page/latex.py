"""A comparison's table for LaTeX."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from nse_plugin.experiments.report.columns import ABSENT, MINUS, TO
from nse_plugin.experiments.report.rows import Row, TableCell


def latex_table(rows: Sequence[Row]) -> str:
    """Format the first table for LaTeX (package booktabs), without columns and methods that have no numbers."""
    measured = {row.method: row.cells for row in rows if row.absence is None}
    titles = [title for cells in measured.values() for title in cells]
    used = [title for title in dict.fromkeys(titles) if any(cells[title].text != ABSENT for cells in measured.values())]
    texts = {name: [_latex_cell(cells[title]) for title in used] for name, cells in measured.items()}
    table = pd.DataFrame.from_dict(texts, orient="index", columns=used)
    styled = table.style.format_index(escape="latex", axis="index")
    body: str = styled.to_latex(hrules=True, column_format="l" + "r" * len(used))
    return (
        f"% Bold: best of its column, or not significantly worse; in brackets: 95% intervals. Needs booktabs.\n{body}"
    )


def _latex_cell(cell: TableCell) -> str:
    text = cell.text.replace(MINUS, "$-$").replace("∞", r"$\infty$").replace(ABSENT, "--")
    around = f" {{\\scriptsize({cell.interval.replace(TO, '--').replace(MINUS, '$-$')})}}" if cell.interval else ""
    return (rf"\textbf{{{text}}}" if cell.best else text) + around
