"""`nse compare` passes its arguments to the hydra application."""

from __future__ import annotations

import pytest

from nse_plugin.cli import main
from nse_plugin.experiments.run import application


@pytest.mark.parametrize(
    ("given", "handed_on"),
    [
        (["facts=4", "methods=[NSE]"], ["facts=4", "methods=[NSE]"]),
        (["--help"], ["--help"]),  # hydra's, not argparse's
        (["facts=4", "--skip-bad"], ["facts=4", "data.skip_bad=true"]),
    ],
)
def test_settings_are_handed_on(given, handed_on, monkeypatch):
    asked = []
    monkeypatch.setattr(application, "compare", asked.append)
    assert main(["compare", *given]) == 0
    assert asked == [handed_on]


def test_a_word_that_is_no_setting_is_named(capsys):
    assert main(["compare", "facts"]) in (1, 2)
    assert "'facts' is no setting: settings are written NAME=VALUE" in capsys.readouterr().err
