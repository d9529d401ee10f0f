"""EditSession: rewinding, and that after any failure the model, its tokenizer and the process are as before."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import logging
import random

import numpy as np
import oracles
import pytest
import torch
from peft import LoraConfig, get_peft_model
from session_cases import LAYERS, NEW, ROUNDS, session_on
from tiny import TEMPLATES, tiny_facts, tiny_model, tiny_moments, tiny_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

import nse_plugin.method.multilayer
import nse_plugin.method.values
import nse_plugin.session.edited
import nse_plugin.session.round
import nse_plugin.session.session
from nse_plugin import EditSession, Fact
from nse_plugin.facts import FactError
from nse_plugin.method.update import UpdateError
from nse_plugin.models.layout import LayoutError, OutputMatrix
from nse_plugin.replay.span import SpanReplay
from nse_plugin.replay.suffix import SuffixReplay

# -- rewinding ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])  # Linear, Conv1D
def test_after_five_rounds_a_new_value_is_bit_identical(architecture, hparams):
    facts = [Fact(f"{{}} {words}", subject, "Lyon") for words in ("is", "speaks") for subject in ("Paris", "a town")]
    untouched = session_on(tiny_model(architecture), hparams).values(facts)
    session = session_on(tiny_model(architecture), hparams)
    for round_of_facts in ROUNDS:
        session.edit(round_of_facts)
    assert len(session.state.reports) == 5
    assert torch.equal(session.values(facts), untouched)


def test_without_rewinding_it_is_not(hparams):
    untouched = session_on(tiny_model("llama"), hparams).values([NEW])
    session = session_on(tiny_model("llama"), hparams, rewind=False)
    assert torch.equal(session.values([NEW]), untouched)
    for facts in ROUNDS:
        session.edit(facts)
    assert not torch.allclose(session.values([NEW]), untouched, rtol=1e-3)


@pytest.mark.parametrize(("settings", "once"), [({}, True), ({"rewind": False}, False)])
def test_templates_are_run_once_a_session_on_the_original_weights(llama, hparams, settings, once):
    session = session_on(llama, hparams, **settings)
    tokens = [0]

    def count(_, args):
        tokens[-1] += args[0].shape[0] * args[0].shape[1]

    def of_values(session):
        for ask in (session._edited.check, session._edited.check):  # once for good, and what it costs every time
            tokens.append(0)
            ask(session.state)
        tokens.append(0)
        session.values([NEW])
        return tokens[-1] - tokens[-2]

    llama.model.layers[0].mlp.register_forward_pre_hook(count)
    count.__module__ = "transformers.only_looks"  # other hooks may change what is computed: nothing is kept
    rows = session._edited.forms(session.state, [NEW])[0].prompts.rewrites
    templates = sum(len(row.ids[: row.context]) for row in rows)
    probe = rows[0].lookup + 1  # what layers do to W_out's output is found once, whatever the settings
    first = of_values(session)
    tokens.append(0)
    session.edit(ROUNDS[0])
    assert first - of_values(session) == (templates if once else 0) + probe
    # EasyEdit's way: a session a round
    assert first - of_values(session_on(llama, hparams, **settings)) == 0
    another = EditSession(llama, tiny_tokenizer(), session.hparams, state=session.state)
    assert first - of_values(another) == (templates if once else 0) + probe
    count.__module__ = __name__
    assert of_values(session) == first


def test_asking_for_values_edits_nothing(llama, hparams, weights_of, same_weights):
    session = session_on(llama, hparams)
    session.edit(ROUNDS[0])
    before = weights_of(llama)
    pointers = {name: parameter.data_ptr() for name, parameter in llama.named_parameters()}
    session.values([NEW])
    assert same_weights(weights_of(llama), before)
    assert {name: parameter.data_ptr() for name, parameter in llama.named_parameters()} == pointers
    assert len(session.state.reports) == 1


def test_only_the_edited_matrices_change(llama, hparams, weights_of):
    before = weights_of(llama)
    session_on(llama, hparams).edit(tiny_facts())
    changed = {name for name, weight in weights_of(llama).items() if not torch.equal(weight, before[name])}
    assert changed == {f"model.layers.{layer}.mlp.down_proj.weight" for layer in LAYERS}


# -- accumulation ------------------------------------------------------------------------------------------------


def test_knowledge_accumulates_or_not(hparams):
    for accumulate, counts in ((True, [1, 3, 4]), (False, [0, 0, 0])):
        session = session_on(tiny_model("llama"), hparams, accumulate=accumulate)
        found = []
        for facts in ROUNDS[:3]:
            session.edit(facts)
            found.append(session.state.knowledge.count)
        assert found == counts


# -- exceptions --------------------------------------------------------------------------------------------------


class Boom(Exception):
    pass


def exploding(function, on_call, kind=Boom):
    """The function, failing at its `on_call`-th call: after it did its work, where that hurts most."""
    calls = 0

    def wrapper(*args, **kwargs):
        nonlocal calls
        calls += 1
        result = function(*args, **kwargs)
        if calls == on_call:
            raise kind
        return result

    return wrapper


def everything(model, tokenizer):
    """All of a model and tokenizer that an edit could leave changed."""
    modules = dict(model.named_modules())
    hooks = [name for name in vars(model) if "hooks" in name]
    assert "_forward_hooks" in hooks
    return {
        "hooks": {
            n: {h: dict(getattr(m, h)) for h in hooks if isinstance(getattr(m, h), dict)} for n, m in modules.items()
        },
        "forward": {n: m.__dict__.get("forward") for n, m in modules.items()},
        "training": {n: m.training for n, m in modules.items()},
        "requires_grad": {n: p.requires_grad for n, p in model.named_parameters()},
        "grad": {n: p.grad for n, p in model.named_parameters()},
        "storage": {n: p.data_ptr() for n, p in model.named_parameters()},
        "padding": (tokenizer.padding_side, tokenizer.pad_token, tokenizer.truncation_side),
        "grad_enabled": torch.is_grad_enabled(),
        "rng": (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()),
    }


POINTS = {
    "in the first loss": (nse_plugin.method.values._Batch, "nll_and_kl", 1),
    "in a later loss": (nse_plugin.method.values._Batch, "nll_and_kl", 3),
    "after the prefix": (SuffixReplay, "__init__", 1),
    "in the head": (SuffixReplay, "_head", 2),
    "before the first update": (SpanReplay, "run", 1),
    "between two layers": (SpanReplay, "run", 2),
    "after the first update": (OutputMatrix, "add_columns", 1),
    "in the second pass": (OutputMatrix, "add_columns", 3),
    "in the solver": (nse_plugin.method.multilayer, "solve_update", 2),
    "after the last residuals": (nse_plugin.session.round, "edit_layers", 1),
}
INTERRUPTED = "in the second pass"


@pytest.mark.parametrize(("point", "kind"), [*((point, Boom) for point in POINTS), (INTERRUPTED, KeyboardInterrupt)])
def test_an_exception_leaves_everything_as_it_was(point, kind, hparams, monkeypatch, weights_of, same_weights):
    model, tokenizer = tiny_model("llama"), tiny_tokenizer(padding_side="left")
    session = EditSession(
        model, tokenizer, dataclasses.replace(hparams, alpha=1e-6), tiny_moments(model, LAYERS), TEMPLATES
    )
    session.edit(ROUNDS[0])
    model.train()
    model.model.layers[0].eval()
    model.lm_head.weight.requires_grad_(False)
    model.model.norm.register_forward_hook(lambda *_: None)
    before, weights, knowledge = everything(model, tokenizer), weights_of(model), session.state.knowledge
    owner, name, call = POINTS[point]
    monkeypatch.setattr(owner, name, exploding(getattr(owner, name), call, kind))
    with pytest.raises(kind):
        session.edit(tiny_facts())
    assert everything(model, tokenizer) == before
    assert same_weights(weights_of(model), weights)
    assert session.state.knowledge is knowledge
    assert len(session.state.reports) == 1


@pytest.mark.parametrize("call", range(1, 8))
@pytest.mark.parametrize("part", ["lm_head", "model.norm", "model.layers.1", "model.layers.3"])
def test_an_exception_inside_the_model_leaves_everything_as_it_was(part, call, hparams, weights_of, same_weights):
    """As when memory runs out: in a forward pass of the model's own, or in a part of one that is replayed."""
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    session = session_on(model, hparams)
    calls = itertools.count(1)

    def fail(*_):
        if next(calls) == call:
            raise Boom

    model.get_submodule(part).register_forward_pre_hook(fail)
    before, weights = everything(model, tokenizer), weights_of(model)
    with pytest.raises(Boom):
        session.edit(tiny_facts())
    assert everything(model, tokenizer) == before
    assert same_weights(weights_of(model), weights)


