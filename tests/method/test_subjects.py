"""Facts about one subject share one delta, optimised on the losses of all, including those of earlier rounds."""

from __future__ import annotations

import dataclasses
import random

import oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import relative
from tiny import ARCHITECTURES, CHAT, TEMPLATES, tiny_facts, tiny_model, tiny_moments, tiny_tokenizer

from nse_plugin import EditSession, Fact
from nse_plugin.evaluation.teacher_forcing import predict
from nse_plugin.facts import FactError
from nse_plugin.method.subjects import Form, forms_of, same_subject
from nse_plugin.method.value_optimizer import LONG
from nse_plugin.models.layout import Layout
from nse_plugin.models.prompts import encode_fact
from nse_plugin.session.round import again_with

LAYERS = [1, 2]
ROME = [
    Fact("{} is in", "Rome", "Spain"),
    Fact("Because of the wind {} has", "Rome", "an old town"),
    Fact("{} is an old town of", "Rome", "France"),
]
OTHERS = [Fact("{} speaks", "Marie Curie", "Italian"), Fact("The capital of {} is", "France", "Lyon")]


def session_of(model, hparams, **changes):
    chosen = dataclasses.replace(hparams, **changes)
    return EditSession(model, tiny_tokenizer(), chosen, tiny_moments(model, LAYERS), list(TEMPLATES))


def round_values(session, facts):
    """What `edit` makes for these facts."""
    state, history = session._rounds.standing()
    session._edited.check(state)
    again = again_with(history.standing_facts(facts), facts) if session.hparams.accumulate else []
    every = [*facts, *again]
    forms = session._edited.forms(state, every)
    return session._source.values(state, forms, same_subject(every, forms), {})[: len(facts)]


# -- one value ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["exact", "fast"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_joint_value_is_exact(architecture, solver, hparams):
    """Against autograd through the full model, in float64; facts of other subjects are what they are alone."""
    model = tiny_model(architecture)
    session = session_of(model, hparams, solver=solver, v_num_grad_steps=5)
    facts = [ROME[0], OTHERS[0], ROME[1], OTHERS[1], ROME[2]]
    found = round_values(session, facts)
    templates, updates, betas, rate = TEMPLATES, 4, (0.9, 0.999), session.hparams
    if solver == "fast":
        templates, updates, betas = TEMPLATES[:2], 3, (0.6, 0.9)
        rate = dataclasses.replace(session.hparams, v_lr=2 * session.hparams.v_lr)
    expected = oracles.joint_values(model, tiny_tokenizer(), ROME, templates, rate, LONG * updates, betas)
    for place, z in zip((0, 2, 4), expected, strict=True):
        assert relative(found[place], z) <= 1e-6
    for place in (1, 3):
        [alone] = oracles.joint_values(model, tiny_tokenizer(), [facts[place]], templates, rate, updates, betas)
        assert relative(found[place], alone) <= 1e-6


def test_facts_of_different_subjects_are_the_same_bits_beside_a_joint_one(llama, hparams):
    session = session_of(llama, hparams, tokens_per_batch=1)  # batches of one, as none else is beside them
    alone = session.values(OTHERS)
    assert torch.equal(round_values(session, [*ROME, *OTHERS])[3:], alone)


def test_a_loss_that_is_not_finite_fails_all_its_facts_and_no_other(llama, hparams):
    [token] = tiny_tokenizer()("Cu")["input_ids"]  # of Marie Curie, and of "Cuba" in one of Rome's facts
    with torch.no_grad():
        llama.model.embed_tokens.weight[token] = torch.inf
    cuba = dataclasses.replace(ROME[1], prompt="Because of Cuba {} has")
    values = round_values(session_of(llama, hparams), [ROME[0], OTHERS[0], cuba, OTHERS[1]])
    assert values.isnan().all(dim=1).tolist() == [True, True, True, False]


# -- which facts -------------------------------------------------------------------------------------------------


def forms(facts):
    return [Form(place, encode_fact(tiny_tokenizer(), fact, ["{}"])) for place, fact in enumerate(facts)]


