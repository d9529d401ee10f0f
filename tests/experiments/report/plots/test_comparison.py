"""The figures of a comparison show the measured values."""

from __future__ import annotations

import pytest
from fabricated import results_folder
from report_pages import report_of

from nse_plugin.experiments.report.plots import comparison as plots
from nse_plugin.experiments.report.results import Results


def test_a_single_round_has_no_ages(tmp_path) -> None:
    folder = results_folder(tmp_path / "run", ("MEMIT",), checkpoints=(5,))
    page = report_of(folder)
    assert "Do old edits hold?" not in page.text
    assert len(page.best) == 1  # the word that explains the shading: one method is not the best of anything


def test_retention_is_efficacy_by_age_of_the_final_model(finished) -> None:
    results = Results.read(finished[0])
    figure = plots.retention(results.facts)
    assert figure is not None
    facts = results.facts
    memit = facts[(facts["method"] == "MEMIT") & (facts["edits"] == 20)]
    numbers = [text.get_text() for text in figure.axes[0].texts][:4]  # its row is the first
    assert numbers == [f"{100 * memit.loc[memit['age'] == age, 'efficacy'].mean():.0f}" for age in range(4)]


def test_costs_parts_add_up_to_the_seconds_of_a_fact(finished) -> None:
    results = Results.read(finished[0])
    figure = plots.cost(results.summary)
    assert figure is not None
    bars = figure.axes[0].containers
    assert [container.get_label() for container in bars] == ["values", "update", "other"]
    rows = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    nse = [container[rows.index("NSE")].get_width() for container in bars]
    assert nse == pytest.approx([2.6, 0.6, 0.9])
    rome = [container[rows.index("ROME")].get_width() for container in bars]
    assert rome == pytest.approx([0, 0, 5.2])
