"""`nse models`: the table of model types, without importing torch."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from nse_plugin.cli import main
from nse_plugin.cli.tested_types import measured_versions, nearest_version, read_types


def test_all_types_and_their_counts(capsys):
    assert main(["models"]) == 0
    said = capsys.readouterr().out
    types = read_types(nearest_version())
    for one in types:
        assert f" {one.type} " in said
    exact = sum(one.verdict == "exact" for one in types)
    assert f"{len(types)} types: {exact} exact" in said
    assert "\x1b" not in said


def test_some_types(capsys):
    assert main(["models", "llama", "mixtral", "--transformers", measured_versions()[-1], "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["transformers"] == measured_versions()[-1]
    [llama, mixtral] = found["types"]
    assert (llama["verdict"], llama["rows"], llama["w_out"]) == (
        "exact", "prefix cache", "model.layers.{}.mlp.down_proj",
    )  # fmt: skip
    assert mixtral["verdict"] == "refused"
    assert "experts" in mixtral["why"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lama"], "'lama' is no causal language model of transformers"),
        (["--transformers", "1.0"], "--transformers 1.0: there are tables for"),
    ],
)
def test_what_there_is_no_table_for(arguments, message, capsys):
    assert main(["models", *arguments]) == 1
    assert message in capsys.readouterr().err


def test_torch_is_not_imported():
    code = "import sys; from nse_plugin.cli import main; main(['models']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