def test_a_round_after_a_failed_one_is_as_if_it_had_not_been(hparams, monkeypatch, weights_of, same_weights):
    plain = session_on(tiny_model("llama"), hparams)
    session = session_on(tiny_model("llama"), hparams)
    with monkeypatch.context() as patch:
        patch.setattr(OutputMatrix, "add_columns", exploding(OutputMatrix.add_columns, 2))
        with pytest.raises(Boom):
            session.edit(ROUNDS[0])
    for facts in ROUNDS[1:3]:
        plain.edit(facts)
        session.edit(facts)
    assert same_weights(weights_of(session.model), weights_of(plain.model))


def test_an_edit_that_goes_well_leaves_all_but_the_weights_as_it_was(hparams):
    model, tokenizer = tiny_model("llama"), tiny_tokenizer(padding_side="left")
    model.train()
    model.lm_head.weight.requires_grad_(False)
    session = EditSession(model, tokenizer, dataclasses.replace(hparams, mom2_n_samples=2))
    before = everything(model, tokenizer)
    session.values([NEW])  # writes templates
    session.edit(tiny_facts())  # measures moments
    assert everything(model, tokenizer) == before


# -- hooks between rounds ------------------------------------------------------------------------------------------


def looks_at_later_tokens(_, __, output):
    hidden = output[0] if isinstance(output, tuple) else output
    mixed = hidden + torch.nn.functional.pad(hidden[:, 1:], (0, 0, 0, 1))
    return (mixed, *output[1:]) if isinstance(output, tuple) else mixed


