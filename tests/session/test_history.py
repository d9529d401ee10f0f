"""The weights determine which rounds are in effect; a round is made completely or not at all, whatever fails."""

from __future__ import annotations

import copy
import dataclasses
import logging

import pytest
import torch
from peft import LoraConfig, get_peft_model
from session_cases import LAYERS, ROUNDS, Boom, edited_weights, failing, put_back, session_on
from tiny import TEMPLATES, tiny_model, tiny_moments, tiny_tokenizer

from nse_plugin import EditSession, Fact
from nse_plugin.easyedit.algorithm import NSE
from nse_plugin.method.protected_keys import ProtectedKeys
from nse_plugin.session.history import History
from nse_plugin.session.report import RoundReport

# -- which rounds stand ------------------------------------------------------------------------------------------


def test_standing_by_hand():
    history = History({1: "a"})
    for number, after in enumerate("bcc", 1):  # the third round changed nothing
        history = history.extended({1: after}, {1: torch.full((number, 2), float(number))}, RoundReport(None, None))
    assert [len(history.standing({1: weights}).rounds) for weights in "abc"] == [0, 1, 3]
    assert history.standing({1: "d"}) is None
    assert history.standing({1: "c"}) is history
    assert [history.standing({1: weights}).knowledge.count for weights in "abc"] == [0, 1, 6]
    assert history.knowledge.count == 6
    again = history.standing({1: "b"}).extended({1: "e"}, {1: torch.ones(1, 2)}, RoundReport(None, None))
    assert again.knowledge.count == 2
    assert again.standing({1: "c"}).rounds == history.rounds
    assert again.standing({1: "c"}).knowledge.count == 6
    assert again.standing({1: "c"}).standing({1: "e"}).rounds == again.rounds


def test_what_was_protected_before_stays_protected():
    before = ProtectedKeys().extended({1: torch.ones(3, 2)})
    history = History({1: "a"}, protected_before=before, knowledge=before)
    history = history.extended({1: "b"}, {1: torch.ones(2, 2)}, RoundReport(None, None))
    assert history.knowledge.count == 5
    assert history.standing({1: "a"}).knowledge.count == 3


@pytest.mark.parametrize("stand", [0, 1, 2, 3])
@pytest.mark.parametrize("through", ["session", "EasyEdit"])
def test_any_number_of_undone_rounds_is_as_if_they_had_not_been(stand, through, hparams, caplog):
    """The next round's weights, protected keys and reports are those of a model that never had them."""
    settings = dataclasses.replace(hparams, mom2_n_samples=2)

    def writer(model):
        if through == "session":
            session = session_on(model, hparams)
            return session.edit, lambda: session.state
        nse = NSE()
        asked = [{"prompt": f.prompt, "subject": f.subject, "target_new": f.target_new} for r in ROUNDS for f in r]

        def edit(facts):
            requests = [one for one in asked if any(one["subject"] == fact.subject for fact in facts)]
            nse.apply_to_model(model, tiny_tokenizer(), requests, settings)

        return edit, lambda: nse.state_of(model)

    model, twin = tiny_model("llama"), tiny_model("llama")
    edit, state = writer(model)
    weights = [edited_weights(model)]
    for facts in ROUNDS[:3]:
        edit(facts)
        weights.append(edited_weights(model))
    put_back(model, weights[stand])
    with caplog.at_level(logging.WARNING, logger="nse_plugin"):
        edit(ROUNDS[3])
    assert ("rounds were undone" in caplog.text) == (through == "session" and stand < 3)
    assert "changed by someone else" not in caplog.text
    edit_twin, state_of_twin = writer(twin)
    for facts in [*ROUNDS[:stand], ROUNDS[3]]:
        edit_twin(facts)
    assert all(map(torch.equal, edited_weights(model), edited_weights(twin)))
    assert state().knowledge.count == state_of_twin().knowledge.count == sum(map(len, [*ROUNDS[:stand], ROUNDS[3]]))
    assert len(state().reports) == stand + 1
    assert torch.equal(state().originals.tensors[1], weights[0][0])


