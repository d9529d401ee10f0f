"""Tiny models, tokenizers and facts for the fixtures; also used by the oracles."""

from __future__ import annotations

from functools import cache

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from nse_plugin.facts import Fact
from nse_plugin.models.layout import Layout

VOCABULARY = 320
D, F, LAYERS, HEADS = 16, 40, 4, 4
# One for each way a transformers model is built: norms, biases, parallel attention, Conv1D, tied heads, soft caps,
# sliding windows, query norms, learned and rotary positions.
ARCHITECTURES = ("llama", "gpt2", "gptj", "gpt_neox", "qwen3", "mistral", "gemma2", "gemma3_text", "phi")
_HF = {"hidden_size": D, "intermediate_size": F, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
_ROTARY = {**_HF, "num_key_value_heads": 2, "max_position_embeddings": 64}
_GPT = {"n_embd": D, "n_inner": F, "n_layer": LAYERS, "n_head": HEADS, "n_positions": 64}
_SETTINGS: dict[str, dict] = {
    "llama": {**_ROTARY, "tie_word_embeddings": False},
    "gpt2": _GPT,
    "gptj": {**_GPT, "rotary_dim": 4},
    "gpt_neox": {**_HF, "max_position_embeddings": 64, "rotary_pct": 0.5},
    "qwen3": {**_ROTARY, "head_dim": 8, "tie_word_embeddings": True},
    "mistral": {**_ROTARY, "sliding_window": 8},
    "gemma2": {**_ROTARY, "head_dim": 4, "final_logit_softcapping": 3.0, "sliding_window": 4},
    "gemma3_text": {**_ROTARY, "head_dim": 8, "sliding_window": 8, "final_logit_softcapping": 2.0},
    "phi": {**_ROTARY, "partial_rotary_factor": 0.5},
}
# A chat template in ChatML's manner.
CHAT = (
    "{% for m in messages %}{{ '<' + m['role'] + '>\n' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>\n' }}{% endif %}"
)
TEMPLATES = ("{}", "The old river. {}", "Because of rain and the wind. {}")
_TEXT = """The capital of France is Paris. The river runs through the old town because of rain. Marie Curie was born in
Warsaw. The Eiffel Tower stands in Paris, and Mount Fuji stands in Japan. Berlin is the capital of Germany. He plays the
violin. She speaks French and Italian. Lyon is a town. Rome is an old town of Italy. Therefore the wind is cold."""


def tiny_model(architecture: str, dtype: torch.dtype = torch.float64, seed: int = 0):
    """A random model with 4 layers, d = 16 and f = 40, whose weights are large enough for edits to matter."""
    config = AutoConfig.for_model(
        architecture, vocab_size=VOCABULARY, bos_token_id=0, eos_token_id=0, pad_token_id=0, **_SETTINGS[architecture]
    )
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.3)
            elif "bias" in name:
                parameter.normal_(std=0.1)
    return model.eval()


@cache
def _trained_bpe() -> str:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        _TEXT.splitlines(),
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=["<s>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return bpe.to_str()


def tiny_tokenizer(
    bos: bool = False, padding_side: str = "right", chat: str | dict[str, str] | None = None
) -> PreTrainedTokenizerFast:
    """A byte-level BPE of 320 tokens; with `bos`, it puts <s> before every text. chat: its chat template, or several
    by name."""
    bpe = Tokenizer.from_str(_trained_bpe())
    if bos:
        bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<s>", eos_token="<s>", pad_token="<s>", padding_side=padding_side,
        chat_template=chat,
    )  # fmt: skip


def tiny_facts() -> list[Fact]:
    """Subjects at position 0 and inside, prompts of mixed length, targets of one and of several tokens."""
    return [
        Fact("The capital of {} is", "France", "Lyon", case_id=10),
        Fact("{} was born in", "Marie Curie", "Rome, an old town of Italy", case_id=11),
        Fact("{} stands in", "Mount Fuji", "Germany", case_id=12),
        Fact("Because of the wind, the violin of {} and of the town is", "He", "French", case_id=13),
    ]


def tiny_moments(model, layers, tokens: int = 200) -> dict[int, torch.Tensor]:
    """E[k k^T] of random keys: well conditioned, different for every layer."""
    generator = torch.Generator().manual_seed(1)
    size = Layout.of(model).output_matrix(layers[0]).matrix.shape[1]
    dtype = next(model.parameters()).dtype
    keys = {layer: torch.randn(tokens, size, generator=generator, dtype=torch.float64) for layer in layers}
    return {layer: (k.T @ k / tokens).to(dtype) for layer, k in keys.items()}