def test_facts_of_one_subject_and_facts_alike_up_to_it():
    alike = [Fact("The town of {} is", "Rome", "old"), Fact("The {} is", "town of Rome", "cold")]
    facts = [OTHERS[0], ROME[0], alike[1], OTHERS[1], alike[0], dataclasses.replace(ROME[1], subject="Rome ")]
    assert same_subject(facts, forms(facts)) == [[0], [1, 2, 4, 5], [3]]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.sampled_from("ABCDE"), st.sampled_from("abcde")), max_size=8))
def test_groups_are_those_of_a_search_through_all_pairs(names):
    class Rows:
        def __init__(self, span):
            self.to_lookup = span
            self.rewrites = [self]

    facts = [Fact("{} is", subject, "old") for subject, _ in names]
    expected = [{place} for place in range(len(names))]
    for i, one in enumerate(names):
        for j, other in enumerate(names):
            if one[0] == other[0] or one[1] == other[1]:
                both = expected[i] | expected[j]
                for place in both:
                    expected[place] = both
    groups = sorted({min(group): sorted(group) for group in expected}.values())
    assert same_subject(facts, [Form(place, Rows(span)) for place, (_, span) in enumerate(names)]) == groups


# -- in later rounds ---------------------------------------------------------------------------------------------


def test_a_later_fact_takes_the_standing_ones_of_its_subject_along(llama, hparams):
    """Value and weights are those of a round that has them all."""
    session = session_of(llama, hparams)
    session.edit([ROME[0], OTHERS[0]])
    session.edit([OTHERS[1]])
    values = round_values(session, [ROME[1]])
    together = [ROME[1], ROME[0]]
    updates = LONG * (hparams.v_num_grad_steps - 1)
    with session.state.originals.rewound(session._edited.matrices):
        expected = oracles.joint_values(llama, tiny_tokenizer(), together, TEMPLATES, session.hparams, updates)
    assert relative(values[0], expected[0]) <= 1e-6
    report = session.edit([ROME[1]])
    assert list(report.frame["same_subject"]) == [1]
    assert list(report.frame["replaces"]) == [None]
    assert [fact.question for fact in session.state.history.rounds[-1].facts] == [f.question for f in together]


def test_a_correction_replaces_the_fact_and_says_so(llama, hparams):
    session = session_of(llama, hparams)
    session.edit(ROME)
    again = dataclasses.replace(ROME[0], target_new="Peru")
    report = session.edit([again, OTHERS[0]])
    assert list(report.frame["replaces"]) == ["Spain", None]
    assert list(report.frame["same_subject"]) == [2, 0]
    assert len(report.frame) == 2
    pairs = [fact.asked(fact.text, fact.target_new) for fact in ROME[1:]]
    after = [predict(llama, session.tokenizer, pairs)[pair].probability for pair in pairs]
    assert report.again["target_after"].tolist() == pytest.approx(after, rel=1e-6)
    written = session.state.history.rounds[-1].facts
    assert [(fact.question, fact.target_new) for fact in written] == [
        (again.question, "Peru"), (OTHERS[0].question, "Italian"), (ROME[1].question, "an old town"),
        (ROME[2].question, "France"),
    ]  # fmt: skip
    third = dataclasses.replace(ROME[0], target_new="Italy")
    assert list(session.edit([third]).frame["replaces"]) == ["Peru"]


def test_undone_facts_are_not_taken_along(llama, hparams):
    session = session_of(llama, hparams)
    session.edit([ROME[0]])
    first = {name: tensor.clone() for name, tensor in llama.state_dict().items()}
    session.edit([ROME[1]])
    llama.load_state_dict(first)
    session.edit([ROME[2]])
    assert [fact.question for fact in session.state.history.rounds[-1].facts] == [ROME[2].question, ROME[0].question]


