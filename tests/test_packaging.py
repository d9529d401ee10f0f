"""The wheel made by `python -m build` contains the presets and the demo facts, and finds them when installed."""

from __future__ import annotations

import configparser
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
FROM_THE_WHEEL = """
from nse_plugin.hparams import NSEHyperParams
from nse_plugin.demo.run import demo_records
for name in ("gpt2-xl", "gpt-j-6B", "llama3-8b", "smollm2-135m"):
    assert NSEHyperParams.from_hparams(name).layers
assert len(demo_records()) >= 60
import nse_plugin; print(nse_plugin.__file__)
"""


def extras():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    needs = {name: [line for line in text.splitlines() if line and line[0] != "#"] for name, text in
             settings["options.extras_require"].items()}  # fmt: skip
    return {name: [Requirement(line) for line in lines] for name, lines in needs.items()}


@pytest.mark.parametrize("extra", [name for name, needs in extras().items() if any("hydra" in n.name for n in needs)])
def test_hydra_is_a_final_release_whichever_extra_brings_it(extra):
    """Its plugins ask for `hydra-core>=1.1.0.dev7`, which lets pip take a pre-release that they do not work with."""
    [hydra] = [need for need in extras()[extra] if need.name == "hydra-core"]
    assert "1.3.8" in hydra.specifier
    assert not hydra.specifier.contains("1.4.0rc3", prereleases=True)


def test_optuna_sweeps_can_be_stored():
    """hydra-optuna-sweeper needs optuna 2, whose storage fails with SQLAlchemy 2 (`AssertionError`)."""
    [sqlalchemy] = [need for need in extras()["sweeps"] if need.name == "sqlalchemy"]
    assert "1.4.54" in sqlalchemy.specifier
    assert "2.0.0" not in sqlalchemy.specifier


def test_what_was_checked_is_what_the_extras_allow():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    checked = {
        canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines) if version
    }
    for needs in extras().values():
        for need in needs:
            version = checked.get(canonicalize_name(need.name))
            assert version is None or need.specifier.contains(version, prereleases=True), need


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
