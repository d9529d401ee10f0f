"""Finding and importing EasyEdit, with a small fake clone that has the same quirks as the real one."""

from __future__ import annotations

import importlib.util
import logging
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from nse_plugin.easyedit.locate import import_easyedit

MISBEHAVIOUR = """
import logging, os, random
import numpy, torch
torch.manual_seed(42); numpy.random.seed(42); random.seed(42)
logging.basicConfig(level=logging.INFO)
os.environ["CUDA_LAUNCH_BLOCKING"] = "1"
"""


@pytest.fixture(autouse=True)
def nothing_imported(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Set the easyeditor of this process aside."""
    aside = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "easyeditor"}
    for name in aside:
        del sys.modules[name]
    monkeypatch.delenv("EASYEDIT_HOME", raising=False)
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "easyeditor"]:
        del sys.modules[name]
    sys.modules.update(aside)


def make_clone(home: Path, code: str) -> Path:
    (home / "easyeditor" / "trainer").mkdir(parents=True)
    (home / "easyeditor" / "__init__.py").write_text(code, encoding="utf-8")
    (home / "easyeditor" / "trainer" / "__init__.py").write_text("", encoding="utf-8")
    return home


def test_the_clone_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = make_clone(tmp_path / "clone", "HERE = 'the clone'")
    monkeypatch.setenv("EASYEDIT_HOME", str(home))
    package = import_easyedit()
    assert package.HERE == "the clone"
    assert import_easyedit() is package
    assert str(home) not in sys.path


def test_the_import_disturbs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EASYEDIT_HOME", str(make_clone(tmp_path / "clone", MISBEHAVIOUR)))
    monkeypatch.delenv("CUDA_LAUNCH_BLOCKING", raising=False)
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])  # basicConfig does something only on a bare root
    level = root.level

    def draw() -> tuple[float, float, float]:
        return torch.rand(1).item(), float(np.random.rand()), random.random()

    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    expected = draw()
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])
    random.setstate(states[2])
    import_easyedit()
    assert draw() == expected
    assert (root.handlers, root.level) == ([], level)
    assert "CUDA_LAUNCH_BLOCKING" not in os.environ


def test_a_missing_vision_library_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import zhipuai\nfrom .trainer.blip2_models import Blip2OPT"
    home = make_clone(tmp_path / "clone", code)
    vision = home / "easyeditor" / "trainer" / "blip2_models.py"
    vision.write_text("raise RuntimeError('operator torchvision::nms does not exist')", encoding="utf-8")
    monkeypatch.setenv("EASYEDIT_HOME", str(home))
    package = import_easyedit()
    with pytest.raises(ImportError, match=r"Blip2OPT is not available.*requirements"):
        package.Blip2OPT()
    if importlib.util.find_spec("zhipuai") is None:
        assert "zhipuai" not in sys.modules, "others would take the stand-in for the real library"


def test_a_complete_installation_gets_no_stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = make_clone(tmp_path / "clone", "from .trainer.blip2_models import Blip2OPT")
    vision = home / "easyeditor" / "trainer" / "blip2_models.py"
    vision.write_text("class Blip2OPT: real = True", encoding="utf-8")
    monkeypatch.setenv("EASYEDIT_HOME", str(home))
    assert import_easyedit().Blip2OPT.real


def test_what_else_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = make_clone(tmp_path / "clone", "import no_such_library")
    monkeypatch.setenv("EASYEDIT_HOME", str(home))
    with pytest.raises(ImportError, match=r"no_such_library.*requirements.txt"):
        import_easyedit()
    assert "easyeditor" not in sys.modules


def test_no_easyedit_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"EASYEDIT_HOME.*or run `pip install --no-deps easyeditor"):
        import_easyedit()


def test_a_home_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EASYEDIT_HOME", str(tmp_path))
    with pytest.raises(ImportError, match=r"EASYEDIT_HOME is .* no folder 'easyeditor'"):
        import_easyedit()


def test_another_copy_is_loaded_already(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EASYEDIT_HOME", str(make_clone(tmp_path / "one", "")))
    import_easyedit()
    monkeypatch.setenv("EASYEDIT_HOME", str(make_clone(tmp_path / "two", "")))
    with pytest.raises(ImportError, match="already imported"):
        import_easyedit()
