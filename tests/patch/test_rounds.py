"""The patch of a session's rounds."""

from __future__ import annotations

import pytest
import torch
from rounds import ROUNDS
from tiny import TEMPLATES, tiny_model, tiny_moments, tiny_tokenizer

from nse_plugin import EditPatch, EditSession, Fact
from nse_plugin.patch.columns import PatchError


def test_rounds_make_up_the_whole(edited, tmp_path):
    session = edited()
    whole, first, rest = EditPatch.of(session), EditPatch.of(session, 1, 1), EditPatch.of(session, 2)
    assert (first.before, first.after, rest.after) == (whole.before, rest.before, whole.after)
    both = first.compose(rest)
    for part in ("before", "after", "others", "facts", "rounds"):
        assert getattr(both, part) == getattr(whole, part)
    model = tiny_model("llama", torch.float32)
    for one in (first, rest):
        one.apply(model)
    assert both.verify(model) == "applied"
    both.revert(model)
    assert first.verify(model) == "base"
    with pytest.raises(PatchError, match="in the order they were made"):
        rest.compose(first)


def test_of_a_folder_without_the_model(hparams, tmp_path):
    model = tiny_model("llama", torch.float32)
    settings = (tiny_moments(model, [1, 2]), TEMPLATES)
    with EditSession.open(tmp_path / "session", model, tiny_tokenizer(), hparams, *settings) as session:
        for facts in ROUNDS:
            session.edit(facts)
        held = [EditPatch.of(session), EditPatch.of(session, 2, 2)]
    found = [EditPatch.of(tmp_path / "session"), EditPatch.of(tmp_path / "session", 2, 2)]
    for one, other in zip(found, held, strict=True):
        one.save(tmp_path / "one")
        other.save(tmp_path / "other")
        assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()
    assert found[0].verify(model) == "applied"


def test_facts_that_were_not_written_are_left_out(edited):
    session = edited()
    told = [Fact("The capital of {} is", "France", "Rome"), Fact("{} speaks", "Italy", "Lyon")]
    assert session.edit(told, on_conflict="keep").frame["status"].tolist()[0] == "kept"
    patch = EditPatch.of(session, 4)
    assert [fact["subject"] for fact in patch.facts] == ["Italy"]
    assert [one["facts"] for one in patch.rounds] == [1]


def test_no_rounds_no_patch(hparams):
    model = tiny_model("llama")
    session = EditSession(model, tiny_tokenizer(), hparams, tiny_moments(model, [1, 2]), TEMPLATES)
    with pytest.raises((PatchError, ValueError), match="round"):
        EditPatch.of(session)
