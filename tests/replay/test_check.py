"""Models whose layers cannot be replayed are refused in one sentence before anything is computed; others are exact."""

from __future__ import annotations

import dataclasses

import oracles
import peft
import pytest
import torch
import transformers
from architectures import EXACT, LAYERS, REFUSED, WHOLE_ROWS, name_of_w_out, random_model, session_on
from oracles import relative
from packaging.version import Version
from small_models import all_in_double
from tiny import TEMPLATES, tiny_facts, tiny_model, tiny_tokenizer
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
)

from nse_plugin import EditSession, Fact
from nse_plugin.method.values import _rows
from nse_plugin.models.frozen import frozen
from nse_plugin.models.layout import Layout, LayoutError
from nse_plugin.models.prompts import encode_fact
from nse_plugin.replay import check, prefix_cache
from nse_plugin.replay.context_states import ContextStates
from nse_plugin.replay.span import SpanReplay
from nse_plugin.replay.suffix import SuffixReplay
from nse_plugin.support.rounding import relative_error

COARSE = 2e-5  # some steps of transformers go through float32 whatever the model's dtype


# -- exact -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", EXACT)
def test_values_are_exact(kind, hparams, facts, monkeypatch):
    model, name = random_model(kind), name_of_w_out(kind)
    monkeypatch.setattr(oracles, "Layout", Named(name))
    all_in_double(monkeypatch)  # Mamba's float32 steps add up to more than this test allows
    session = session_on(model, hparams, name)
    for fact, z in zip(facts, session.values(facts), strict=True):
        assert relative(z, oracles.value(model, tiny_tokenizer(), fact, TEMPLATES, session.hparams)) <= COARSE, fact


def logits_when_others_have_left(model, name, layer, facts, templates=TEMPLATES):
    """Every second row's logits after the other half has left, and what a full forward pass gives."""
    layout = Layout.of(model, name)
    rows = [row for fact in facts for row in _rows(encode_fact(tiny_tokenizer(), fact, templates))]
    last = torch.tensor([len(row.ids) - row.lookup - 1 for row in rows])
    shape = (len(rows), layout.hidden_size)
    delta = 0.5 * torch.randn(shape, dtype=model.dtype, generator=torch.Generator().manual_seed(1))
    stay = torch.arange(1, len(rows), 2)
    with frozen(model), torch.no_grad():
        replay = SuffixReplay(layout, layer, rows, ContextStates())
        replay.logits(torch.zeros_like(delta), torch.arange(len(rows)), last)
        replay.keep(stay)
        found = replay.logits(delta[stay], torch.arange(len(stay)), last[stay])
        for place, number in enumerate(stay.tolist()):
            row = rows[number]
            logits, _ = oracles.run(model, torch.tensor([row.ids]), layer, row.lookup, delta[number])
            yield found[place], logits[-1]


@pytest.mark.parametrize("kind", EXACT)
@pytest.mark.parametrize("together", [True, False], ids=["one pack", "packs of one length"])
def test_rows_go_on_exactly_when_others_have_left(kind, together, facts, monkeypatch):
    monkeypatch.setattr(prefix_cache, "PASS", 10**6 if together else 0)
    name = name_of_w_out(kind)
    monkeypatch.setattr(oracles, "Layout", Named(name))
    for found, expected in logits_when_others_have_left(random_model(kind), name, 2, facts):
        assert relative(found, expected) <= COARSE


@pytest.mark.parametrize("layer", [0, 1])  # and 2, above
def test_layers_that_share_a_dictionary_are_exact_wherever_delta_enters(layer, facts, monkeypatch):
    """Gemma 4: layers 2 and 3 store keys and values, 4 and 5 read them."""
    name = name_of_w_out("gemma4_text")
    monkeypatch.setattr(oracles, "Layout", Named(name))
    for found, expected in logits_when_others_have_left(random_model("gemma4_text"), name, layer, facts):
        assert relative(found, expected) <= COARSE