@pytest.mark.parametrize("change", ["another hook on the module", "a hook on a later module"])
def test_layers_are_checked_again_when_hooks_change(change, llama, hparams, weights_of, same_weights):
    layers = llama.model.layers
    handle = layers[0].register_forward_hook(lambda *_: None)
    session = session_on(llama, hparams)
    session.edit(ROUNDS[0])
    before = weights_of(llama)
    if change == "another hook on the module":
        handle.remove()
        added = layers[0].register_forward_hook(looks_at_later_tokens)
    else:
        added = layers[1].register_forward_hook(looks_at_later_tokens)
    for ask in (session.edit, session.values):
        with pytest.raises(LayoutError, match="a hook that mixes tokens"):
            ask(ROUNDS[1])
    assert same_weights(weights_of(llama), before)
    added.remove()
    session.edit(ROUNDS[1])
    assert session.state.knowledge.count == 3


# -- what must not matter ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bos", [False, True], ids=["no-bos", "bos"])
def test_a_left_padded_tokenizer_gives_the_same_weights(bos, hparams, weights_of, same_weights):
    found = []
    for side in ("right", "left"):
        model = tiny_model("llama")
        tokenizer = tiny_tokenizer(bos=bos, padding_side=side)
        if side == "left":
            tokenizer.pad_token = None
        settings = dataclasses.replace(hparams, mom2_n_samples=2)
        EditSession(model, tokenizer, settings).edit(tiny_facts())
        found.append(weights_of(model))
    assert same_weights(*found)


def test_a_round_gives_its_memory_back_when_all_is_done(llama, hparams, monkeypatch):
    session = session_on(llama, hparams)
    rounds = []
    monkeypatch.setattr(nse_plugin.session.session, "trim_heap", lambda: rounds.append(len(session.state.reports)))
    session.edit(ROUNDS[0])
    session.edit(ROUNDS[1])
    assert rounds == [1, 2]


