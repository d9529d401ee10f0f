"""Empty stand-in modules for packages that `import easyeditor` imports but text editing does not need."""

from __future__ import annotations

import importlib
import importlib.util
import sys

import pytest

from nse_plugin.easyedit import standins
from nse_plugin.easyedit.standins import stand_ins

PART, MISSING, THERE = "easyeditor.trainer.blip2_models", "a_library_nobody_has", "json"


@pytest.fixture(autouse=True)
def own_libraries(monkeypatch):
    """And whatever the stand-ins leave behind is gone after the test."""
    monkeypatch.setattr(standins, "_LIBRARIES", {MISSING: ("Client",), THERE: ("Client",)})
    monkeypatch.setattr(sys, "modules", dict(sys.modules))


def test_missing_libraries_have_one_within_and_none_afterwards():
    with stand_ins():
        client = importlib.import_module(MISSING).Client
        assert importlib.import_module(THERE).loads("1") == 1  # what is there is used
    assert MISSING not in sys.modules
    assert importlib.util.find_spec(MISSING) is None
    with pytest.raises(ImportError, match=f"Client is not available: {MISSING} could not be imported.*requirements"):
        client(key=1)


def test_those_of_easyedits_own_parts_stay():
    """It imports some of them again later."""
    with stand_ins():
        pass
    with pytest.raises(ImportError, match="Blip2OPT is not available"):
        sys.modules[PART].Blip2OPT()


def test_libraries_go_also_after_an_error():
    with pytest.raises(KeyError), stand_ins():
        raise KeyError
    assert MISSING not in sys.modules
