"""The wheel that `python -m build` makes carries the presets and the demo facts, and finds them."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FROM_THE_WHEEL = """
from nse_plugin.hparams import NSEHyperParams
from nse_plugin.demo.run import demo_records
for name in ("gpt2-xl", "gpt-j-6B", "llama3-8b", "smollm2-135m"):
    assert NSEHyperParams.from_hparams(name).layers
assert len(demo_records()) >= 60
import nse_plugin; print(nse_plugin.__file__)
"""


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """A folder with what the wheel would install."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("nse_plugin", "hparams"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, source]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-2000:]
    with zipfile.ZipFile(next(out.glob("*.whl"))) as wheel:
        wheel.extractall(out / "unpacked")
    return out / "unpacked"


def test_every_module_is_in_it(unpacked):
    modules = {path.relative_to(ROOT) for path in (ROOT / "nse_plugin").rglob("*.py")}
    assert modules <= {path.relative_to(unpacked) for path in unpacked.rglob("*.py")}


def test_presets_and_facts_are_found(unpacked, tmp_path):
    code = f"import sys; sys.path.insert(0, {str(unpacked)!r})\n{FROM_THE_WHEEL}"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert str(unpacked) in done.stdout