@pytest.mark.parametrize("kind", EXACT)
def test_a_round_ends_where_its_report_says(kind, hparams, facts, monkeypatch):
    model, name = random_model(kind), name_of_w_out(kind)
    monkeypatch.setattr(oracles, "Layout", Named(name))
    session = session_on(model, hparams, name, alpha=1e-6)
    wanted = session.values(facts)
    frame = session.edit_with_values(facts, wanted).frame
    for fact, z, residual in zip(facts, wanted, frame["residual"], strict=True):
        _, h = oracles.key_and_output(model, tiny_tokenizer(), fact, TEMPLATES, LAYERS[0], LAYERS[-1])
        assert float((z - h).norm()) == pytest.approx(residual, abs=COARSE * float(h.norm()))


def test_rows_as_many_as_heads_are_not_taken_for_heads(facts, monkeypatch):
    """MPT's ALiBi is [heads, 1, S]: with four rows in a batch, it looks as if each row had its own."""
    monkeypatch.setattr(prefix_cache, "PASS", 10**6)
    two_rows_each = [facts[0], facts[3]]
    for found, expected in logits_when_others_have_left(random_model("mpt"), None, 2, two_rows_each, ["{}"]):
        assert relative(found, expected) <= COARSE


def test_a_bert_has_no_more_positions_than_target_tokens_need(hparams):
    model = random_model("bert", max_position_embeddings=50)
    every = enumerate(tiny_facts() * 4)
    many = [dataclasses.replace(fact, subject=f"{fact.subject} {n}", case_id=n) for n, fact in every]
    found = session_on(model, hparams, tokens_per_batch=10**6).values(many)
    for fact, z in zip(many[:4], found, strict=False):
        assert relative(z, oracles.value(model, tiny_tokenizer(), fact, TEMPLATES, hparams)) <= COARSE


class Named:
    """The oracles' Layout, for a model whose matrix must be named."""

    def __init__(self, name):
        self._name = name

    def of(self, model):
        return Layout.of(model, self._name)


# -- refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", EXACT)
def test_rows_are_run_whole_only_where_they_must(kind, hparams, facts):
    session = session_on(random_model(kind), hparams, name_of_w_out(kind))
    session.values(facts[:1])
    assert session.state.replay.whole_rows == (kind in WHOLE_ROWS)


def test_a_model_that_cannot_leave_out_logits_is_refused(llama, hparams, facts):
    """As some are on transformers 4: evaluation asks for the logits of some tokens only."""
    forward = llama.forward
    llama.forward = lambda input_ids, use_cache=True: forward(input_ids=input_ids, use_cache=use_cache)
    with pytest.raises(LayoutError, match=r"cannot be edited: .* unexpected keyword argument 'logits_to_keep'"):
        session_on(llama, hparams).values(facts[:1])


def test_a_hook_that_mixes_earlier_tokens_into_later_ones_is_exact_in_whole_rows(llama, hparams, facts):
    llama.model.layers[3].mlp.register_forward_hook(lambda _, __, output: output.cumsum(dim=1))
    session = session_on(llama, hparams)
    expected = oracles.value(llama, tiny_tokenizer(), facts[0], TEMPLATES, session.hparams)
    assert relative(session.values(facts[:1])[0], expected) <= COARSE
    assert session.state.replay.whole_rows


def test_how_rows_are_run_is_not_changed_later(llama, facts, monkeypatch):
    """Replays that already exist would go on in another way than they began."""
    layout = Layout.of(llama)
    check.check_model(layout, LAYERS, tiny_tokenizer())
    llama.model.layers[3].mlp.register_forward_hook(lambda _, __, output: output.cumsum(dim=1))
    with pytest.raises(LayoutError, match="other outputs than the model itself"):
        check.check_model(layout, LAYERS, tiny_tokenizer(), longest=65)
    assert not layout.replay.whole_rows
    assert layout.checked_up_to(LAYERS) == 64


def bert_that_looks_both_ways():
    return random_model("bert", is_decoder=False)


def with_virtual_tokens(config):
    def make():
        wrapped = peft.get_peft_model(tiny_model("llama"), config(task_type="CAUSAL_LM", num_virtual_tokens=3))
        return wrapped.eval()

    return make


def with_a_hook_that_looks_at_later_tokens():
    model = tiny_model("llama")
    model.model.layers[3].mlp.register_forward_hook(lambda _, __, output: output + output.mean(dim=1, keepdim=True))
    return model