def test_values_are_of_each_fact_by_itself(llama, hparams):
    """Also of facts that share a key: `edit` makes them one value."""
    session = session_of(llama, hparams)
    alone = torch.cat([session.values([fact]) for fact in ROME])
    assert relative(session.values(ROME), alone) <= 1e-9
    session.edit(ROME[:1])
    assert relative(session.values(ROME), alone) <= 1e-9


def test_given_values_that_write_over_a_fact_are_told(llama, hparams, caplog):
    session = session_of(llama, hparams)
    values = session.values([ROME[0]])
    session.edit_with_values([ROME[0]], values)
    assert "overwritten" not in caplog.text
    report = session.edit_with_values([ROME[1]], values)
    assert "1 fact of earlier rounds: about a subject of this one" in caplog.text
    assert list(report.frame["same_subject"]) == [1]


def test_rounds_of_one_subject_equal_the_oracles(llama, hparams):
    """Two rounds by matrices without shortcuts, standing facts among the second's."""
    session = session_of(llama, hparams, p=1.0)
    twin = tiny_model("llama")
    protected = {layer: [] for layer in LAYERS}
    moments = tiny_moments(twin, LAYERS)
    for new in ([ROME[0], OTHERS[0]], [ROME[1]]):
        values = session.values(new)
        every = [*new, *([ROME[0]] if new[0] is ROME[1] else [])]
        updates = LONG * (hparams.v_num_grad_steps - 1)
        if len(every) == 2 and new[0] is ROME[1]:
            fresh = tiny_model("llama")
            values = oracles.joint_values(fresh, tiny_tokenizer(), every, TEMPLATES, session.hparams, updates)
        keys, _ = oracles.edit_round(
            twin, tiny_tokenizer(), every, TEMPLATES, list(values), moments, protected, session.hparams
        )
        protected = {layer: [*protected[layer], *keys[layer]] for layer in LAYERS}
        session.edit(new)
    for layer, matrix in session._edited.matrices.items():
        other = dict(twin.named_parameters())[matrix.name]
        assert relative(matrix.weight, other) <= 1e-6, layer


# -- in a store --------------------------------------------------------------------------------------------------


def test_a_joint_value_is_kept_under_the_facts_it_serves(llama, hparams, tmp_path, monkeypatch):
    session = session_of(llama, hparams, store=str(tmp_path))
    values = round_values(session, [*ROME[:2], OTHERS[0]])
    again = session_of(llama, hparams, store=str(tmp_path))
    monkeypatch.setattr("nse_plugin.session.value_source.optimize_values", None)  # cannot be called
    assert torch.equal(round_values(again, [*ROME[:2], OTHERS[0]]), values)
    assert again.values_from_store == 3
    monkeypatch.undo()
    alone = session_of(llama, hparams, store=str(tmp_path))
    assert not torch.equal(alone.values(ROME[:1]), values[:1])
    assert alone.values_from_store == 0
    facts = [*ROME, *OTHERS]
    random.Random(0).shuffle(facts)
    assert round_values(session_of(llama, hparams, store=str(tmp_path)), facts).isfinite().all()


@pytest.mark.parametrize("chat", [False, "both"])
def test_the_eos_token_is_part_of_the_target(llama, chat):
    """As if its text were written at the target's end."""
    tokenizer, layout = tiny_tokenizer(chat=CHAT), Layout.of(llama)
    facts = tiny_facts()
    ending = [dataclasses.replace(fact, target_new=fact.target_new + tokenizer.eos_token) for fact in facts]
    found = forms_of(tokenizer, facts, TEMPLATES, chat, layout, target_eos=True)
    expected = forms_of(tokenizer, ending, TEMPLATES, chat, layout)
    for one, other in zip(found, expected, strict=True):
        assert one.prompts.rewrites == other.prompts.rewrites
        assert one.prompts.rewrites[0].targets[-1] == tokenizer.eos_token_id
    tokenizer.eos_token = None
    with pytest.raises(FactError, match="target_eos is True, and the tokenizer has no EOS token: leave it out"):
        forms_of(tokenizer, facts, TEMPLATES, chat, layout, target_eos=True)
