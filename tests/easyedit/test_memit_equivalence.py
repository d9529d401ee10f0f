"""With all four ideas switched off, NSE is MEMIT: with the same z, EasyEdit's MEMIT makes the same weight changes."""

from __future__ import annotations

import copy
import importlib
from typing import Any

import pytest
import torch

from nse_plugin import EditSession, Fact, NSEHyperParams
from nse_plugin.easyedit import make_editor

LAYERS = [1, 2]
TEMPLATES = ["{}", "It is known that. {}", "People say so. {}"]
MODULES = {
    "llama": {
        "rewrite_module_tmp": "model.layers.{}.mlp.down_proj",
        "layer_module_tmp": "model.layers.{}",
        "mlp_module_tmp": "model.layers.{}.mlp",
        "attn_module_tmp": "model.layers.{}.self_attn",
        "ln_f_module": "model.norm",
        "lm_head_module": "lm_head",
    },
    "gpt2": {
        "rewrite_module_tmp": "transformer.h.{}.mlp.c_proj",
        "layer_module_tmp": "transformer.h.{}",
        "mlp_module_tmp": "transformer.h.{}.mlp",
        "attn_module_tmp": "transformer.h.{}.attn",
        "ln_f_module": "transformer.ln_f",
        "lm_head_module": "transformer.wte",
    },
}


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_all_ablations_together_are_easyedits_memit(
    family: str,
    easyeditor: Any,
    tiny_tokenizer: Any,
    capitals: Any,
    edited: Any,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    original = copy.deepcopy(request.getfixturevalue(f"tiny_{family}_source")).double()
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.pad_token = tokenizer.eos_token
    weight = 0.5
    moments = _moments(inner=48)
    arguments = capitals()
    facts = [
        Fact(prompt="The capital of {} is", subject=subject, target_new=target)
        for subject, target in zip(arguments["subject"], arguments["target_new"], strict=True)
    ]

    by_nse = copy.deepcopy(original)
    ablated = NSEHyperParams(
        layers=LAYERS, alpha=1e-6, rewind=False, p=1.0, max_iterations=1, accumulate=False,
        mom2_update_weight=weight, v_num_grad_steps=4, v_lr=0.1, device="cpu",
    )  # fmt: skip
    session = EditSession(by_nse, tokenizer, ablated, moments=moments, templates=TEMPLATES)
    values = dict(zip(arguments["subject"], session.values(facts), strict=True))
    session.edit(facts)

    by_memit = copy.deepcopy(original)
    memit = importlib.import_module("easyeditor.models.memit.memit_main")
    monkeypatch.setattr(memit, "compute_z", lambda model, tok, fact, *_: values[fact["subject"]])
    monkeypatch.setattr(memit, "get_context_templates", lambda *_: [TEMPLATES[:1], TEMPLATES[1:]])
    monkeypatch.setattr(memit, "get_cov", lambda model, tok, name, *_, **__: moments[_layer_in(name)])
    editor = make_editor(by_memit, tokenizer, _memit_hparams(easyeditor, family, weight, len(facts)))
    editor.batch_edit(**arguments, sequential_edit=True)

    before, nse, memit_weights = edited(original), edited(by_nse), edited(by_memit)
    assert len(before) == len(LAYERS)
    for name, weights in before.items():
        expected = memit_weights[name] - weights
        assert expected.norm() > 1e-3, "MEMIT changed nothing, the test shows nothing"
        assert (nse[name] - weights - expected).norm() <= 1e-5 * expected.norm()


def _moments(inner: int) -> dict[int, torch.Tensor]:
    """Second moments as of 200 random keys in each layer."""
    generator = torch.Generator().manual_seed(0)
    keys = {layer: torch.randn(200, inner, generator=generator, dtype=torch.float64) for layer in LAYERS}
    return {layer: k.T @ k / len(k) for layer, k in keys.items()}


def _layer_in(module_name: str) -> int:
    return next(int(part) for part in module_name.split(".") if part.isdigit())


def _memit_hparams(easyeditor: Any, family: str, mom2_update_weight: float, batch_size: int) -> Any:
    return easyeditor.MEMITHyperParams(
        layers=LAYERS, layer_selection="all", fact_token="subject_last", v_num_grad_steps=4, v_lr=0.1,
        v_loss_layer=3, v_weight_decay=0.5, clamp_norm_factor=0.75, kl_factor=0.0625, mom2_adjustment=True,
        mom2_update_weight=mom2_update_weight, mom2_dataset="", mom2_n_samples=1, mom2_dtype="float32",
        alg_name="MEMIT", device="cpu", model_name="", stats_dir="", batch_size=batch_size, **MODULES[family],
    )  # fmt: skip
