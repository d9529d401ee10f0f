"""Every causal language model type of the installed transformers is exact or refused, as the packaged table says."""

from __future__ import annotations

import re

import pytest
import torch
import transformers
from packaging.version import Version
from small_models import TYPES
from verdicts import measured

from nse_plugin.cli.tested_types import (
    EXACT,
    NOT_MEASURED,
    REFUSED,
    MeasuredType,
    measured_versions,
    nearest_version,
    read_types,
    write_types,
)

IS_MEASURED = transformers.__version__ in measured_versions()
TABLE = {one.type: one for one in read_types(transformers.__version__ if IS_MEASURED else measured_versions()[-1])}


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.skipif(
    Version(transformers.__version__) < Version(measured_versions()[0]), reason="older than the oldest table"
)
@pytest.mark.parametrize("kind", TYPES)
def test_a_type_is_exact_or_refused_in_one_sentence(kind):
    found = measured(kind)  # fails for a type that crashes, or is wrong and not refused
    if found.verdict == REFUSED:
        assert_one_sentence(found.why)
    if IS_MEASURED:
        assert without_numbers(found) == without_numbers(TABLE[kind])
    elif kind in TABLE and TABLE[kind].verdict != NOT_MEASURED and found.verdict != NOT_MEASURED:
        assert found.verdict == TABLE[kind].verdict


def assert_one_sentence(text):
    assert text.endswith(".")
    assert "\n" not in text
    assert ". " not in text.replace("e.g. ", "").replace("...", "")


def without_numbers(one: MeasuredType) -> list[str]:
    return [re.sub(r"[-\d.,%]+", "#", str(value)) for value in vars(one).values()]


@pytest.mark.parametrize("version", measured_versions())
def test_a_table_says_of_every_type_how_or_why_not(version):
    types = read_types(version)
    assert len({one.type for one in types}) == len(types)
    assert {one.verdict for one in types} <= {EXACT, REFUSED, NOT_MEASURED}
    for one in types:
        assert bool(one.w_out) == bool(one.rows) == (one.verdict == EXACT)
        assert bool(one.why) == (one.verdict != EXACT)


def test_at_least_a_hundred_types_of_the_newest_version_are_exact():
    assert sum(one.verdict == EXACT for one in read_types(measured_versions()[-1])) >= 100


def test_a_table_is_read_as_it_was_written(tmp_path, monkeypatch):
    types = [
        MeasuredType("one", EXACT, "whole rows", "layers.{}.mlp", True),
        MeasuredType("other", REFUSED, why='It has no "MLP", sorry.'),
    ]
    write_types(tmp_path, "7.0.1", types)
    monkeypatch.setattr("nse_plugin.cli.tested_types.files", lambda _: tmp_path)
    assert measured_versions() == ["7.0.1"]
    assert read_types("7.0.1") == types


@pytest.mark.parametrize(
    ("installed", "nearest"), [("4.57.6", "5.5.4"), ("5.5.4", "5.5.4"), ("5.23.1", "5.5.4"), ("6.0.0.dev0", "5.24.0")]
)
def test_the_nearest_table(installed, nearest, monkeypatch):
    monkeypatch.setattr("nse_plugin.cli.tested_types.measured_versions", lambda: ["5.5.4", "5.24.0"])
    monkeypatch.setattr("nse_plugin.cli.tested_types.version", lambda _: installed)
    assert nearest_version() == nearest
