"""`tests/` mirrors `nse_plugin/`: every module has a test file of the same name in the corresponding folder."""

from __future__ import annotations

import ast
from pathlib import Path

from running_order import LONGEST

ROOT = Path(__file__).resolve().parents[1]
PACKAGE, TESTS = ROOT / "nse_plugin", ROOT / "tests"
# Former names, each the module itself under its present one: see test_former_names.py.
FORMER = {
    "datasets", "evaluation/fluency", "experiments/cell", "experiments/comparison", "experiments/instruments",
    "models/past", "models/replay", "second_moments",
}  # fmt: skip


def modules() -> list[str]:
    """As in "method/keys"."""
    found = (path.relative_to(PACKAGE).with_suffix("").as_posix() for path in PACKAGE.rglob("*.py"))
    return sorted(name for name in found if not name.endswith(("__init__", "__main__")))


def test_every_module_has_a_test_file_of_its_name():
    expected = {name: TESTS / Path(name).parent / f"test_{Path(name).name}.py" for name in modules()}
    missing = {name for name, path in expected.items() if not path.is_file()}
    assert missing == FORMER


def test_each_of_them_holds_a_test():
    for path in TESTS.rglob("test_*.py"):
        names = [node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
        assert any(name.startswith("test_") for name in names), path


def test_files_that_run_first_are_there():
    assert all(path.is_file() for path in LONGEST)


def test_packages_only_hand_on_what_their_modules_define():
    """But for the whole one: see test_init.py."""
    packages = [path for path in PACKAGE.rglob("__init__.py") if path.parent != PACKAGE]
    for path in packages:
        body = ast.parse(path.read_text(encoding="utf-8")).body
        assert not [node for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef)], path
