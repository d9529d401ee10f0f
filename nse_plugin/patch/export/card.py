"""The model card of an adapter."""

from __future__ import annotations

from collections.abc import Mapping

from nse_plugin.patch.export.factors import VLLM_RANKS, Factors
from nse_plugin.patch.patch import EditPatch

_BOS = {
    True: "edited with a BOS before every prompt.",
    False: "edited without a BOS before prompts.",
    None: "it is not known whether a BOS stood before prompts.",
}

_METHOD = "NSE, arXiv 2410.04045"


def adapter_card(patch: EditPatch, factors: Mapping[int, Factors]) -> str:
    """Return the text of README.md, with metadata for the Hugging Face hub.

    factors: the adapter's factors by layer.
    """
    r = next(iter(factors.values())).a.shape[0]
    count = sum(int(one["facts"]) for one in patch.rounds)
    base = patch.model_name or "the base model"
    serve = next((size for size in VLLM_RANKS if size >= r), None)
    named = [f"base_model: {patch.model_name}"] if patch.model_name else []
    method = patch.hparams.get("alg_name", "NSE")
    scale = f"- Scale: `lora_alpha` is {r}, so that the update is added once."
    lines = [
        "---",
        *named,
        "base_model_relation: adapter",
        "library_name: peft",
        "tags: [knowledge-editing, lora]",
        "---",
        "",
        f"# {count} edited facts for {base}",
        "",
        f"A LoRA adapter of rank {r} for {len(factors)} matrices, made with nse-plugin from {len(patch.rounds)} rounds "
        f"of edits ({_METHOD if method == 'NSE' else method}).",
        "",
        f"- Base: SHA-256 of its other weights `{patch.others}`. An edit belongs to the very numbers it was written "
        "on: on a base that is quantised or fine-tuned in another way many facts no longer hold.",
        f"- Tokens: {_BOS[patch.adds_bos]} Facts hold for prompts that are tokenised as they were when written.",
        scale + (f" vLLM: `--max-lora-rank {serve}`." if serve else " vLLM takes no adapter of this rank."),
    ]
    if (least := min(one.kept for one in factors.values())) < 1:
        lines.append(
            f"- Truncated to {r} directions a matrix, which have at least {least:.1%} of the change's squared norm: "
            "some facts are lost."
        )
    return "\n".join(lines) + "\n"
