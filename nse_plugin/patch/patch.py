"""EditPatch: the changes of a session, a round or a range of rounds, as one file."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from nse_plugin.patch.columns import (
    Columns,
    PatchError,
    Which,
    check_on,
    columns_from,
    composed,
    is_on,
    same_columns,
    tensors_of,
    write,
)
from nse_plugin.patch.file import write_tensors
from nse_plugin.patch.weights import matrices_of, others_hash, tensor_hash

if TYPE_CHECKING:
    from nse_plugin.session import EditSession

FORMAT = 1
_ENTRY = "nse_patch"  # key in the file's metadata
_MARKS = ("matrices", "before", "after")  # fields with one entry per layer
_OTHER_SIDE = {
    "new": "the model does not have these edits, its columns are as they were before them: give the edited model.",
    "old": "the model has these edits already: give it as it was before them.",
}


@dataclass(frozen=True, eq=False)
class EditPatch:
    """The change that edits made to a model, exact to the bit.

    columns: by layer, the columns of W_out that differ, before and after; from `patch_between` by index, if several
    matrices of a layer differ or a name has no layer number. matrices: the names of all matrices that the session
    edits, by layer; before, after: SHA-256 of each of them. others: SHA-256 over all other weights of the model.
    hparams: the hyperparameters of the edits. rounds: for each round `id`, `number`, `time`, `author`, `reason` and the
    number of `facts` it wrote. facts: records for `Fact(**record)`, in the order they were written, without those of
    status `kept` or `failed`; None if left out.
    model_name: the name or path that the model was loaded from, if known. adds_bos: whether the tokenizer put a BOS
    before prompts, as a server must also do; None if not known.

    Applying and reverting a patch needs only torch and safetensors.
    """

    columns: Columns
    matrices: Mapping[int, str]
    before: Mapping[int, str]
    after: Mapping[int, str]
    others: str
    hparams: Mapping[str, Any]
    rounds: Sequence[Mapping[str, Any]]
    facts: Sequence[Mapping[str, Any]] | None
    model_name: str | None = None
    adds_bos: bool | None = None

    @classmethod
    def of(cls, session: EditSession | str | os.PathLike[str], first: int = 1, last: int | None = None) -> EditPatch:
        """Return the patch of rounds `first` to `last` (None: the last one) of a session.

        session: a session or the path of its folder, which needs no model. Raises PatchError if the rounds changed
        nothing, ValueError if there are no such rounds, SessionError.
        """
        from nse_plugin.patch.rounds import patch_of_rounds  # imports sessions, which this file does not need

        return patch_of_rounds(session, first, last)

    @classmethod
    def load(cls, file: str | os.PathLike[str]) -> EditPatch:
        """Read a patch and verify every byte. Raises PatchError if the file is not a patch or is damaged."""
        path = Path(file)
        try:
            with safe_open(path, "pt") as opened:
                metadata = opened.metadata() or {}
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, ValueError, KeyError, RuntimeError) as error:
            raise PatchError(f"{path} cannot be read ({error}): give a file that EditPatch.save wrote.") from error
        try:
            return cls._from(tensors, metadata)
        except PatchError as error:
            raise PatchError(f"{path}: {error}") from error
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise PatchError(f"{path} is damaged ({type(error).__name__}: {error}): use an undamaged copy.") from error

    @classmethod
    def _from(cls, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> EditPatch:
        if _ENTRY not in metadata:
            raise PatchError("it is no patch: give a file that EditPatch.save wrote.")
        checksum, _, text = metadata[_ENTRY].partition(" ")
        if hashlib.sha256(text.encode()).hexdigest() != checksum:
            raise PatchError("its metadata was changed: use an undamaged copy.")
        about = json.loads(text)
        if about["format"] != FORMAT:
            raise PatchError(
                f"it has format {about['format']}, and this version reads {FORMAT}: install the version that wrote it."
            )
        for name, expected in about["tensors"].items():
            if name not in tensors or tensor_hash(tensors[name]) != expected:
                raise PatchError(f"tensor {name} is damaged or missing: use an undamaged copy.")
        own: dict[str, Any] = {part: {int(layer): mark for layer, mark in about[part].items()} for part in _MARKS}
        own |= {name: about[name] for name in ("others", "hparams", "rounds", "facts", "model_name", "adds_bos")}
        return cls(columns_from(tensors, about["layers"]), **own)

    def save(self, file: str | os.PathLike[str], include_facts: bool = True) -> Path:
        """Write the patch to one safetensors file, atomically, and return the path.

        include_facts: False leaves the facts out. This makes the file smaller but hides nothing: the edited facts can
        be recovered from a weight update (arXiv 2602.10134). Raises PatchError if `file` is a folder, OSError.
        """
        path = Path(file)
        if path.is_dir():
            raise PatchError(f"{path} is a folder: name a file for the patch.")
        tensors, layers = tensors_of(self.columns)
        about = {
            "format": FORMAT,
            **{part: {str(layer): mark for layer, mark in getattr(self, part).items()} for part in _MARKS},
            "others": self.others,
            "hparams": dict(self.hparams),
            "rounds": [dict(one) for one in self.rounds],
            "facts": [dict(fact) for fact in self.facts] if include_facts and self.facts is not None else None,
            "model_name": self.model_name,
            "adds_bos": self.adds_bos,
            "layers": layers,
            "tensors": {name: tensor_hash(tensor) for name, tensor in tensors.items()},
        }
        text = json.dumps(about, sort_keys=True)  # in ASCII: an author may hold bytes a shell could not decode
        # one entry, because several entries would be written in a different order each time
        write_tensors(path, tensors, {_ENTRY: f"{hashlib.sha256(text.encode()).hexdigest()} {text}"})
        return path

    # -- on a model ----------------------------------------------------------------------------------------------

    def apply(self, model: nn.Module) -> None:
        """Apply the edits to the base model, in place. Raises PatchError for any other model, which stays unchanged."""
        self._check(model, "old")
        write(self.columns, matrices_of(model, self.columns), "new")

    def revert(self, model: nn.Module) -> None:
        """Turn the edited model back into the base, in place and exact to the bit. Raises PatchError for any other
        model, which stays unchanged."""
        self._check(model, "new")
        write(self.columns, matrices_of(model, self.columns), "old")

    def verify(self, model: nn.Module) -> Literal["base", "applied"]:
        """Return whether the model is the base or the edited model, compared by every bit of its weights. Raises
        PatchError if it is neither."""
        is_base = is_on(self.columns, matrices_of(model, self.columns), "old")
        self._check(model, "old" if is_base else "new")
        return "base" if is_base else "applied"

    def _check(self, model: nn.Module, which: Which) -> None:
        """Raise PatchError unless every weight of the model is the one before (`old`) or after (`new`) the edits."""
        matrices = matrices_of(model, self.columns)
        try:
            check_on(self.columns, matrices, which)
        except PatchError as error:
            if not is_on(self.columns, matrices, "old" if which == "new" else "new"):
                raise
            raise PatchError(_OTHER_SIDE[which]) from error
        parameters = dict(model.named_parameters(remove_duplicate=False))
        marks = self.before if which == "old" else self.after
        same = all(
            name in parameters and tensor_hash(parameters[name]) == marks[layer]
            for layer, name in self.matrices.items()
        )
        if not same or others_hash(model, self.matrices.values()) != self.others:
            raise PatchError(
                "the edited columns are those of the patch, and other weights of the model are not: give "
                f"{self.model_name or 'the model'} as it was when it was edited, in the same dtype."
            )

    # -- combining and comparing ---------------------------------------------------------------------------------

    def compose(self, second: EditPatch) -> EditPatch:
        """Combine two patches into one. second: a patch made on the model edited by this one. Raises PatchError if it
        was not, or if it undoes this patch."""
        if (self.others, self.matrices, self.after) != (second.others, second.matrices, second.before):
            raise PatchError(
                "the second patch was not made on the model edited by the first one: give them in the order they "
                "were made, without a gap."
            )
        columns = composed(self.columns, second.columns)
        if not columns:
            raise PatchError("the second patch undoes the first one: there is nothing to put into a patch.")
        return dataclasses.replace(
            self,
            columns=columns,
            after=second.after,
            hparams=second.hparams,
            rounds=[*self.rounds, *second.rounds],
            facts=None if self.facts is None or second.facts is None else [*self.facts, *second.facts],
        )

    def change(self, layer: int) -> Tensor:
        """Return W_out after the edits minus W_out before them, [d, f] float64."""
        one = self.columns[layer]
        change = torch.zeros(one.shape, dtype=torch.float64)
        change[:, one.neurons] = (one.new.double() - one.old.double()).T
        return change

    def norms(self) -> dict[int, float]:
        """Return the Frobenius norm of the change, by layer."""
        return {layer: float((one.new.double() - one.old.double()).norm()) for layer, one in self.columns.items()}

    def diff(self, other: EditPatch) -> dict[str, Any]:
        """Compare this patch with another one. Returns `same_base`; `same_change`, whether both replace the same
        columns by the same values, bit for bit; `facts_only_here` and `facts_only_there` (None if one of the patches
        has no facts); and `layers`, with, for each layer, the number of changed `columns` and the `norms` of the change
        in both patches, and the norm of the difference of the two changes (`distance`)."""
        facts = [[json.dumps(fact, sort_keys=True) for fact in one.facts or ()] for one in (self, other)]
        known = self.facts is not None and other.facts is not None
        only = [[json.loads(fact) for fact in own if fact not in rest] for own, rest in (facts, reversed(facts))]
        layers: dict[int, dict[str, Any]] = {}
        for layer in sorted({*self.columns, *other.columns}):
            both = [one.change(layer) if layer in one.columns else None for one in (self, other)]
            here, there = (one if one is not None else torch.zeros(()) for one in both)
            layers[layer] = {
                "columns": [len(one.columns[layer].neurons) if layer in one.columns else 0 for one in (self, other)],
                "norms": [float(here.norm()), float(there.norm())],
                "distance": float((there - here).norm()),
            }
        return {
            "same_base": (self.others, self.before) == (other.others, other.before),
            "same_change": same_columns(self.columns, other.columns),
            "facts_only_here": only[0] if known else None,
            "facts_only_there": only[1] if known else None,
            "layers": layers,
        }

    # -- for other programs --------------------------------------------------------------------------------------

    def to_lora(self, folder: str | os.PathLike[str], rank: int | None = None) -> Path:
        """Write a PEFT adapter; see `export.lora.write_lora`."""
        from nse_plugin.patch.export.lora import write_lora

        return write_lora(self, Path(folder), rank)

    def to_gguf_lora(self, file: str | os.PathLike[str], base: str | os.PathLike[str], rank: int | None = None) -> Path:
        """Write an adapter for llama.cpp and Ollama; see `export.gguf.write_gguf_lora`."""
        from nse_plugin.patch.export.gguf import write_gguf_lora

        return write_gguf_lora(self, Path(file), Path(base), rank)

    def to_gguf(self, file: str | os.PathLike[str], base: str | os.PathLike[str]) -> Path:
        """Write a copy of the GGUF file `base` with the edited matrices; see `export.gguf.write_gguf_model`."""
        from nse_plugin.patch.export.gguf import write_gguf_model

        return write_gguf_model(self, Path(file), Path(base))

    def to_overlay(self, checkpoint: str | os.PathLike[str], folder: str | os.PathLike[str]) -> Path:
        """Write the edited checkpoint with links to its unchanged files; see `export.overlay.write_overlay`."""
        from nse_plugin.patch.export.overlay import write_overlay

        return write_overlay(self, Path(checkpoint), Path(folder), link=True)

    def merge(self, checkpoint: str | os.PathLike[str], folder: str | os.PathLike[str]) -> Path:
        """Write the edited checkpoint as a self-contained folder; see `export.overlay.write_overlay`."""
        from nse_plugin.patch.export.overlay import write_overlay

        return write_overlay(self, Path(checkpoint), Path(folder), link=False)