@pytest.mark.parametrize("as_given", [lambda fact: fact, dataclasses.asdict, lambda fact: iter([fact])])
def test_facts_as_people_have_them(as_given, hparams, weights_of, same_weights):
    """One fact, a record, or anything that yields some."""
    model, same = tiny_model("llama"), tiny_model("llama")
    session, expected = session_on(model, hparams), session_on(same, hparams)
    assert torch.equal(session.values(as_given(NEW)), expected.values([NEW]))
    session.edit_with_values(as_given(NEW), None)
    expected.edit([NEW])
    assert same_weights(weights_of(model), weights_of(same))


def test_what_is_no_fact_is_refused(llama, hparams, weights_of, same_weights):
    before, session = weights_of(llama), session_on(llama, hparams)
    for given, words in [("Rome", "facts is"), ([NEW, "Rome"], r"facts\[1\] is"), ({"prompt": "{} is"}, "is missing")]:
        for ask in (session.edit, session.values):
            with pytest.raises(FactError, match=words):
                ask(given)
    assert same_weights(weights_of(llama), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_models_in_their_own_precision(dtype, hparams, tokenizer):
    model = tiny_model("llama", dtype)
    session = session_on(model, hparams)
    assert session.values(tiny_facts()).dtype == torch.float32
    frame = session.edit(tiny_facts()).frame
    assert frame["residual"].sum() < frame["residual_before"].sum() / 2
    assert (frame["residual"] < frame["residual_before"] + 0.05).all()  # one that is small may grow by rounding
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}


def test_a_name_that_is_left_out_is_told_once_a_round(llama, hparams, caplog):
    facts = [dataclasses.replace(fact, rephrase_prompts=(f"in {fact.subject.lower()}",)) for fact in tiny_facts()[:2]]
    session_on(llama, hparams).edit(facts)
    [told] = [message for message in caplog.messages if "calls the subject by a name" in message]
    assert told.startswith("In 2 facts")


# -- the process -------------------------------------------------------------------------------------------------


