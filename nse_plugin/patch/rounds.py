"""Make a patch from a session's rounds."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from nse_plugin.models.gguf.special_tokens import adds_bos
from nse_plugin.patch.columns import Columns, PatchError
from nse_plugin.patch.patch import EditPatch
from nse_plugin.patch.weights import others_hash
from nse_plugin.session.folder.journal import Journal
from nse_plugin.session.folder.opening import read_both

if TYPE_CHECKING:
    from nse_plugin.facts import Fact
    from nse_plugin.session import EditSession
    from nse_plugin.session.folder.record import RoundRecord


def patch_of_rounds(
    session: EditSession | str | os.PathLike[str], first: int = 1, last: int | None = None
) -> EditPatch:
    """Return the patch of a session's rounds; see `EditPatch.of`."""
    if isinstance(session, str | os.PathLike):
        about = Journal(session).description()
        names = {int(layer): str(name) for layer, name in about["matrices"].items()}
        rounds, columns = read_both(session, first, last)
        origin = _Origin(about["others"], about["source"], about["adds_bos"])
        return _patch(columns, names, origin, rounds[first - 1 : last])
    names = dict(session.state.matrices)
    columns, rounds = session.columns(first, last), session.rounds
    config: Any = getattr(session.model, "config", None)
    source = getattr(config, "_name_or_path", None) or None
    origin = _Origin(others_hash(session.model, names.values()), source, adds_bos(session.tokenizer))
    return _patch(columns, names, origin, rounds[first - 1 : last])


def record_of(fact: Fact) -> dict[str, object]:
    """Return the fields of a fact that differ from their defaults, as JSON-serialisable values."""
    fields = {field.name: (getattr(fact, field.name), field.default) for field in dataclasses.fields(fact)}
    return {name: value for name, (value, default) in fields.items() if value != default}


class _Origin(NamedTuple):
    """The fields of `EditPatch` that describe the base model."""

    others: str
    model_name: str | None
    adds_bos: bool


def _patch(columns: Columns, names: Mapping[int, str], origin: _Origin, rounds: Sequence[RoundRecord]) -> EditPatch:
    if not columns:
        raise PatchError("these rounds changed nothing: there is nothing to put into a patch.")
    return EditPatch(
        columns,
        matrices=names,
        before=dict(rounds[0].before),
        after=dict(rounds[-1].after),
        hparams=dict(rounds[-1].settings),
        rounds=[
            {
                "id": one.id, "number": one.number, "time": one.time, "author": one.author, "reason": one.reason,
                "facts": len(one.written),
            }
            for one in rounds
        ],
        facts=[record_of(fact) for one in rounds for fact in one.written],
        **origin._asdict(),
    )  # fmt: skip