def with_a_hook_that_mixes_rows():
    model = tiny_model("llama")
    model.model.layers[3].register_forward_hook(
        lambda _, __, output: output + output.mean() if isinstance(output, torch.Tensor) else output
    )
    return model


def with_attention_to_later_tokens():
    model = tiny_model("llama")
    for layer in model.model.layers:
        own = layer.self_attn.forward

        def both_ways(*args, own=own, **kwargs):
            output, *rest = own(*args, **kwargs)
            return output + 0.1 * output.flip(1), *rest

        layer.self_attn.forward = both_ways
    return model


WRAPPED = {
    "an encoder": bert_that_looks_both_ways,
    "prompt tuning": with_virtual_tokens(peft.PromptTuningConfig),
    "prefix tuning": with_virtual_tokens(peft.PrefixTuningConfig),
    "a hook that looks at later tokens": with_a_hook_that_looks_at_later_tokens,
    "a hook that mixes rows": with_a_hook_that_mixes_rows,
    "attention to later tokens": with_attention_to_later_tokens,
    "T5": lambda: T5ForConditionalGeneration(T5Config(vocab_size=320, d_model=16, d_ff=40, num_layers=4, num_heads=4)),
    "no head": lambda: tiny_model("llama").model,
    "a classifier": lambda: AutoModelForSequenceClassification.from_config(tiny_model("llama").config).double(),
    "DataParallel": lambda: nn.DataParallel(tiny_model("llama")),
    **{kind: lambda kind=kind: random_model(kind) for kind in REFUSED},
}


@pytest.mark.parametrize("what", WRAPPED)
def test_it_is_refused_in_one_sentence_before_anything_is_computed(what, hparams, facts, monkeypatch):
    model = WRAPPED[what]().eval()
    monkeypatch.setattr("nse_plugin.session.edited.second_moments", lambda *_: pytest.fail("measured"))
    monkeypatch.setattr("nse_plugin.session.edited.context_templates", lambda *_: pytest.fail("written"))
    flags = [(parameter.requires_grad, parameter.sum().item()) for parameter in model.parameters()]
    hooks = count_hooks(model)
    name = name_of_w_out(what) if what in REFUSED else None
    with pytest.raises(LayoutError) as caught:
        EditSession(model, tiny_tokenizer(), dataclasses.replace(hparams, rewrite_module_tmp=name)).edit(facts)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    assert ". " not in message.replace("e.g. ", "").replace("...", "")
    assert type(model).__name__ in message or "Layer 1" in message or what in message
    assert [(parameter.requires_grad, parameter.sum().item()) for parameter in model.parameters()] == flags
    assert count_hooks(model) == hooks


def test_values_that_no_layer_above_would_see_are_refused(hparams, facts):
    """Of this Gemma 4, layers 2 to 5 share the keys of layers 0 and 1: delta at layer 2 reaches no later token, and its
    gradient would be rounding noise."""
    model = random_model("gemma4_text", num_kv_shared_layers=4)
    session = session_on(model, hparams, name_of_w_out("gemma4_text"))
    with pytest.raises(LayoutError, match="layers ends with 2, and no layer of this Gemma4.* looks at.*a lower layer"):
        session.values(facts)