def test_forgetting_forgets_what_was_protected_before(llama, tokenizer, facts, hparams, templates):
    """`accumulate: false`, set in mid-session, is as if nothing had been protected."""
    moments = tiny_moments(llama, [1, 2])
    session = EditSession(llama, tokenizer, hparams, moments=moments, templates=templates)
    session.edit(facts[:2])
    assert session.state.knowledge.count == 2
    session.hparams = dataclasses.replace(hparams, accumulate=False)
    other = copy.deepcopy(llama)
    forgetful = EditSession(other, tokenizer, session.hparams, moments=moments, templates=templates)
    values = session.values(facts[2:])
    session.edit_with_values(facts[2:], values)
    forgetful.edit_with_values(facts[2:], values)
    for (name, found), expected in zip(llama.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(found, expected), name


def test_a_model_whose_dtype_changed_is_noticed(llama, tokenizer, facts, hparams, templates):
    session = EditSession(llama, tokenizer, hparams, moments=tiny_moments(llama, [1, 2]), templates=templates)
    session.edit(facts[:1])
    llama.to(torch.float32)
    before = [weight.clone() for weight in llama.parameters()]
    with pytest.raises(ValueError, match=r"torch.float64 when its first round was made and is in torch.float32"):
        session.edit(facts[1:2])
    assert all(map(torch.equal, llama.parameters(), before))


def test_inference_mode_outside_changes_nothing(llama, tokenizer, facts, hparams, templates):
    session = EditSession(llama, tokenizer, hparams, moments=tiny_moments(llama, [1, 2]), templates=templates)
    expected = session.values(facts)
    with torch.inference_mode():
        found = session.values(facts)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("scale", [1e4, 1e6])
def test_an_update_too_large_for_the_dtype_is_refused_whole(tokenizer, facts, hparams, templates, scale):
    model = tiny_model("llama", torch.float16)
    moments = tiny_moments(model, [1, 2])
    session = EditSession(model, tokenizer, hparams, moments=moments, templates=templates)
    values = session.values(facts).float() * scale
    before = [weight.clone() for weight in model.parameters()]
    with pytest.raises(UpdateError, match=r"torch.float16.*bfloat16 or float32"):
        session.edit_with_values(facts, values)
    assert all(map(torch.equal, model.parameters(), before))
    assert session.state.knowledge.count == 0
    assert session.state.reports == []


def compiled(model, what):
    if what == "layers":
        for layer in model.model.layers:
            layer.compile(backend="eager")
    elif what == "MLPs":
        for layer in model.model.layers:
            layer.mlp.compile(backend="eager")
    else:
        model.compile(backend="eager")
    model(input_ids=torch.tensor([[1, 2, 3]]))  # hooks that are added to compiled code are never called
    return model


@pytest.mark.parametrize("what", ["layers", "MLPs", "the whole model"])
def test_a_compiled_model_is_edited_like_any_other(what, hparams, weights_of, same_weights):
    found = []
    for model in (tiny_model("llama"), compiled(tiny_model("llama"), what)):
        session = session_on(model, hparams)
        session.edit(tiny_facts())
        found.append((weights_of(model), model(input_ids=torch.tensor([[1, 2, 3]])).logits))
    assert same_weights(found[0][0], found[1][0])
    assert torch.allclose(found[0][1], found[1][1])


@pytest.mark.parametrize("whole", [True, False])
def test_a_model_with_adapters_is_said_not_to_save_its_edits(whole, hparams, caplog):
    wrapped = get_peft_model(tiny_model("llama"), LoraConfig(r=2, target_modules=["q_proj"]))
    model = wrapped if whole else wrapped.get_base_model()
    with caplog.at_level(logging.WARNING):
        session = EditSession(model, tiny_tokenizer(), hparams, tiny_moments(tiny_model("llama"), LAYERS), TEMPLATES)
        EditSession(model, tiny_tokenizer(), hparams, state=session.state)
        session_on(tiny_model("llama"), hparams)
    assert caplog.text.count("writes the adapters alone, without the edits") == 1


@pytest.mark.parametrize("kind", ["mistral", "gemma2", "gemma3_text"])
def test_sliding_windows_with_eager_attention_in_float64(kind, hparams):
    """transformers' eager attention makes NaN of a padded place that attends to nothing, and NaN spreads."""
    config = AutoConfig.for_model(
        kind, vocab_size=320, hidden_size=16, intermediate_size=40, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, head_dim=4, sliding_window=8, max_position_embeddings=64, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float64, attn_implementation="eager").eval()
    for layer in model.model.layers:  # or the epsilon of Gemma's norms would count beside outputs as small as at first
        layer.mlp.down_proj.weight.data.mul_(100)
    session = EditSession(model, tiny_tokenizer(), hparams, tiny_moments(model, LAYERS), TEMPLATES)
    facts = tiny_facts()
    expected = [oracles.value(model, tiny_tokenizer(), fact, TEMPLATES, hparams) for fact in facts]
    assert torch.allclose(session.values(facts), torch.stack(expected), rtol=1e-4, atol=1e-6)
    assert "failed" not in session.edit(facts).frame["status"].tolist()


def test_a_module_put_in_the_place_of_another_is_the_one_that_is_edited(hparams, monkeypatch):
    """By a copy, between rounds, as quantisation and adapters do it: rewinding, the round and its undoing are of it."""
    model, plain = tiny_model("llama"), tiny_model("llama")
    session, expected = session_on(model, hparams), session_on(plain, hparams)
    for one in (session, expected):
        one.edit(ROUNDS[0])
    for layer in LAYERS:
        mlp = model.model.layers[layer].mlp
        mlp.down_proj = copy.deepcopy(mlp.down_proj)
    before = [model.model.layers[layer].mlp.down_proj.weight.detach().clone() for layer in LAYERS]
    assert torch.equal(session.values(ROUNDS[1]), expected.values(ROUNDS[1]))
    with monkeypatch.context() as patch:
        patch.setattr(nse_plugin.session.round.RoundReport, "of", lambda *_: pytest.fail("no report"))
        with pytest.raises(pytest.fail.Exception):
            session.edit(ROUNDS[1])
    for layer, weight in zip(LAYERS, before, strict=True):
        assert torch.equal(model.model.layers[layer].mlp.down_proj.weight, weight)
    for one in (session, expected):
        one.edit(ROUNDS[1])
    assert session.state.knowledge.count == expected.state.knowledge.count
    for layer in LAYERS:
        changed, other = (one.model.layers[layer].mlp.down_proj.weight for one in (model, plain))
        assert torch.equal(changed, other)
