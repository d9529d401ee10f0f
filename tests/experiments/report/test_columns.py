"""Table columns, and how their values are formatted."""

from __future__ import annotations

import numpy as np
from fabricated import results_folder
from report_pages import changed, report_of, summary_of

from nse_plugin.experiments.report.columns import ability_columns


def test_questions_and_what_was_kept_of_them_stand_side_by_side() -> None:
    summary = summary_of(
        A=dict.fromkeys(("ability_a", "ability_b_c", "task_d", "ability_a_kept", "ability_b_c_kept"), 0.5)
    )
    assert [column.title for column in ability_columns(summary)] == ["a", "a, kept", "b c", "b c, kept"]


def test_infinite_and_huge_perplexity(tmp_path) -> None:
    folder = results_folder(tmp_path / "run", ("NSE", "MEMIT", "ROME"))

    def burst(frame):
        broken = (frame["metric"] == "perplexity") & (frame["edits"] == 20)
        frame.loc[broken & (frame["method"] == "MEMIT"), "value"] = np.inf
        frame.loc[broken & (frame["method"] == "ROME"), "value"] = 3.21e9
        return frame

    changed(folder, "summary", burst)
    page = report_of(folder)
    assert page.row("MEMIT")[8] == "∞"
    assert page.row("ROME")[8] == "3.2e9"
