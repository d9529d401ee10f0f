"""A session's folder: its files, and the order in which they are written. A kill loses only the unfinished round.

    session.json                  the session's base model, hyperparameters, templates and format
    HEAD                          number and id of the last active round
    rounds/0001-5f3a90c1/         a round, named by its number and the beginning of its id
        round.json                time, author, reason, settings, fingerprints, report, checksums of the other files
        facts.jsonl               one fact per line
        columns.safetensors       the changed columns, before and after the round
        keys.safetensors          the keys that later rounds protect
        masters.safetensors       changed columns of the float32 master copies (`masters.py`), if the model has them
    lock, holder.json             the process that has the session open

A round's folder is written under a temporary name, synced and renamed; replacing HEAD commits the round. A round's id
is the SHA-256 of round.json, which contains the checksums of the other files and the id of the previous round (in the
first round, the hash of session.json). HEAD therefore verifies every byte. Round folders that cannot be reached from
HEAD are not part of the session and are removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from nse_plugin.patch.columns import Columns, columns_from, tensors_of
from nse_plugin.session.folder.lock import HOLDER, LOCK, SessionError, SessionLock
from nse_plugin.session.folder.record import as_json, digest, fact_lines, round_of
from nse_plugin.session.history import Round
from nse_plugin.support.files import folder_written_whole, written_whole

log = logging.getLogger(__name__)

FORMAT = 1
_DESCRIPTION, _HEAD, _ROUNDS = "session.json", "HEAD", "rounds"
_ROUND, _FACTS, _COLUMNS, _KEYS = "round.json", "facts.jsonl", "columns.safetensors", "keys.safetensors"
_MASTERS = "masters.safetensors"
_A_ROUND = re.compile(r"\d{4,}-[0-9a-f]{8}|\.[0-9a-f]{32}")  # a round's folder, or an unfinished one
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, IndexError, RuntimeError, SafetensorError)


class Head(NamedTuple):
    """The last active round. Without active rounds, number is 0 and id is the hash of session.json."""

    number: int
    id: str


class Journal:
    """The folder of a session. Reading needs no lock; a writer holds the lock from `held` to `close`.

    folder: made absolute, so that a change of the working directory does not matter. Raises SessionError, in one
    sentence that names the file, for any file that cannot be read.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder).absolute()
        self._lock: SessionLock | None = None

    @classmethod
    def held(cls, folder: str | os.PathLike[str], may_be_new: bool) -> Journal:
        """Open a folder's journal for writing and lock the folder against other processes.

        may_be_new: accept a folder without a session, and create it if it does not exist. Raises SessionError if
        another process has the folder open, it holds other files, or it holds no session and may not be new.
        """
        journal = cls(folder)
        if not (may_be_new or (journal.folder / _DESCRIPTION).exists()):
            raise SessionError(f"{journal.folder} holds no session: name another folder, or give hparams to begin one.")
        if journal.folder.is_dir():
            _ = journal.is_new  # raises for a folder of other files, before a lock file is created in it
        journal._lock = SessionLock(journal.folder)
        return journal

    @property
    def is_open(self) -> bool:
        """Whether this process holds the lock and may write."""
        return self._lock is not None

    def close(self) -> None:
        """Release the folder's lock."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    # -- the session ---------------------------------------------------------------------------------------------

    @property
    def is_new(self) -> bool:
        """Whether no session has been started in the folder. Raises SessionError if it holds other files."""
        if (self.folder / _DESCRIPTION).exists():
            return False
        own = {_HEAD, LOCK, HOLDER}  # left by a session that was interrupted while starting
        others = [path.name for path in self.folder.iterdir() if path.name not in own and path.name[0] != "."]
        if others:
            raise SessionError(
                f"{self.folder} has no {_DESCRIPTION} and holds {others[0]}: name a new or empty folder, or restore "
                f"{_DESCRIPTION}."
            )
        return True

    def begin(self, description: Mapping[str, object]) -> None:
        """Write session.json and a HEAD without rounds. description: the content of session.json without the format."""
        whole = {"format": FORMAT, **description}
        self.set_head(Head(0, digest(whole)))
        _write_text(self.folder / _DESCRIPTION, json.dumps(whole, indent=1, default=lambda number: number.item()))

    def description(self) -> dict[str, Any]:
        """Read session.json."""
        path = self.folder / _DESCRIPTION
        if not path.exists() and not (self.folder / _HEAD).exists():
            raise SessionError(f"{self.folder} holds no session: name the folder of one.")
        with _reading(path):
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            version = found["format"]
        if version != FORMAT:
            raise SessionError(
                f"{path} has format {version!r}, and this version of nse-plugin reads {FORMAT}: install the version "
                "that wrote it."
            )
        return found

    def head(self) -> Head:
        """Read the last active round from HEAD."""
        path = self.folder / _HEAD
        with _reading(path):
            number, identifier = path.read_text(encoding="ascii").split()
            return Head(int(number), identifier)

    def set_head(self, head: Head) -> None:
        """Commit: make this round the last active one."""
        _write_text(self.folder / _HEAD, f"{head.number:04d} {head.id}\n")

    # -- rounds --------------------------------------------------------------------------------------------------

    def write(self, document: Mapping[str, Any], made: Round) -> str:
        """Write a round's folder and return the round's id. The round becomes active when HEAD names it.

        document: from `record.document_of`. made: the round, including its columns.
        """
        tensors, described = tensors_of(made.columns or {})
        lines = "".join(as_json(line) + "\n" for line in fact_lines(made))
        keys = {f"keys.{layer}": k.contiguous() for layer, k in made.keys.items()}
        files = {_FACTS: lines.encode(), _COLUMNS: save(tensors), _KEYS: save(keys)}
        if made.master_columns:
            pairs = {layer: {"neurons": neurons, "new": new} for layer, (neurons, new) in made.master_columns.items()}
            files[_MASTERS] = save({f"{kind}.{layer}": t for layer, pair in pairs.items() for kind, t in pair.items()})
        sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        whole = {**document, "columns": described, "files": sums}
        identifier = digest(whole)
        with folder_written_whole(self._folder_of(Head(document["number"], identifier))) as folder:
            for name, content in files.items():
                (folder / name).write_bytes(content)
            text = json.dumps({"id": identifier, **whole}, indent=1, default=lambda number: number.item())
            (folder / _ROUND).write_text(text, encoding="utf-8")
        return identifier

    def rounds(self, with_keys: bool = True) -> list[Round]:
        """Read the active rounds, in order, without their columns. with_keys: include their protected keys."""
        first, head, documents = digest(self.description()), self.head(), []
        at = head
        while at.number > 0:
            documents.append(self._document(at))
            at = Head(at.number - 1, documents[-1]["parent"])
        if at != Head(0, first):
            raise SessionError(
                f"{self.folder / _HEAD} does not lead to {self.folder / _DESCRIPTION}: one of the two is of another "
                "session or damaged; restore it from a copy."
            )
        documents.reverse()
        return [self._round(document, place, with_keys) for place, document in enumerate(documents)]

    def columns(self, head: Head) -> Columns:
        """Read the columns that a round changed."""
        document = self._document(head)
        path = self._folder_of(head) / _COLUMNS
        with _reading(path):
            return columns_from(load(self._checked(path, document)), document["columns"])

    def outermost(
        self, rounds: Sequence[Round], which: str, of_masters: bool = False
    ) -> dict[int, tuple[Tensor, Tensor]]:
        """Return all columns that the rounds changed, {layer: (neurons [m], columns [m, d])}.

        rounds: in order, the first round first. which: `new` for a column as the last round that changed it left it,
        `old` for a column as it was before the first round that changed it. of_masters: return the columns of the
        master copies, for which only `new` is stored.

        If other rounds supply all columns of a round, only its neurons are read. Checksums are not verified: callers
        compare the fingerprints of the result and call `check_files` if they differ.
        """
        heads = [Head(number, made.id) for number, made in enumerate(rounds, 1)]
        found: dict[int, tuple[Tensor, Tensor]] = {}
        for head in reversed(heads) if which == "new" else heads:
            path = self._folder_of(head) / (_MASTERS if of_masters else _COLUMNS)
            if of_masters and _MASTERS not in self._document(head)["files"]:
                continue  # the round changed nothing
            with _reading(path), safe_open(path, framework="pt") as file:
                names = file.keys()
                for layer in [name.partition(".")[2] for name in names if name.startswith("neurons.")]:
                    neurons = file.get_tensor(f"neurons.{layer}")
                    parts = [found[int(layer)]] if int(layer) in found else []
                    fresh = ~torch.isin(neurons, parts[0][0]) if parts else torch.ones_like(neurons, dtype=torch.bool)
                    if fresh.any():
                        parts.append((neurons[fresh], file.get_tensor(f"{which}.{layer}")[fresh]))
                        found[int(layer)] = torch.cat([n for n, _ in parts]), torch.cat([c for _, c in parts])
        return found

    def check_files(self, rounds: Sequence[Round]) -> None:
        """Verify every file of the rounds. Raises SessionError for the first damaged file."""
        for number, made in enumerate(rounds, 1):
            document = self._document(Head(number, made.id))
            for name in document["files"]:
                self._checked(self._folder_of(Head(number, made.id)) / name, document)

    def remove_others(self, rounds: Sequence[Round]) -> None:
        """Remove everything that belongs to none of these rounds: undone rounds, and incomplete files after a kill."""
        kept = {self._folder_of(Head(number, made.id)).name for number, made in enumerate(rounds, 1)}
        inside = self.folder / _ROUNDS
        found = [path for path in inside.iterdir() if path.name not in kept] if inside.is_dir() else []
        doomed = [path for path in found if _A_ROUND.fullmatch(path.name)]
        for path in (*doomed, *self.folder.glob(f".{_HEAD}.*"), *self.folder.glob(".session.*.json")):
            try:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            except OSError as error:
                log.warning("%s belongs to no round and cannot be removed (%s).", path, error)

    def _folder_of(self, head: Head) -> Path:
        return self.folder / _ROUNDS / f"{head.number:04d}-{head.id[:8]}"

    def _document(self, head: Head) -> dict[str, Any]:
        """Read round.json of a round and verify it against the round's id."""
        path = self._folder_of(head) / _ROUND
        with _reading(path):
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if {found["id"], digest({name: value for name, value in found.items() if name != "id"})} != {head.id}:
                raise ValueError("its content does not match its id")
        return found

    def _round(self, document: dict[str, Any], place: int, with_keys: bool) -> Round:
        folder = self._folder_of(Head(document["number"], document["id"]))
        with _reading(folder / _FACTS):
            lines = self._checked(folder / _FACTS, document).decode().splitlines()
            made = round_of(document, [json.loads(line) for line in lines], place - 1 if place else None)
        if not with_keys:
            return made
        with _reading(folder / _KEYS):
            tensors = load(self._checked(folder / _KEYS, document))
            keys = {int(name.removeprefix("keys.")): tensor for name, tensor in tensors.items()}
        return Round(**{**vars(made), "keys": keys})

    def _checked(self, path: Path, document: Mapping[str, Any]) -> bytes:
        """Read a file of a round and verify its checksum."""
        with _reading(path):
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() != document["files"][path.name]:
                raise ValueError("its checksum is not that of round.json")
            return content


def _write_text(path: Path, text: str) -> None:
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Run the block with errors of reading a file raised as SessionError that names the file."""
    try:
        yield
    except SessionError:
        raise
    except FileNotFoundError:
        raise SessionError(f"{path} is missing: restore it from a copy of the session.") from None
    except _UNREADABLE as error:
        reason = " ".join(str(error).split())
        raise SessionError(f"{path} cannot be read ({reason:.200}): restore it from a copy of the session.") from error
