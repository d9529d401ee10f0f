"""Values z kept for good, by what they are computed from.

z depends on the unedited model, the token rows of its fact in all contexts, and the settings of the value step: never
on p, alpha, lambda, the number of passes, or what was edited before. A value's address is the hash of exactly these, so
whatever may change z is another address, and any number of processes and machines may share a store: two that compute
the same value write the same thing.

    <folder>/ab/ab12...ef.safetensors      z [d] and, in its metadata, the fact and the SHA-256 of z's bytes

A file is written aside and renamed. One that does not hold what it says is put aside (`.corrupt`) and computed again.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from nse_plugin.home import written_whole
from nse_plugin.hparams import NSEHyperParams
from nse_plugin.models.prompts import FactPrompts

log = logging.getLogger(__name__)

VERSION = 1  # raise it whenever method/values.py computes other values than before
SETTINGS = ("v_num_grad_steps", "v_lr", "v_weight_decay", "kl_factor", "clamp_norm_factor")
_SUFFIX = ".safetensors"


class ValueStore:
    """A folder of values."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()

    def addresses(self, model: str, prompts: Sequence[FactPrompts], hparams: NSEHyperParams) -> list[str]:
        """The address of every fact's value. model: `model_fingerprint` of the unedited model."""
        settings = {name: getattr(hparams, name) for name in SETTINGS}
        shared = {"version": VERSION, "model": model, "layer": hparams.layers[-1], **settings}
        return [
            _sha256(json.dumps({**shared, "rows": [asdict(row) for row in (*fact.rewrites, fact.essence)]}).encode())
            for fact in prompts
        ]

    def get(self, address: str) -> Tensor | None:
        """The value [d] at an address; None when it is not there, or what is there is not sound."""
        path = self._path(address)
        try:
            value = _read(path)
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            log.warning("%s is damaged (%s): put aside as .corrupt, its value is computed again.", path, error)
            _put_aside(path)
            return None
        return value

    def put(self, address: str, value: Tensor, fact: str) -> None:
        """Keep a value [d]. fact: its prompt and target, for `ls`. Raises OSError when it cannot be written."""
        value = value.detach().cpu().contiguous()
        metadata = {"fact": fact, "sha256": _sha256(value.view(torch.uint8).numpy().tobytes())}
        with written_whole(self._path(address)) as path:
            save_file({"z": value}, path, metadata)

    def put_all(self, entries: Iterable[tuple[str, Tensor, str]]) -> None:
        """`put` (address, value, fact), but for values that are not finite; a store that cannot be written to is said,
        once, and no reason to stop."""
        try:
            for address, value, fact in entries:
                if value.isfinite().all():
                    self.put(address, value, fact)
        except OSError as error:
            log.warning("value_store %s cannot be written to (%s): these values are not kept.", self.folder, error)

    def files(self) -> Iterator[Path]:
        """All values' files."""
        return self.folder.glob(f"??/[!.]*{_SUFFIX}")

    def verify(self) -> tuple[int, list[Path]]:
        """Read every value; put aside those that are damaged. Returns how many are sound, and the damaged ones."""
        damaged = [path for path in self.files() if self.get(path.name.removesuffix(_SUFFIX)) is None]
        return sum(1 for _ in self.files()), damaged

    def _path(self, address: str) -> Path:
        return self.folder / address[:2] / f"{address}{_SUFFIX}"


def fact_of(path: Path) -> str:
    """The fact that a file says its value is of. Raises SafetensorError."""
    with safe_open(path, framework="pt") as file:
        return str((file.metadata() or {}).get("fact", ""))


def _read(path: Path) -> Tensor:
    if not path.is_file():
        raise FileNotFoundError(path)
    with safe_open(path, framework="pt") as file:
        value: Tensor = file.get_tensor("z")
        told = file.metadata()["sha256"]
    if _sha256(value.view(torch.uint8).numpy().tobytes()) != told:
        raise ValueError("its bits are not those that were written")
    return value


def _put_aside(path: Path) -> None:
    try:
        path.replace(path.with_suffix(".corrupt"))
    except OSError as error:
        log.warning("%s cannot be put aside: %s.", path, error)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
