from __future__ import annotations

import pytest
from fabricated import results_folder
from report_pages import report_of

from nse_plugin.experiments.report.page import html as page


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A results folder and its report, which tests must not change."""
    folder = results_folder(tmp_path_factory.mktemp("results") / "run")
    return folder, report_of(folder)


@pytest.fixture
def no_plots(monkeypatch):
    """Leave the plots out of a report: they take most of its time."""
    monkeypatch.setattr(page, "figures_of", lambda results: {})
