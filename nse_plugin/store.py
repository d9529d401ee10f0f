"""A folder of tensors addressed by what they were computed from, kept for other runs: values z, second moments, and the
null spaces of second moments.

Everything that may change a tensor is part of its address (`method.value_cache_key`, `moments.cache_key`,
`method.subspace`), so any number of processes and machines can fill a store at once: two that compute the same tensor
write the same file.

    <folder>/ab/ab12...ef.safetensors     the tensor; its metadata: kind, description, SHA-256 of its bytes
             index/<writer>.jsonl         one line per tensor that a process wrote, so `ls` need not open the files

A file is written under a temporary name and then renamed. A file with a wrong checksum is set aside (`.corrupt`), and
its tensor is computed again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from nse_plugin.support.files import file_in_the_way, written_whole

log = logging.getLogger(__name__)

VALUE, MOMENT, NULL_SPACE = "value", "moment", "null space"
_SUFFIX, _CORRUPT = ".safetensors", ".corrupt"
_ABANDONED = 3600.0  # seconds after which an unfinished file is taken to be left by a killed process
# temporary files of `support.files.written_whole`, and second moments whose measurement is unfinished
_UNFINISHED = (f"??/.{'[0-9a-f]' * 64}.*{_SUFFIX}", "index/.*.jsonl", "nse_partial-*", ".nse_partial-*")
_ADDRESS = re.compile(r"[0-9a-f]{64}")
_DAMAGED = (SafetensorError, KeyError, TypeError, ValueError)
_WRITER = uuid.uuid4().hex  # names this process's file in the index of every store


@dataclass(frozen=True)
class Entry:
    """A tensor in a store. kind: `value`, `moment` or `null space`. about: its fact; its layer and
    text; its threshold."""

    address: str
    kind: str
    about: str
    bytes: int


class StoreError(ValueError):
    """A folder that cannot be used as a store; the message names it and the remedy."""


class Store:
    """A folder of tensors by address."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()

    @classmethod
    def at(cls, folder: str | Path) -> Store:
        """Open an existing store. Raises StoreError if there is no such folder, or it contains other things."""
        store = cls(folder)
        if not store.folder.is_dir():
            raise StoreError(f"There is no store {str(folder)!r}: give the folder that `store` was set to.")
        if not store.is_store():
            raise StoreError(f"{str(folder)!r} is no store: give the folder that `store` was set to.")
        return store

    def is_store(self) -> bool:
        """Whether the folder, which must exist, is empty or contains files of a store."""
        own = (*self._own(_SUFFIX), *self._own(_CORRUPT), *self.folder.glob("index/*.jsonl"))
        return bool(own) or any(self.folder.glob("nse_partial-*")) or not any(self.folder.iterdir())

    def check_folder(self) -> None:
        """Raise StoreError if the store's folder cannot be a folder."""
        if file := file_in_the_way(self.folder):
            raise StoreError(f"store = {str(self.folder)!r} cannot be used: {file} is a file; name a folder.")

    def get(self, address: str) -> Tensor | None:
        """Return the tensor (of any shape) at an address; None if there is none, or its file is damaged or cannot be
        read."""
        path = self._path(address)
        try:
            tensor = _read(path)
        except FileNotFoundError:
            return None
        except OSError as error:  # no permission, or a host is down: the file may be intact
            log.warning("%s cannot be read (%s): what it holds is computed again.", path, error)
            return None
        except _DAMAGED as error:
            _put_aside(path, error)
            return None
        with contextlib.suppress(OSError):  # the store may be read-only
            os.utime(path)  # the last use, for `gc`
        return tensor

    def put(self, address: str, tensor: Tensor, kind: str, about: str) -> None:
        """Store a tensor of any shape. kind, about: as in `Entry`. Raises OSError if it cannot be written."""
        tensor = tensor.detach().cpu().contiguous()
        described = {"kind": kind, "about": about}
        with written_whole(self._path(address)) as path:
            save_file({"tensor": tensor}, path, {**described, "sha256": _sha256_of(tensor)})
        index = self.folder / "index" / f"{_WRITER}.jsonl"
        index.parent.mkdir(exist_ok=True)
        with index.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"address": address, **described}) + "\n")

    def put_all(self, entries: Iterable[tuple[str, Tensor, str, str]]) -> None:
        """`put` every (address, tensor, kind, about) whose tensor, of any shape, is finite. If the store cannot be
        written to, log one warning and stop."""
        try:
            for address, tensor, kind, about in entries:
                if tensor.isfinite().all():
                    self.put(address, tensor, kind, about)
        except (OSError, SafetensorError) as error:
            log.warning("store %s cannot be written to (%s): what was computed is not kept.", self.folder, error)

    def entries(self) -> list[Entry]:
        """Return all tensors, sorted by `kind` and `about`."""
        known = self._index()
        found = []
        for path in self._files():
            address = path.name.removesuffix(_SUFFIX)
            try:
                about = known.get(address) or _metadata(path)
                size = path.stat().st_size
            except (OSError, SafetensorError):  # removed meanwhile, or damaged, which `verify` reports
                continue
            found.append(Entry(address, about["kind"], about["about"], size))
        return sorted(found, key=lambda entry: (entry.kind, entry.about))

    def verify(self) -> tuple[int, list[Path]]:
        """Read every tensor, and set damaged files aside. Returns the number of intact tensors, and the damaged
        files."""
        sound, damaged = 0, []
        for path in list(self._files()):
            try:
                _read(path)
                sound += 1
            except FileNotFoundError:  # removed by another process's `gc`
                continue
            except _DAMAGED as error:
                _put_aside(path, error)
                damaged.append(path)
        return sound, damaged

    def gc(self, unused_for: float | None = None) -> tuple[int, int]:
        """Delete unused files: damaged files that were set aside, unfinished files of killed processes and, if
        `unused_for` is given, tensors that were not used for that many seconds. Returns the numbers of files and bytes
        removed."""
        doomed = [(path, 0.0) for path in self._own(_CORRUPT)]
        doomed += [(path, _ABANDONED) for pattern in _UNFINISHED for path in self.folder.glob(pattern)]
        if unused_for is not None:
            doomed += [(path, unused_for) for path in self._files()]
        now, files, freed = time.time(), 0, 0
        for path, age in doomed:
            with contextlib.suppress(FileNotFoundError):  # removed by another process's `gc`
                stat = path.stat()
                if now - stat.st_mtime >= age:
                    path.unlink()
                    files, freed = files + 1, freed + stat.st_size
        self._write_index_anew()
        return files, freed

    def _files(self) -> Iterator[Path]:
        return self._own(_SUFFIX)

    def _own(self, suffix: str) -> Iterator[Path]:
        """Yield the files that are named by an address; other files in the folder do not belong to the store."""
        for path in self.folder.glob(f"??/*{suffix}"):
            address = path.name.removesuffix(suffix)
            if _ADDRESS.fullmatch(address) and address.startswith(path.parent.name):
                yield path

    def _path(self, address: str) -> Path:
        return self.folder / address[:2] / f"{address}{_SUFFIX}"

    def _index(self) -> dict[str, dict[str, str]]:
        """Return kind and description of tensors by address, as writers recorded them. A truncated line is skipped,
        since the tensor's file has the same metadata."""
        known = {}
        for path in self.folder.glob("index/[!.]*.jsonl"):
            try:
                lines = path.read_text(encoding="utf-8").splitlines()
            except OSError:  # replaced meanwhile
                continue
            for line in lines:
                try:
                    entry = json.loads(line)
                    known[entry["address"]] = {"kind": entry["kind"], "about": entry["about"]}
                except (json.JSONDecodeError, KeyError, TypeError):
                    continue
        return known

    def _write_index_anew(self) -> None:
        """Replace all index files by one. If a writer adds a line to an old file meanwhile, only that line is lost."""
        old = list(self.folder.glob("index/[!.]*.jsonl"))
        if not old:  # entries() then reads the tensors' files
            return
        entries = [{"address": entry.address, "kind": entry.kind, "about": entry.about} for entry in self.entries()]
        with written_whole(self.folder / "index" / f"{uuid.uuid4().hex}.jsonl") as path:
            path.write_text("".join(json.dumps(line) + "\n" for line in entries), encoding="utf-8")
        for path in old:
            path.unlink(missing_ok=True)


def _read(path: Path) -> Tensor:
    if not path.is_file():
        raise FileNotFoundError(path)
    with safe_open(path, framework="pt") as file:
        tensor: Tensor = file.get_tensor("tensor")
        recorded = file.metadata()["sha256"]
    if _sha256_of(tensor) != recorded:
        raise ValueError("its bits are not those that were written")
    return tensor


def _metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
    return {"kind": metadata.get("kind", "?"), "about": metadata.get("about", "?")}


def _put_aside(path: Path, damage: Exception) -> None:
    log.warning("%s is damaged (%s): put aside as .corrupt, what it held is computed again.", path, damage)
    try:
        path.replace(path.with_suffix(_CORRUPT))
    except OSError as error:
        log.warning("%s cannot be put aside: %s.", path, error)


def _sha256_of(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.reshape(-1).view(torch.uint8).numpy().data).hexdigest()
