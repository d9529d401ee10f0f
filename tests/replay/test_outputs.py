"""What a layer does to W_out's output: found by running it, and solved for."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from architectures import random_model
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import relative
from tiny import ARCHITECTURES, TEMPLATES, tiny_model, tiny_moments
from transformers import AutoConfig, AutoModelForCausalLM

from nse_plugin.models.layout import Layout
from nse_plugin.models.prompts import EncodedPrompt
from nse_plugin.replay import outputs
from nse_plugin.replay.outputs import Factor, Identity, Norm, nearest_on_sphere, output_maps
from nse_plugin.session import EditSession

pytestmark = pytest.mark.usefixtures("all_in_double")

LAYERS = [1, 2]
ROWS = [EncodedPrompt(tuple(range(5, 12)), 4), EncodedPrompt(tuple(range(30, 36)), 5)]
NORMED = ("gemma2", "gemma3_text", "olmo2", "olmo3", "exaone4", "glm4")
# the module that Granite's factor and the others' norm belong to
_POST = {"glm4": "post_mlp_layernorm"}


def maps_of(model, rows=ROWS, name=None):
    return output_maps(Layout.of(model, name), LAYERS, rows)


def built(kind: str, **changes):
    sizes = {
        "vocab_size": 320, "hidden_size": 16, "intermediate_size": 40, "num_hidden_layers": 4, "head_dim": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0,
    }  # fmt: skip
    torch.manual_seed(0)
    try:
        config = AutoConfig.for_model(kind, **{**sizes, **changes})
    except ValueError as error:
        pytest.skip(f"this transformers has no {kind}: {error}")
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float64).eval()
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            parameter.normal_(std=0.2) if parameter.dim() > 1 or "gemma" in kind else parameter.uniform_(0.1, 2.0)
            assert name
    return model


@pytest.mark.parametrize("kind", [kind for kind in ARCHITECTURES if "gemma" not in kind])
def test_most_models_add_the_output_as_it_is(kind):
    assert maps_of(tiny_model(kind)) == dict.fromkeys(LAYERS, Identity())


@pytest.mark.parametrize("kind", NORMED)
def test_a_norm_is_found_with_its_gain(kind):
    model = built(kind)
    for layer, found in maps_of(model).items():
        weight = getattr(model.model.layers[layer], _POST.get(kind, "post_feedforward_layernorm")).weight.detach()
        assert isinstance(found, Norm)
        assert relative(found.gain, weight + 1 if "gemma" in kind else weight) <= 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(("kind", "form"), [("gemma3_text", Norm), ("granite", Factor), ("llama", Identity)])
def test_forms_are_told_apart_in_every_precision(kind, form, dtype):
    model = built(kind, **({"residual_multiplier": 0.22} if kind == "granite" else {})).to(dtype)
    assert [type(found) for found in maps_of(model).values()] == [form, form]


def test_a_gate_is_a_factor_of_each_token():
    model = random_model("qwen2_moe")
    gates = []
    gate = model.model.layers[2].mlp.shared_expert_gate
    gate.register_forward_hook(lambda _, __, output: gates.append(output.detach()))
    found = maps_of(model)
    last = gates[-1].flatten()[-1].sigmoid()  # layer 2, second row
    assert float(found[2].factors[1, 0]) == pytest.approx(float(last), rel=1e-5)
    assert found[1].factors[0] != found[1].factors[1]


def test_granite_ends_where_a_plain_model_ends(tokenizer, facts, hparams):
    """The plain model's matrices that write to the residual stream are smaller by the factor."""
    factor = 0.22
    granite = built("granite", residual_multiplier=factor)
    plain = built("granite", residual_multiplier=1.0)
    with torch.no_grad():
        for layer in plain.model.layers:
            layer.self_attn.o_proj.weight.mul_(factor)
            layer.mlp.down_proj.weight.mul_(factor)
    moments = tiny_moments(plain, LAYERS)
    frames = []
    for model in (granite, plain):
        session = EditSession(model, tokenizer, dataclasses.replace(hparams, alpha=1e-9), moments, list(TEMPLATES))
        frames.append(session.edit(facts).frame)
    for layer in LAYERS:
        edited = (model.model.layers[layer].mlp.down_proj.weight for model in (granite, plain))
        scaled = [next(edited) * factor, next(edited)]
        assert relative(*scaled) <= 1e-9
    assert torch.allclose(*(torch.tensor(frame["residual"].to_numpy()) for frame in frames), rtol=1e-6)