@pytest.mark.parametrize(
    ("kind", "wrong", "right"),
    [
        ("llama", "mlp.gate_proj", "mlp.down_proj"),
        ("llama", "mlp.up_proj", "mlp.down_proj"),
        ("opt", "fc1", "fc2"),
        ("gpt2", "mlp.c_fc", "mlp.c_proj"),
    ],
)
def test_a_matrix_before_the_last_of_a_square_mlp(kind, wrong, right, hparams, facts):
    """No shape tells it from W_out, and its edit would not reach the residual stream as it is."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 4, "word_embed_proj_dim": 16}
    square = {"intermediate_size": 16, "ffn_dim": 16, "n_inner": 16}
    config = AutoConfig.for_model(kind, vocab_size=320, max_position_embeddings=64, **sizes, **square)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float64).eval()
    [name] = {own for own, _ in model.named_modules() if own.endswith(f".1.{wrong}")}
    template = name.replace(".1.", ".{}.")
    with pytest.raises(LayoutError, match=rf"names {name}.weight, after which its MLP runs another matrix: name that"):
        session_on(model, hparams, template).values(facts)
    assert count_hooks(model) == 0
    assert session_on(model, hparams, template.replace(wrong, right)).values(facts).isfinite().all()


def count_hooks(model):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@pytest.mark.parametrize("replay", [SpanReplay, SuffixReplay])
def test_whoever_replays_the_layers_is_told(replay, facts):
    model = bert_that_looks_both_ways()
    layout = Layout.of(model)
    rows = [encode_fact(tiny_tokenizer(), fact, TEMPLATES).rewrites[0] for fact in facts]
    arguments = ([1, 2], rows, 4096) if replay is SpanReplay else (2, rows, ContextStates())
    with pytest.raises(LayoutError, match="other outputs than the model itself"):
        replay(layout, *arguments)
    assert not any(layout.replay.checked.values())


# -- when it is asked --------------------------------------------------------------------------------------------


STRETCHED = {
    "rotary frequencies": (
        "phi3", {"rope_scaling": {"rope_type": "longrope", "short_factor": [1.0] * 2, "long_factor": [3.0, 5.0],
                                  "original_max_position_embeddings": 70, "factor": 8.0},
                 "original_max_position_embeddings": 70}
    ),
    "temperature": (
        "llama4_text", {"head_dim": 4, "moe_layers": [], "num_local_experts": 2, "no_rope_layers": [0] * 4,
                        "floor_scale": 66, "attn_scale": 2.0, "attn_temperature_tuning": True,
                        "intermediate_size_mlp": 40}
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", STRETCHED)
def test_what_long_rows_alone_change_is_refused(kind, hparams, facts):
    """Up to 70 and 66 tokens these are models like any other."""
    if kind == "rotary frequencies" and Version(transformers.__version__) < Version("5"):
        pytest.skip("transformers 4 has other settings of LongRoPE")
    name, settings = STRETCHED[kind]
    config = AutoConfig.for_model(
        name, vocab_size=320, hidden_size=16, intermediate_size=40, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, pad_token_id=0, bos_token_id=0, eos_token_id=0, **settings,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float64).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    session = session_on(model, hparams)
    short = min(facts, key=lambda fact: len(fact.text))
    expected = oracles.value(model, tiny_tokenizer(), short, TEMPLATES, session.hparams)
    assert relative_error(session.values([short])[0], expected) <= 1e-8
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    words = "Because of the rain and the wind of the year that she was born in the old town by the river, "
    with pytest.raises(LayoutError, match=r"off in rows of 128 tokens"):
        session.edit([short, Fact(words + "{} is in", "Lyon", "Italy")])
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_given_values_moments_and_templates_are_no_way_around_it(hparams, facts):
    session = session_on(bert_that_looks_both_ways(), hparams)
    with pytest.raises(LayoutError, match="other outputs"):
        session.edit_with_values(facts[:1], torch.zeros(1, 32))


def test_a_model_that_is_not_finite_is_not_refused(llama, hparams, facts):
    """Its facts are `failed`: the replay cannot be compared with NaN."""
    with torch.no_grad():
        llama.model.layers[3].mlp.down_proj.weight.fill_(torch.nan)
    assert session_on(llama, hparams).edit(facts).frame["status"].tolist() == ["failed"] * len(facts)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2"])
def test_rounding_is_not_taken_for_a_fault(kind, dtype, hparams, facts):
    session_on(tiny_model(kind, dtype), hparams).values(facts[:1])


def test_autocast_is_not_taken_for_a_fault(hparams, facts):
    with torch.autocast("cpu", torch.bfloat16):
        session_on(tiny_model("llama", torch.float32), hparams).values(facts[:1])


def test_memory_that_runs_out_is_no_refusal(llama, hparams, facts, monkeypatch):
    def out_of_memory(*_):
        raise torch.OutOfMemoryError("simulated")

    monkeypatch.setattr(check, "_own_pass", out_of_memory)
    with pytest.raises(torch.OutOfMemoryError):
        session_on(llama, hparams).values(facts)


def test_a_tokenizer_of_another_model_is_told(hparams, facts):
    model = tiny_model("llama")
    model.resize_token_embeddings(200)
    with pytest.raises(ValueError, match=r"has embeddings for 200 tokens|knows none of the tokens"):
        session_on(model, hparams).values(facts)
