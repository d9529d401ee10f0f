"""Find and import EasyEdit: the clone that `EASYEDIT_HOME` names, otherwise the installed package."""

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

    A second call returns the same package. The import does not change the random states, the root logger or the
    environment, and needs neither torchvision nor a GPU nor a network.

    Raises:
        ImportError: EasyEdit was not found, `EASYEDIT_HOME` is not a clone of it, another copy of it is already loaded
            in this process, or one of its dependencies is not installed.
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
        except Exception:  # an incompatible vision library fails in many ways
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
    """Return the clone named by `EASYEDIT_HOME`, or None if the variable is unset or empty. Raises ImportError if it is
    not a clone of EasyEdit."""
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
    """Put `home` first in `sys.path` for the block only: a clone also has folders such as `examples`, which must not
    shadow the user's own."""
    if home is None:
        yield
        return
    sys.path.insert(0, str(home))
    try:
        yield
    finally:
        sys.path.remove(str(home))


def _forget(package: str) -> None:
    """Remove a package and its modules from `sys.modules`, so that the next import starts afresh after a failed one."""
    for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
        del sys.modules[name]


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Undo the side effects of importing EasyEdit in the block: it seeds every random generator with 42, configures the
    root logger and sets CUDA_LAUNCH_BLOCKING, which makes every later CUDA call wait."""
    python_state, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda_runs = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    cuda_states = torch.cuda.get_rng_state_all() if cuda_runs else None
    launch_blocking = os.environ.get("CUDA_LAUNCH_BLOCKING")
    placeholder = logging.NullHandler()  # logging.basicConfig does nothing if the root logger has a handler
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
        else:  # CUDA is not initialised: the seed set here replaces the queued 42
            torch.cuda.manual_seed_all(torch.initial_seed())
