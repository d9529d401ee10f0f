"""Published results are shown next to results on the same data."""

from __future__ import annotations

import json

import pytest
from fabricated import results_folder
from report_pages import report_of

from nse_plugin.experiments.report.page.published import PUBLISHED, TITLES
from nse_plugin.facts.files import PUBLISHED as DATA_SETS


def test_published_rows_are_complete() -> None:
    rows = [values for methods in PUBLISHED.values() for values in methods.values()]
    assert {len(values) for values in rows} == {len(TITLES)}


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        ({"path": "/cache/counterfact.json"}, True),
        ({"path": "CounterFact_500.json"}, True),
        ({"path": "renamed.json", "sha256": DATA_SETS["counterfact"].sha256}, True),
        ({"path": "zsre_mend_eval.json", "sha256": "1"}, False),
        ({"path": "counterfact/facts.csv"}, False),
    ],
)
def test_published_figures_stand_only_beside_the_same_data(tmp_path, no_plots, data, shown) -> None:
    folder = results_folder(tmp_path / "run", ("NSE", "ROME"))
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    (folder / "run.json").write_text(json.dumps({**run, "data": data}), encoding="utf-8")
    assert ("Published figures" in report_of(folder).text) == shown