def test_a_plain_model_is_edited_as_if_nothing_had_been_looked_for(tokenizer, facts, hparams, monkeypatch):
    """One pass once per model, however many rounds, batches of values and sessions; the weights stay bit for bit."""
    runs, own = [], outputs._Probe.gradients
    monkeypatch.setattr(outputs._Probe, "gradients", lambda *given: runs.append(given) or own(*given))

    def edited(sessions):
        model = tiny_model("llama", torch.float32)
        for _ in range(sessions):
            session = EditSession(model, tokenizer, hparams, tiny_moments(model, LAYERS), list(TEMPLATES))
            for fact in facts[:2]:
                session.edit([fact])
            weights = [model.model.layers[layer].mlp.down_proj.weight.detach().clone() for layer in LAYERS]
            session.rollback(2)
        return weights

    looked_for = edited(sessions=2)
    assert len(runs) == 1
    monkeypatch.setattr("nse_plugin.method.multilayer.output_maps", lambda *_: dict.fromkeys(LAYERS, Identity()))
    monkeypatch.setattr(Identity, "change_before", lambda _, change, __: change)
    monkeypatch.setattr("nse_plugin.method.values.Reach.of", lambda *_: None)
    assert all(map(torch.equal, looked_for, edited(sessions=1)))
    assert len(runs) == 1


def test_a_factor_is_measured_at_every_fact_and_its_form_found_once(monkeypatch):
    rows, own = [], outputs._Probe.__init__
    monkeypatch.setattr(outputs._Probe, "__init__", lambda self, *given: rows.append(given[2]) or own(self, *given))
    layout = Layout.of(random_model("qwen2_moe"))
    first = output_maps(layout, LAYERS, ROWS)
    del rows[:]
    again = output_maps(layout, LAYERS, ROWS[::-1])
    assert rows == ROWS[::-1]
    for layer in LAYERS:
        assert torch.equal(again[layer].factors, first[layer].factors.flip(0))


@given(st.integers(0, 10_000), st.sampled_from([0.1, 1.0, 10.0]), st.booleans())
@settings(max_examples=25, deadline=None)
def test_nothing_on_the_ellipsoid_is_nearer(seed, scale, zero):
    random = torch.Generator().manual_seed(seed)
    gain, target = torch.randn(6, generator=random).double(), scale * torch.randn(1, 6, generator=random).double()
    if zero:
        gain[2] = 0.0
    u = nearest_on_sphere(gain, target)
    assert torch.allclose(u.norm(dim=1), torch.tensor(6**0.5).double(), rtol=1e-5)
    others = torch.randn(2000, 6, generator=random).double()
    near = u + 0.05 * torch.randn(2000, 6, generator=random).double()
    others = torch.cat([others, near])
    others *= 6**0.5 / others.norm(dim=1, keepdim=True)
    assert (gain * u - target).norm() <= (gain * others - target).norm(dim=1).min() + 1e-6


def test_the_change_of_a_norm_leads_to_what_it_can_reach():
    random = torch.Generator().manual_seed(0)
    gain, v, other = (torch.randn(*shape, generator=random).double() for shape in ((8,), (3, 8), (3, 8)))
    norm = Norm(gain)
    reached = norm.change_after(other - v, v)
    assert relative(norm.change_after(norm.change_before(reached, v), v), reached) <= 1e-8


@pytest.mark.parametrize("kind", ["gemma2", "gemma3_text"])
def test_values_of_a_normed_model_are_reached(kind, tokenizer, facts, hparams, monkeypatch):
    """A small lambda, three passes: far less is left where the norms are known than where v counts as added."""
    reach = dataclasses.replace(
        hparams, alpha=1e-9, p=1.0, mom2_update_weight=1e-6, max_iterations=3, v_lr=0.1, v_num_grad_steps=6
    )
    left = []
    for known in (True, False):
        model = tiny_model(kind)
        if not known:
            monkeypatch.setattr("nse_plugin.replay.outputs._found", lambda *_: dict.fromkeys(LAYERS, Identity()))
        session = EditSession(model, tokenizer, reach, tiny_moments(model, LAYERS), list(TEMPLATES)[:1])
        frame = session.edit(facts[1:]).frame
        left.append((frame["residual"] / frame["residual_before"]).max())
    assert left[0] <= 0.1
    assert left[0] <= left[1] / 2
