"""Generating text: without the tokenizer's end of text, within the model's positions, and seeded."""

from __future__ import annotations

import pytest
import torch
import transformers
from packaging.version import Version
from tiny import tiny_model, tiny_tokenizer
from tokenizers import Tokenizer, processors
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from nse_plugin.baselines.lifelong.wise import _short_texts
from nse_plugin.baselines.scopes import text_writer
from nse_plugin.evaluation.metrics.fluency import continuations
from nse_plugin.evaluation.metrics.generation import answers
from nse_plugin.models.prompts import without_end
from nse_plugin.models.writing import uniform_draws, write
from nse_plugin.models.writing.generation import continue_texts, encoded, greedy_answers
from nse_plugin.models.writing.templates import context_templates

PROMPTS = ["The capital of France is", "Lyon", "The river runs through the old town because of"]


def ending(tokenizer, template="$A <s>", eos="<s>"):
    """The same tokenizer, but it appends an end of text, or something else of its own, to every text."""
    bpe = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    bpe.post_processor = processors.TemplateProcessing(single=template, special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<s>", eos_token=eos, pad_token="<s>", sep_token="<s>"
    )


def reading(model):
    """The rows of token ids that the model is given."""
    rows = []
    model.register_forward_pre_hook(lambda _, __, inputs: rows.extend(inputs["input_ids"].tolist()), with_kwargs=True)
    return rows


WRITERS = {
    "fluency": lambda model, tokenizer: continuations(model, tokenizer, PROMPTS),
    "templates": lambda model, tokenizer: context_templates(model, tokenizer, seed=0),
    "free answers": lambda model, tokenizer: answers(model, tokenizer, PROMPTS, tokens=5),
    "other people's templates": lambda model, tokenizer: text_writer(0)(model, tokenizer, PROMPTS, 2, max_out_len=12),
    "WISE's texts": _short_texts,
}


@pytest.mark.parametrize(("template", "eos"), [("$A <s> <s>", "<s>"), ("$A <s>", None), ("$A <s>", "e")])
def test_whatever_a_tokenizer_appends_is_left_out(template, eos):
    tokenizer = ending(tiny_tokenizer(), template, eos)
    for prompt in (*PROMPTS, "the end <s>"):
        own = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        assert without_end(tokenizer, prompt) == own
    both = ending(tiny_tokenizer(), "<s> $A <s>", eos)
    assert without_end(both, PROMPTS[0]) == [0, *both(PROMPTS[0], add_special_tokens=False)["input_ids"]]


@pytest.mark.parametrize("writer", WRITERS)
def test_nobody_writes_after_an_end_of_text(writer):
    """What is written is the same with a tokenizer that appends one."""
    model = tiny_model("llama", torch.float32)
    rows = reading(model)
    found = WRITERS[writer](model, ending(tiny_tokenizer()))
    assert rows
    assert all(0 not in [token for token in row if token != 0] and row[-1] != 0 for row in rows)
    assert found == WRITERS[writer](tiny_model("llama", torch.float32), tiny_tokenizer())


@pytest.mark.parametrize("kind", ["llama", "gpt2"])  # positions that are computed, positions that are learned
@pytest.mark.parametrize(("lengths", "expected"), [({"new_tokens": 7}, 7), ({"total_tokens": 30}, 30)])
def test_texts_have_the_length_asked_for(kind, lengths, expected):
    model, tokenizer = tiny_model(kind), tiny_tokenizer()
    together = continue_texts(model, tokenizer, PROMPTS, **lengths)
    for place, (prompt, text) in enumerate(zip(PROMPTS, together, strict=True)):
        assert text.startswith(prompt)
        rows = reading(model)
        assert continue_texts(model, tokenizer, [prompt], places=[place], **lengths) == [text]
        assert len(rows) == expected - (len(rows[0]) if "total_tokens" in lengths else 0)  # a pass for each new token
        model._forward_pre_hooks.clear()


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_texts_end_with_the_models_last_position(kind):
    """Also where one row of a batch is at its end long before the others."""
    model, tokenizer = tiny_model(kind), tiny_tokenizer()
    long = "x" * 60
    assert len(tokenizer(long)["input_ids"]) == 60
    rows = reading(model)
    texts = continue_texts(model, tokenizer, [long, "y"], new_tokens=500)
    assert len(rows) == 4 + 63  # a pass for each new token
    assert continue_texts(model, tokenizer, [long], new_tokens=500) == texts[:1]


