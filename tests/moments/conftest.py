from __future__ import annotations

import dataclasses

import pytest
from moment_files import DOCUMENTS


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "town.txt"
    path.write_text("\n\n".join(DOCUMENTS))
    return str(path)


@pytest.fixture
def settings(hparams, text, tmp_path):
    return dataclasses.replace(
        hparams, mom2_dataset=text, mom2_n_samples=50, tokens_per_batch=130, stats_dir=str(tmp_path / "stats")
    )
