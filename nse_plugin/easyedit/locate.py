"""Find and import EasyEdit: the clone that `EASYEDIT_HOME` names, else the installed package."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from nse_plugin.easyedit.standins import stand_ins

HOW_TO_GET_IT = (
    "EasyEdit was not found: clone https://github.com/zjunlp/EasyEdit and set EASYEDIT_HOME to that folder, "
    "or run `pip install --no-deps easyeditor==0.0.1.dev0`."
)


def import_easyedit() -> ModuleType:
    """Import EasyEdit once and return its package.

    A second call returns the same package. The import leaves the random states, the root logger and
    the environment as they were, and needs neither torchvision nor a GPU nor a network.

    Raises:
        ImportError: there is no EasyEdit, `EASYEDIT_HOME` is not a clone of it, another copy of it is
            already loaded in this process, or something it needs is not installed.
    """
    home = _home()
    loaded = sys.modules.get("easyeditor")
    if loaded is not None:
        if home is not None and not _lies_in(loaded, home):
            raise ImportError(
                f"EASYEDIT_HOME is {str(home)!r}, but this process has already imported the easyeditor at "
                f"{_where(loaded)!r}: set EASYEDIT_HOME before the first import, or unset it."
            )
        return loaded

    with _search_first(home), _undisturbed():
        if importlib.util.find_spec("easyeditor") is None:
            raise ImportError(HOW_TO_GET_IT)
        try:
            return importlib.import_module("easyeditor")
        except Exception:  # a vision library too old or too new fails in many ways
            _forget("easyeditor")
        try:
            with stand_ins():
                return importlib.import_module("easyeditor")
        except Exception as error:
            _forget("easyeditor")
            raise ImportError(
                f"EasyEdit was found but could not be imported ({error}): install what it needs, see its "
                "requirements.txt."
            ) from error


def _home() -> Path | None:
    """The clone named by `EASYEDIT_HOME`, or None when the variable is unset or empty."""
    value = os.environ.get("EASYEDIT_HOME")
    if not value:
        return None
    home = Path(value).expanduser().resolve()
    if not (home / "easyeditor" / "__init__.py").is_file():
        raise ImportError(
            f"EASYEDIT_HOME is {value!r}, but there is no folder 'easyeditor' in it: point it at the root of "
            "a clone of https://github.com/zjunlp/EasyEdit, or unset it."
        )
    return home


def _where(package: ModuleType) -> str:
    return str(Path(package.__file__ or "").resolve().parent)


def _lies_in(package: ModuleType, home: Path) -> bool:
    return _where(package) == str(home / "easyeditor")


@contextlib.contextmanager
def _search_first(home: Path | None) -> Iterator[None]:
    """Look in `home` first, for this import only: a clone also holds folders such as `examples`, which
    must not hide the user's own."""
    if home is None:
        yield
        return
    sys.path.insert(0, str(home))
    try:
        yield
    finally:
        sys.path.remove(str(home))


def _forget(package: str) -> None:
    """Drop what a failed import left in sys.modules, so that the next attempt starts afresh."""
    for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
        del sys.modules[name]


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Undo what importing EasyEdit does to the process: it seeds every generator with 42, configures the
    root logger and sets CUDA_LAUNCH_BLOCKING, which makes every later CUDA call wait."""
    python_state, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda_runs = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    cuda_states = torch.cuda.get_rng_state_all() if cuda_runs else None
    launch_blocking = os.environ.get("CUDA_LAUNCH_BLOCKING")
    placeholder = logging.NullHandler()  # logging.basicConfig does nothing when the root has a handler
    logging.getLogger().addHandler(placeholder)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(placeholder)
        if launch_blocking is None:
            os.environ.pop("CUDA_LAUNCH_BLOCKING", None)
        else:
            os.environ["CUDA_LAUNCH_BLOCKING"] = launch_blocking
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)
        if cuda_states is not None:
            torch.cuda.set_rng_state_all(cuda_states)
        else:  # CUDA has not started: a seed given now, the user's or torch's own, replaces the queued 42
            torch.cuda.manual_seed_all(torch.initial_seed())
