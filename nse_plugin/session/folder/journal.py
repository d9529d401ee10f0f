"""A session's folder: what is in it, and in which order it is written, so that a kill loses the round in flight alone.

    session.json                  what the session belongs to: base model, hyperparameters, templates, format
    HEAD                          number and id of the last round that stands
    rounds/0001-5f3a90c1/         a round, by its number and the beginning of its id
        round.json                when, who, why, settings, fingerprints, report, checksums of the other files
        facts.jsonl               a fact a line
        columns.safetensors       the columns it changed, before and after
        keys.safetensors          the keys that later rounds protect
        masters.safetensors       of a bfloat16 or float16 model: what it made of the float32 copies (`masters.py`)
    lock, holder.json             which process has the session open

A round's folder is written aside, synced and renamed; the round is made when HEAD is replaced. An id is the SHA-256 of
round.json, which has the checksums of the other files and the id of the round below (of the first: of session.json).
So HEAD vouches for every byte. Round folders that HEAD does not lead to belong to no round, and are removed.
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
_A_ROUND = re.compile(r"\d{4,}-[0-9a-f]{8}|\.[0-9a-f]{32}")  # its folder, or one that was not finished
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, IndexError, RuntimeError, SafetensorError)


class Head(NamedTuple):
    """The last round that stands; number 0 and the id of session.json: none does."""

    number: int
    id: str


class Journal:
    """The folder of a session. Reading needs no lock; a writer holds it from `held` to `close`.

    folder: made absolute, so that it is the same wherever the process goes. Raises SessionError, in one sentence that
    names the file, for whatever cannot be read.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder).absolute()
        self._lock: SessionLock | None = None

    @classmethod
    def held(cls, folder: str | os.PathLike[str], may_be_new: bool) -> Journal:
        """The journal of a folder that no other process may open meanwhile.

        may_be_new: make the folder when it is not there. Raises SessionError when another process has it, it is no
        folder for a session, or has none and may not be new.
        """
        journal = cls(folder)
        if not (may_be_new or (journal.folder / _DESCRIPTION).exists()):
            raise SessionError(f"{journal.folder} holds no session: name another folder, or give hparams to begin one.")
        if journal.folder.is_dir():
            _ = journal.is_new  # which refuses a folder of other files, before there is a lock in it
        journal._lock = SessionLock(journal.folder)
        return journal

    @property
    def is_open(self) -> bool:
        """Whether this process may write."""
        return self._lock is not None

    def close(self) -> None:
        """Let others have the folder."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    # -- the session ---------------------------------------------------------------------------------------------

    @property
    def is_new(self) -> bool:
        """Whether no session has been begun here. Raises SessionError where there are other files."""
        if (self.folder / _DESCRIPTION).exists():
            return False
        own = {_HEAD, LOCK, HOLDER}  # of a session whose beginning was interrupted
        others = [path.name for path in self.folder.iterdir() if path.name not in own and path.name[0] != "."]
        if others:
            raise SessionError(
                f"{self.folder} has no {_DESCRIPTION} and holds {others[0]}: name a new or empty folder, or restore "
                f"{_DESCRIPTION}."
            )
        return True

    def begin(self, description: Mapping[str, object]) -> None:
        """Write session.json and a HEAD without rounds. description: all but the format."""
        whole = {"format": FORMAT, **description}
        self.set_head(Head(0, digest(whole)))
        _write_text(self.folder / _DESCRIPTION, json.dumps(whole, indent=1, default=lambda number: number.item()))

    def description(self) -> dict[str, Any]:
        """What `begin` wrote."""
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
        """The last round that stands."""
        path = self.folder / _HEAD
        with _reading(path):
            number, identifier = path.read_text(encoding="ascii").split()
            return Head(int(number), identifier)

    def set_head(self, head: Head) -> None:
        """The commit: from here on it is this round that stands."""
        _write_text(self.folder / _HEAD, f"{head.number:04d} {head.id}\n")

    # -- rounds --------------------------------------------------------------------------------------------------

    def write(self, document: Mapping[str, Any], made: Round) -> str:
        """Write a round's folder; it stands when HEAD leads to it. Returns its id.

        document: of `record.document_of`. made: with its columns.
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
        """Those that stand, in order, without columns; with_keys: with what they protect."""
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
        """What a round changed."""
        document = self._document(head)
        path = self._folder_of(head) / _COLUMNS
        with _reading(path):
            return columns_from(load(self._checked(path, document)), document["columns"])

    def outermost(
        self, rounds: Sequence[Round], which: str, of_masters: bool = False
    ) -> dict[int, tuple[Tensor, Tensor]]:
        """{layer: (neurons [m], columns [m, d])} of all the columns that rounds have changed, the first round first:
        as the last of them left it (`new`), or as the first of them found it (`old`). of_masters: of the master copies,
        which have `new` alone.

        Of a round whose columns other rounds supply only the neurons are read. Checksums are not verified: callers
        compare the fingerprints of the result, and call `check_files` where they differ.
        """
        heads = [Head(number, made.id) for number, made in enumerate(rounds, 1)]
        found: dict[int, tuple[Tensor, Tensor]] = {}
        for head in reversed(heads) if which == "new" else heads:
            path = self._folder_of(head) / (_MASTERS if of_masters else _COLUMNS)
            if of_masters and _MASTERS not in self._document(head)["files"]:
                continue  # a round that changed nothing
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
        """Read every file of rounds. Raises SessionError for the first that is damaged."""
        for number, made in enumerate(rounds, 1):
            document = self._document(Head(number, made.id))
            for name in document["files"]:
                self._checked(self._folder_of(Head(number, made.id)) / name, document)

    def remove_others(self, rounds: Sequence[Round]) -> None:
        """Remove what belongs to none of these rounds: undone ones, and what a kill has left half-written."""
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
        """round.json of a round, checked against its id."""
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
        """A file of a round, byte for byte what was written."""
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
    """Within, whatever goes wrong is a SessionError that names the file."""
    try:
        yield
    except SessionError:
        raise
    except FileNotFoundError:
        raise SessionError(f"{path} is missing: restore it from a copy of the session.") from None
    except _UNREADABLE as error:
        reason = " ".join(str(error).split())
        raise SessionError(f"{path} cannot be read ({reason:.200}): restore it from a copy of the session.") from error
