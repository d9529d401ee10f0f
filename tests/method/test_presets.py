"""What happens to each fact of a round: passes, statuses, and the two presets."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from tiny import TEMPLATES, tiny_facts, tiny_model, tiny_moments, tiny_tokenizer

from nse_plugin.method.keys import FactSpan
from nse_plugin.models.layout import Layout
from nse_plugin.models.prompts import encode_fact
from nse_plugin.session import EditSession

LAYERS = [1, 2]


def session_for(hparams, **settings):
    model = tiny_model("llama")
    changed = dataclasses.replace(hparams, **settings)
    return EditSession(model, tiny_tokenizer(), changed, tiny_moments(model, LAYERS), TEMPLATES)


def states_of(session, facts):
    """h [n, d] of each fact on the present weights."""
    prompts = [encode_fact(session.tokenizer, fact, TEMPLATES) for fact in facts]
    return FactSpan(Layout.of(session.model), LAYERS, prompts, 4096).run()[1]


def values_at(session, facts, distances):
    """z at the given distances from h, each in a direction of its own."""
    directions = torch.randn(len(facts), 16, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    directions /= directions.norm(dim=1, keepdim=True)
    return states_of(session, facts) + torch.tensor(distances, dtype=torch.float64)[:, None] * directions


def changes(session, layer):
    """The change of `W_out` of a layer [d, f]."""
    original = Layout.of(tiny_model("llama")).output_matrix(layer).matrix
    return Layout.of(session.model).output_matrix(layer).matrix - original


# -- statuses ----------------------------------------------------------------------------------------------------


def test_released_gives_all_four_statuses_in_one_round(hparams):
    """Near: nothing to do. Far: skipped, and reported. Between, with C0 too heavy to move anything: off target."""
    session = session_for(hparams, preset="released", alpha=0.5, upper_bound=10.0, mom2_update_weight=1e6)
    values = values_at(session, tiny_facts(), [0.4, 3.0, 50.0, math.nan])
    report = session.edit_with_values(tiny_facts(), values)
    frame = report.frame
    assert list(frame["status"]) == ["weak_value", "off_target", "skipped_upper_bound", "failed"]  # random values
    assert list(frame["case_id"]) == [10, 11, 12, 13]
    assert list(frame["passes"]) == [0, 2, 0, 0]
    assert frame["residual_before"][:3].tolist() == pytest.approx([0.4, 3.0, 50.0])
    assert frame["residual"][3:].isna().all()
    assert "1 weak_value, 1 off_target, 1 skipped_upper_bound, 1 failed" in str(report)


def test_a_fact_that_was_written_and_ended_far_away_was_not_skipped(hparams):
    """The update of others may carry it there; `skipped_upper_bound` says that it took part in none."""
    session = session_for(
        hparams, preset="released", alpha=1e-6, upper_bound=1.0, p=0.1, max_iterations=2, mom2_update_weight=1e-3
    )
    frame = session.edit_with_values(tiny_facts(), values_at(session, tiny_facts(), [0.99, 0.98, 0.97, 5.0])).frame
    far = frame["residual"] >= 1.0
    assert (far & (frame["passes"] > 0)).any()
    assert ((frame["status"] == "skipped_upper_bound") == (frame["passes"] == 0)).all()


def test_paper_writes_every_fact_whatever_its_distance(hparams):
    session = session_for(hparams, preset="paper", alpha=0.5, upper_bound=10.0, mom2_update_weight=1e6)
    values = values_at(session, tiny_facts(), [0.4, 3.0, 50.0, math.nan])
    frame = session.edit_with_values(tiny_facts(), values).frame
    assert list(frame["status"]) == ["weak_value", "off_target", "off_target", "failed"]
    assert list(frame["passes"]) == [1, 3, 3, 0]


def test_residuals_are_those_of_the_new_weights(hparams):
    session = session_for(hparams)
    values = session.values(tiny_facts())
    before = (values - states_of(session, tiny_facts())).norm(dim=1)
    frame = session.edit_with_values(tiny_facts(), values).frame
    after = (values - states_of(session, tiny_facts())).norm(dim=1)
    assert frame["residual_before"].tolist() == pytest.approx(before.tolist(), rel=1e-9)
    assert frame["residual"].tolist() == pytest.approx(after.tolist(), rel=1e-9)
    assert (after < before).all()


# -- passes ------------------------------------------------------------------------------------------------------


def test_facts_off_target_go_round_again_and_come_closer(hparams):
    """The same round with more and more passes: the ones off target join every pass, and their residuals shrink."""
    residuals, passes = [], []
    for count in range(1, 6):
        session = session_for(hparams, alpha=0.2, mom2_update_weight=5.0, max_iterations=count)
        frame = session.edit_with_values(tiny_facts(), values_at(session, tiny_facts(), [0.25, 1.0, 4.0, 8.0])).frame
        residuals.append(frame["residual"].to_numpy())
        passes.append(frame["passes"].tolist())
    assert passes[0] == [1, 1, 1, 1]
    for earlier, later, before, after in zip(passes, passes[1:], residuals, residuals[1:], strict=False):
        going = [residual > 0.2 for residual in before]
        assert [b - a for a, b in zip(earlier, later, strict=True)] == [int(on) for on in going]
        assert all(b < a for a, b, on in zip(before, after, going, strict=True) if on)
    assert len(set(passes[-1])) > 1  # some stopped while others went on


def test_a_round_ends_when_every_fact_is_there(hparams):
    session = session_for(hparams, alpha=1e3, max_iterations=50)
    assert session.edit(tiny_facts()).frame["passes"].tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize(("preset", "passes"), [("paper", 3), ("released", 2)])
def test_max_iterations_counts_as_each_preset_counts(hparams, preset, passes):
    session = session_for(hparams, preset=preset, alpha=1e-9, max_iterations=3)
    frame = session.edit(tiny_facts()).frame
    assert frame["passes"].tolist() == [passes] * 4
    assert set(frame["status"]) == {"off_target"}


def test_upper_bound_is_looked_at_before_every_pass_of_released(hparams):
    beyond = session_for(hparams, preset="released", alpha=0.1, upper_bound=2.0)
    values = values_at(beyond, tiny_facts(), [1.9, 2.1, 1.0, 3.0])
    frame = beyond.edit_with_values(tiny_facts(), values).frame
    assert (frame["passes"] > 0).tolist() == [True, False, True, False]
    without = session_for(hparams, preset="released", alpha=0.1, upper_bound=None)
    assert (without.edit_with_values(tiny_facts(), values).frame["passes"] > 0).all()


# -- neurons -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.3, 0.8])
def test_the_presets_differ_by_the_neuron_that_crosses_p(hparams, p):
    columns = {}
    for preset, max_iterations in (("paper", 1), ("released", 2)):  # one pass each
        session = session_for(hparams, preset=preset, p=p, max_iterations=max_iterations)
        session.edit_with_values(tiny_facts(), values_at(session, tiny_facts(), [1.0, 1.0, 1.0, 1.0]))
        columns[preset] = set(changes(session, 1).norm(dim=0).nonzero()[:, 0].tolist())
    assert columns["released"] < columns["paper"]
    assert len(columns["paper"]) == len(columns["released"]) + 1


# -- a fact that fails -------------------------------------------------------------------------------------------


def test_a_failed_fact_leaves_the_others_as_if_it_were_not_there(hparams):
    facts = tiny_facts()
    with_it, without = session_for(hparams), session_for(hparams)
    values = with_it.values(facts)
    broken = values.clone()
    broken[1, 3] = math.inf
    frame = with_it.edit_with_values(facts, broken).frame
    others = without.edit_with_values(facts[:1] + facts[2:], values[[0, 2, 3]]).frame
    assert frame["status"][1] == "failed"
    assert frame["residual"][[0, 2, 3]].tolist() == pytest.approx(others["residual"].tolist(), rel=1e-9)
    for layer in LAYERS:
        assert torch.allclose(changes(with_it, layer), changes(without, layer), rtol=1e-9, atol=1e-12)
    assert with_it.state.knowledge.count == 3


def poison(session):
    """Make the model say infinity at one token, which only Marie Curie has, before its subject ends."""
    [token] = session.tokenizer("Cu")["input_ids"]
    with torch.no_grad():
        session.model.get_input_embeddings().weight[token] = math.inf


def test_a_fact_the_model_cannot_compute_does_not_disturb_the_values_of_others(hparams):
    session = session_for(hparams)
    expected = session.values(tiny_facts())
    poison(session)
    values = session.values(tiny_facts())
    assert values.isfinite().all(dim=1).tolist() == [True, False, True, True]
    assert torch.allclose(values[[0, 2, 3]], expected[[0, 2, 3]], rtol=1e-9)


def test_a_fact_the_model_cannot_compute_fails_and_the_round_goes_on(hparams):
    for given_values in (False, True):
        session = session_for(hparams)
        values = session.values(tiny_facts()) if given_values else None
        poison(session)
        frame = session.edit_with_values(tiny_facts(), values).frame
        assert frame["status"].tolist().index("failed") == 1
        assert (frame["status"] == "failed").sum() == 1
        assert session.state.knowledge.count == 3
        assert all(kept.isfinite().all() for kept in session.state.knowledge.tensors().values())


def test_a_round_of_which_nothing_is_left_changes_nothing_and_forgets_nothing(hparams):
    session = session_for(hparams)
    session.edit(tiny_facts()[:2])
    kept = {layer: changes(session, layer).clone() for layer in LAYERS}
    frame = session.edit_with_values(tiny_facts()[2:], torch.full((2, 16), math.nan, dtype=torch.float64)).frame
    assert set(frame["status"]) == {"failed"}
    assert all(torch.equal(changes(session, layer), kept[layer]) for layer in LAYERS)
    assert session.state.knowledge.count == 2
