"""Opening a session on disk on a model, or refusing the model."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tiny import TEMPLATES, tiny_moments, tiny_tokenizer
from tiny_sessions import LAYERS, base, edited, equal, hparams, opened, other_attention, other_matrix, rounds_of

from nse_plugin import EditSession, Fact
from nse_plugin.moments.measure import MomentsError
from nse_plugin.session import SessionError
from nse_plugin.session.folder import opening

ROUNDS = rounds_of(5)
REFUSED = {
    "other weights elsewhere": (other_attention, {}, "not a session of this model .*its other weights differ"),
    "other edited weights": (other_matrix, {}, "neither the base's nor HEAD's"),
    "another dtype": (
        lambda model: model.double(),
        {},
        "the one that it was begun on, a LlamaForCausalLM in float32",
    ),
    "other hyperparameters": (None, {"hparams": hparams(alpha=9.0)}, r"alpha = 9.0 cannot be used: .* begun with 0.5"),
    "other layers": (None, {"hparams": hparams(layers=[0, 1])}, r"layers = \[0, 1\] cannot be used"),
    "other templates": (None, {"templates": TEMPLATES[:1]}, "templates cannot be others"),
    "moments of another shape": (None, {"moments": {1: torch.eye(3)}}, "moments"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("at_head", [False, True])
def test_what_does_not_belong_to_the_session_is_refused_in_one_sentence(case, at_head, folder):
    change, given, says = REFUSED[case]
    model = base()
    if at_head:
        opened(folder, model).close()
    if change is not None:
        change(model)
    before = edited(model)
    with pytest.raises((SessionError, MomentsError), match=says) as caught:
        EditSession.open(folder, model, tiny_tokenizer(), **given)
    assert "\n" not in str(caught.value)
    assert equal(edited(model), before)
    opened(folder, base()).close()  # the lock is free


def test_how_it_is_run_may_change(folder):
    model = base()
    given = dataclasses.replace(hparams(), tokens_per_batch=512, batch_size=7, model_name="elsewhere")
    with EditSession.open(folder, model, tiny_tokenizer(), given) as session:
        assert session.hparams.tokens_per_batch == 512
        session.hparams.alpha = 3.0
        with pytest.raises(SessionError, match=r"alpha = 3\.0 cannot be used"):
            session.edit(ROUNDS[0])


def test_other_second_moments_are_refused(folder):
    model = base()
    other = {layer: 2 * moment for layer, moment in tiny_moments(model, LAYERS).items()}
    with EditSession.open(folder, model, tiny_tokenizer(), moments=other) as session:
        before = edited(model)
        with pytest.raises(SessionError, match="second moments are others than the rounds of"):
            session.edit(Fact("{} is", "Rome", "cold"))
        assert equal(edited(model), before)
        assert len(session.rounds) == 5


def test_there_is_no_session(tmp_path):
    with pytest.raises(SessionError, match="holds no session: name another folder, or give hparams"):
        EditSession.open(tmp_path / "new", base(), tiny_tokenizer())
    assert not (tmp_path / "new").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    with pytest.raises(SessionError, match=r"holds thesis\.tex: name a new or empty folder"):
        opened(tmp_path / "full", base())
    (tmp_path / "file").write_text("")
    with pytest.raises(SessionError, match="is a file; name a folder"):
        opened(tmp_path / "file", base())


def test_a_session_goes_on_after_hyperparameters_got_a_new_field(tmp_path, monkeypatch):
    """What session.json does not name has its default value, in a session opened with its own hyperparameters or with
    given ones."""
    before = opening.settings_of
    with monkeypatch.context() as patch:
        patch.setattr(opening, "settings_of", lambda own: {k: v for k, v in before(own).items() if k != "target_eos"})
        with opened(tmp_path / "a", base()) as session:
            session.edit(ROUNDS[0])
    for number, given in enumerate((None, hparams()), 2):
        with EditSession.open(tmp_path / "a", base(), tiny_tokenizer(), given, tiny_moments(base(), LAYERS)) as session:
            session.edit(ROUNDS[number])
            assert len(session.rounds) == number
    with pytest.raises(SessionError, match="target_eos = True cannot be used: .* was begun with False"):
        EditSession.open(tmp_path / "a", base(), tiny_tokenizer(), hparams(target_eos=True))
