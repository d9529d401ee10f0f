"""`nse sweep`."""

from __future__ import annotations

import re

import pytest

from nse_plugin.cli import main


@pytest.mark.parametrize("flag", [["--help"], ["-h"], ["--help", "data=counterfact"], ["-m", "-h"]])
def test_help_for_a_sweep_loads_nothing_and_says_what_there_is(flag, tmp_path, capsys, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("something is loaded, or downloaded")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("nse_plugin.facts.files.load_facts", refuse)
    monkeypatch.setattr("pooch.HTTPDownloader.__call__", refuse)
    monkeypatch.setattr("nse_plugin.models.loading.load", refuse)
    with pytest.raises(SystemExit) as caught:
        main(["sweep", *flag])
    assert caught.value.code == 0
    said = capsys.readouterr().out
    assert not re.search(r"^(methods|experiment|fields): ", said, re.MULTILINE)  # groups of `nse compare`
    for words in ("mom2_update_weight", "max_iterations", "efficacy, generalization, specificity, score"):
        assert words in said
    for launcher in ("basic", "joblib", "submitit_slurm", "ray"):
        assert launcher in said
    assert list(tmp_path.iterdir()) == []
