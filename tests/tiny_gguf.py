"""A random Llama small enough for tests, as a GGUF file that llama.cpp and this package can read."""

from __future__ import annotations

import torch
from tiny import VOCABULARY, tiny_tokenizer
from transformers import AutoModelForCausalLM, LlamaConfig

HEADS, KEY_HEADS = 4, 2
_NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "model.layers": "blk",
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


def tiny_llama():
    """4 layers, d = 32 and f = 96, multiples of the 32 numbers that a block of a quantised matrix has."""
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=96, num_hidden_layers=4, num_attention_heads=HEADS,
        num_key_value_heads=KEY_HEADS, max_position_embeddings=64, rms_norm_eps=1e-5, tie_word_embeddings=True,
        bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.3)
    return model.eval()


def write_gguf(path, model, kind="F32", pre="smollm", adds_bos=False):
    """kind: of its matrices. pre: the name of its pre-tokenizer. adds_bos: None leaves that out."""
    import gguf

    writer = gguf.GGUFWriter(str(path), "llama")
    config = model.config
    writer.add_name("tiny")
    writer.add_vocab_size(config.vocab_size)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.hidden_size // HEADS)
    _add_tokenizer(writer, pre, adds_bos)
    wanted = gguf.GGMLQuantizationType[kind]
    for name, parameter in model.named_parameters():
        weight = parameter.detach().clone()
        for heads, part in ((HEADS, "q_proj"), (KEY_HEADS, "k_proj")):
            if part in name:  # the two numbers that a rotary embedding turns together, next to each other
                weight = weight.view(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)
        for ours, theirs in _NAMES.items():
            name = name.replace(ours, theirs)
        own = wanted if weight.dim() > 1 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quantize(weight.numpy(), own), raw_dtype=own)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer, pre, adds_bos):
    import json

    import gguf

    described = json.loads(tiny_tokenizer().backend_tokenizer.to_str())["model"]
    tokens = sorted(described["vocab"], key=described["vocab"].get)
    tokens += [f"<unused {number}>" for number in range(len(tokens), VOCABULARY)]
    kinds = [gguf.TokenType.CONTROL, *[gguf.TokenType.NORMAL] * (len(tokens) - 1)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(pair) for pair in described["merges"]])
    for add in (writer.add_bos_token_id, writer.add_eos_token_id, writer.add_unk_token_id, writer.add_pad_token_id):
        add(0)
    writer.add_chat_template("{{ messages[0]['content'] }}")
    if adds_bos is not None:
        writer.add_add_bos_token(adds_bos)


def best(model, prompts):
    """The token that each prompt, given as ids, most likely goes on with."""
    with torch.no_grad():
        return [int(model(input_ids=torch.tensor([prompt])).logits[0, -1].argmax()) for prompt in prompts]


def first_tokens(answers):
    return [answer.tokens[0] for answer in answers]


def alike(one, other):
    return sum(a == b for a, b in zip(one, other, strict=True)) / len(one)