def test_rounds_that_are_put_back_again_stand_again(llama, hparams):
    session = session_on(llama, hparams)
    before = edited_weights(llama)
    session.edit(ROUNDS[0])
    after = edited_weights(llama)
    put_back(llama, before)
    session.values(ROUNDS[1])
    put_back(llama, after)
    session.edit(ROUNDS[1])
    assert session.state.knowledge.count == 3


@pytest.mark.parametrize("back_to", [0, 1, 2, 3])
def test_rounds_are_known_after_others_were_made_in_their_place(back_to, hparams, caplog):
    """Two rounds; back to the first; a third; back to any of them, or to the start."""
    model, twin = tiny_model("llama"), tiny_model("llama")
    session, plain = session_on(model, hparams), session_on(twin, hparams)
    weights = [edited_weights(model)]
    for number, facts in enumerate(ROUNDS[:3], 1):
        if number == 3:
            put_back(model, weights[1])
        session.edit(facts)
        weights.append(edited_weights(model))
    put_back(model, weights[back_to])
    caplog.clear()
    session.edit(ROUNDS[3])
    assert "other weights" not in caplog.text
    assert ("1 of 2 rounds were undone" in caplog.text) == (back_to in (1, 2))
    for facts in [[], ROUNDS[:1], ROUNDS[:2], [ROUNDS[0], ROUNDS[2]]][back_to]:
        plain.edit(facts)
    plain.edit(ROUNDS[3])
    assert all(map(torch.equal, edited_weights(model), edited_weights(twin)))
    assert session.state.knowledge.count == plain.state.knowledge.count
    assert torch.equal(session.state.originals.tensors[1], weights[0][0])


TOO_LONG = [Fact("The old town {} " + "is " * 99, "Rome", "Italy")]


@pytest.mark.parametrize("ask", ["refused", "values", "interrupted"])
def test_only_a_round_that_is_made_takes_other_weights_for_the_original_ones(ask, llama, hparams, monkeypatch):
    """Weights are changed, something is asked that makes no round, and they are put back."""
    session = session_on(llama, hparams)
    original = edited_weights(llama)
    for facts in ROUNDS[:2]:
        session.edit(facts)
    after, state = edited_weights(llama), session.state
    noise(llama)
    if ask == "refused":
        with pytest.raises(ValueError, match="64 positions"):
            session.edit(TOO_LONG)
    elif ask == "values":
        session.values(ROUNDS[2])
    else:
        changed = edited_weights(llama)
        with monkeypatch.context() as patch:
            failing(patch, RoundReport, "of")
            with pytest.raises(Boom):
                session.edit(ROUNDS[2])
        assert all(map(torch.equal, edited_weights(llama), changed))
    assert session.state is state
    put_back(llama, after)
    session.edit(ROUNDS[2])
    assert session.state.knowledge.count == 4
    assert torch.equal(session.state.originals.tensors[1], original[0])


def noise(model):
    with torch.no_grad():
        for layer in LAYERS:
            weight = model.model.layers[layer].mlp.down_proj.weight
            weight.add_(0.01 * torch.randn(weight.shape, dtype=weight.dtype))


def one_element_through_data(model):
    model.model.layers[2].mlp.down_proj.weight.data[7, 9] += 1e-9


def another_checkpoint(model):
    model.load_state_dict(tiny_model("llama", seed=3).state_dict())


def another_tensor(model):
    weight = model.model.layers[1].mlp.down_proj.weight
    weight.data = weight.data * 1.5


CHANGES = [noise, one_element_through_data, another_checkpoint, another_tensor]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("ask", ["edit", "values"])
def test_weights_that_no_round_left_are_new_original_ones(change, ask, llama, hparams, caplog):
    session = session_on(llama, hparams)
    for facts in ROUNDS[:2]:
        session.edit(facts)
    change(llama)
    twin = copy.deepcopy(llama)
    with caplog.at_level(logging.WARNING, logger="nse_plugin"):
        found = getattr(session, ask)(ROUNDS[2])
    assert "other weights than any of the 2 rounds" in caplog.text
    expected = getattr(session_on(twin, hparams), ask)(ROUNDS[2])
    assert all(map(torch.equal, edited_weights(llama), edited_weights(twin)))
    if ask == "values":
        assert torch.equal(found, expected)
    else:
        assert session.state.knowledge.count == len(session.state.reports) == 1


