"""The LaTeX table."""

from __future__ import annotations

from fabricated import FAILED, METHODS, results_folder
from report_pages import changed

from nse_plugin.experiments.report.page.html import write_report


def test_the_table_for_latex_has_the_same_numbers(finished) -> None:
    folder, page = finished
    lines = (folder / "table.tex").read_text(encoding="utf-8").splitlines()
    rows = {line.split(" & ")[0]: line.removesuffix(r" \\").split(" & ")[1:] for line in lines if " & " in line}
    assert list(rows) == ["", "before", *(name for name in METHODS if name not in ("NSE", FAILED)), "NSE"]
    assert "Consistency" not in rows[""]  # nobody measured it
    assert rows["NSE"][0] == r"\textbf{100.00} {\scriptsize(84--100)}"
    assert rows["ROME"][2].startswith(page.row("ROME")[2][:5])
    assert not any(mark in "".join(lines) for mark in ("\N{EN DASH}", "\N{MINUS SIGN}", "∞"))


def test_names_are_escaped_for_latex(tmp_path, no_plots) -> None:
    folder = results_folder(tmp_path / "run", ("NSE", "FT-W"))
    for name in ("summary", "facts", "texts"):
        changed(folder, name, lambda f: f.replace({"method": {"FT-W": "FT_100%"}}))
    write_report(folder)
    assert r"FT\_100\% & " in (folder / "table.tex").read_text(encoding="utf-8")