def test_a_prompt_beyond_the_models_positions_is_refused():
    model, tokenizer = tiny_model("gpt2"), tiny_tokenizer()
    for ask in (
        lambda prompt: continue_texts(model, tokenizer, [prompt], new_tokens=1),
        lambda prompt: continuations(model, tokenizer, [prompt]),
        lambda prompt: encoded(model, tokenizer, prompt, room=1),
    ):
        with pytest.raises(
            ValueError,
            match=r"prompt 'x+'?( with room for 1 more)? is 6[56] tokens long.* the model has 64 positions: shorten",
        ):
            ask("x" * 65)
    assert encoded(model, tokenizer, "x" * 63, room=1)
    with pytest.raises(ValueError, match="no tokens"):
        encoded(model, ending(tokenizer), "")


def test_one_length_must_be_given():
    with pytest.raises(ValueError, match="either new_tokens or total_tokens"):
        continue_texts(tiny_model("llama"), tiny_tokenizer(), PROMPTS)


def test_padding_does_not_spread_in_float64_with_eager_attention():
    """transformers' eager attention makes NaN of a token that attends to nothing, and NaN spreads."""
    config = AutoConfig.for_model(
        "mistral", vocab_size=320, hidden_size=16, intermediate_size=40, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, sliding_window=4, max_position_embeddings=64, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float64, attn_implementation="eager").eval()
    together = continue_texts(model, tiny_tokenizer(), PROMPTS, new_tokens=6)
    alone = [continue_texts(model, tiny_tokenizer(), [p], new_tokens=6, places=[n])[0] for n, p in enumerate(PROMPTS)]
    assert together == alone
    rows = [tiny_tokenizer()(prompt)["input_ids"] for prompt in PROMPTS]
    draws = uniform_draws(0, range(3), 2)
    assert write(model, rows, draws, never=[0]) == [
        write(model, [r], draws[n : n + 1], [0])[0] for n, r in enumerate(rows)
    ]


@pytest.mark.parametrize("kind", ["bart", "roformer"])  # positions that the model counts, from the cache or never
def test_a_model_that_counts_positions_itself_ends_with_its_last(kind):
    if kind == "bart" and Version(transformers.__version__) < Version("5"):
        pytest.skip("transformers 4's takes no position_ids")
    config = AutoConfig.for_model(
        kind, vocab_size=320, hidden_size=16, d_model=16, intermediate_size=40, decoder_ffn_dim=40, is_decoder=True,
        num_hidden_layers=2, decoder_layers=2, num_attention_heads=4, decoder_attention_heads=4, pad_token_id=0,
        max_position_embeddings=64,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    together = continue_texts(model, tiny_tokenizer(), ["x" * 60, "y"], new_tokens=30)
    assert together == [
        continue_texts(model, tiny_tokenizer(), [prompt], new_tokens=30, places=[place])[0]
        for place, prompt in enumerate(["x" * 60, "y"])
    ]


def test_greedy_answers_stop_when_all_have_ended():
    model = tiny_model("llama", torch.float32)
    [[first, second, *_]] = greedy_answers(model, [[5, 6, 7]], 10, ends=())
    rows = reading(model)
    assert greedy_answers(model, [[5, 6, 7]], 10, ends={second}) == [[first] if second != first else []]
    assert len(rows) == (2 if second != first else 1)