def test_what_was_measured_itself_is_measured_again_on_new_original_weights(llama, hparams):
    session = EditSession(llama, tiny_tokenizer(), dataclasses.replace(hparams, mom2_n_samples=2))
    session.edit(ROUNDS[0])
    templates, moments = session.templates, session.moments
    another_checkpoint(llama)
    session.edit(ROUNDS[1])
    assert session.templates != templates
    assert not torch.equal(session.moments[1], moments[1])


# -- a state that is handed over ---------------------------------------------------------------------------------


def with_two_adapters():
    wrapped = get_peft_model(tiny_model("llama"), LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    wrapped.add_adapter("other", LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.5)
    return wrapped


def scaled(wrapped):
    for module in wrapped.modules():
        if hasattr(module, "set_scale"):
            module.set_scale("default", 9.0)


def other_attention(wrapped):
    wrapped.get_base_model().model.layers[3].self_attn.o_proj.weight.data.mul_(1.5)


ELSEWHERE = [
    lambda wrapped: wrapped.base_model.disable_adapter_layers(), lambda wrapped: wrapped.set_adapter("other"), scaled,
    other_attention,
]  # fmt: skip


@pytest.mark.parametrize("change", ELSEWHERE, ids=["off", "another", "scaled", "weights"])
@pytest.mark.parametrize("through", ["session", "EasyEdit"])
def test_what_was_measured_follows_the_rest_of_the_model(change, through, hparams):
    """The rounds stand; moments, templates and values are those of the model as it is, with its original weights."""
    wrapped = with_two_adapters()
    model = wrapped.get_base_model()
    settings = dataclasses.replace(hparams, mom2_n_samples=2)
    original = edited_weights(model)
    nse, session = NSE(), EditSession(model, tiny_tokenizer(), settings)

    def edit(subject, target):
        request = {"prompt": "The capital of {} is", "subject": subject, "target_new": target}
        if through == "EasyEdit":
            nse.apply_to_model(model, tiny_tokenizer(), [request], settings)
            return nse.state_of(model)
        session.edit(request)
        return session.state

    state = edit("France", "Lyon")
    before = state.moments, state.templates
    change(wrapped)
    state = edit("Germany", "Rome")
    assert state.knowledge.count == 2
    assert torch.equal(state.originals.tensors[1], original[0])
    put_back(model, original)
    fresh = EditSession(model, tiny_tokenizer(), settings)
    assert all(torch.equal(state.moments[layer], fresh.moments[layer]) for layer in LAYERS)
    assert state.templates == fresh.templates
    assert not torch.equal(state.moments[2], before[0][2])
    again = EditSession(model, tiny_tokenizer(), settings, state=state)
    assert torch.equal(again.values(ROUNDS[1]), fresh.values(ROUNDS[1]))


@pytest.mark.parametrize("change", ELSEWHERE, ids=["off", "another", "scaled", "weights"])
def test_of_a_state_of_a_model_that_differs_elsewhere_only_the_rounds_stand(change, hparams):
    wrapped = with_two_adapters()
    model = wrapped.get_base_model()
    session = EditSession(model, tiny_tokenizer(), hparams, tiny_moments(tiny_model("llama"), LAYERS), TEMPLATES)
    session.edit(ROUNDS[0])
    before = edited_weights(model)
    same = EditSession(model, tiny_tokenizer(), hparams, state=session.state).state
    assert same.moments is session.state.moments
    change(wrapped)
    other = EditSession(model, tiny_tokenizer(), hparams, state=session.state).state
    assert other.moments is other.templates is None
    assert other.contexts is not same.contexts
    assert other.knowledge.count == same.knowledge.count > 0
    assert session.state.moments is not None
    assert all(map(torch.equal, edited_weights(model), before))


def test_given_moments_and_templates_stay_whatever_becomes_of_the_model(llama, hparams):
    session = session_on(llama, hparams)
    moments = session.moments
    llama.model.layers[3].self_attn.o_proj.weight.data.mul_(1.5)
    assert session.moments is moments
    assert session.templates == list(TEMPLATES)


def test_sessions_that_begin_with_one_state_go_on_separately(hparams):
    """On a model and its copy, as after `copy.deepcopy`: neither loses its rounds to the other's."""
    model = tiny_model("llama")
    session = session_on(model, hparams)
    original = edited_weights(model)
    session.edit(ROUNDS[0])
    other = copy.deepcopy(model)
    on_copy = session_on(other, hparams, session.state)
    on_copy.edit(ROUNDS[1])
    session.edit(ROUNDS[2])
    on_copy.edit(ROUNDS[3])
    assert (session.state.knowledge.count, on_copy.state.knowledge.count) == (2, 4)
    assert torch.equal(on_copy.state.originals.tensors[1], original[0])
    plain = session_on(tiny_model("llama"), hparams)
    for number in (0, 1, 3):
        plain.edit(ROUNDS[number])
    assert all(map(torch.equal, edited_weights(other), edited_weights(plain.model)))


# -- whole or not at all -----------------------------------------------------------------------------------------


def test_a_failed_call_on_changed_weights_forgets_nothing(hparams):
    """Weights are changed, a call fails, and they are put back: the earlier rounds are still protected."""
    model, nse = tiny_model("llama"), NSE()
    settings = dataclasses.replace(hparams, mom2_n_samples=2)
    request = {"prompt": "The capital of {} is", "subject": "France", "target_new": "Lyon"}
    nse.apply_to_model(model, tiny_tokenizer(), [request], settings)
    after = edited_weights(model)
    noise(model)
    too_long = {"prompt": "The old town {} " + "is " * 99, "subject": "Rome", "target_new": "Italy"}
    with pytest.raises(ValueError, match="64 positions"):
        nse.apply_to_model(model, tiny_tokenizer(), [too_long], settings)
    put_back(model, after)
    assert nse.state_of(model).knowledge.count == 1


def test_keys_of_rounds_are_kept_once(llama, hparams):
    """The history and the protected keys share their memory until the keys join the square."""
    session = session_on(llama, hparams)
    for facts in ROUNDS[:2]:
        session.edit(facts)
    history = session.state.history
    for layer in LAYERS:
        kept = [made.keys[layer].data_ptr() for made in history.rounds]
        assert [part.data_ptr() for part in history.knowledge.layers[layer].parts if len(part)] == kept


# -- inference mode ----------------------------------------------------------------------------------------------


def test_a_session_may_begin_and_go_on_in_inference_mode(hparams):
    model, twin = tiny_model("llama"), tiny_model("llama")
    with torch.inference_mode():
        session = session_on(model, hparams)
        session.edit(ROUNDS[0])
    session.edit(ROUNDS[1])
    with torch.inference_mode():
        session.edit(ROUNDS[2])
    plain = session_on(twin, hparams)
    for facts in ROUNDS[:3]:
        plain.edit(facts)
    assert all(map(torch.equal, edited_weights(model), edited_weights(twin)))
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_moments_and_templates_of_a_session_in_inference_mode_serve_outside(llama, hparams):
    settings = dataclasses.replace(hparams, mom2_n_samples=2)
    with torch.inference_mode():
        session = EditSession(llama, tiny_tokenizer(), settings)
        assert session.moments
        assert session.templates
    session.edit(ROUNDS[0])
    model, request = tiny_model("llama"), {"prompt": "The capital of {} is", "subject": "France", "target_new": "Lyon"}
    with torch.inference_mode():
        NSE().apply_to_model(model, tiny_tokenizer(), [request], settings)
