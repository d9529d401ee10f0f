"""WISE from EasyEdit's main branch: what it learns, and for which prompts its side memory answers."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lifelong_cases import EDITED, FACTS, logits_of

from nse_plugin.baselines.hparams import load_hparams
from nse_plugin.baselines.runner import EasyEditRunner
from nse_plugin.hparams import HyperParamsError
from nse_plugin.hparams.files import preset_path

pytestmark = pytest.mark.usefixtures("easyeditor")


def test_wise_sends_every_row_its_own_way(
    family: str, new_model: Callable[[], Any], method_on: Callable[..., EasyEditRunner], tiny_tokenizer: Any
) -> None:
    model, unedited = new_model(), new_model()
    method = method_on(model, "WISE")
    for fact in FACTS:
        method.edit([fact])
    assert method.state() is None
    adapter = model.get_submodule(EDITED["WISE", family][0].replace("[", ".").replace("]", ""))
    assert adapter.editing_total_cnt == 3
    texts = ["In Peru people", "The capital of France is the capital of Japan"]
    distances = []
    for text in texts:
        with torch.inference_mode():
            model(**tiny_tokenizer(text, return_tensors="pt"))
            seen: list[torch.Tensor] = []
            handle = adapter.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
            model(**tiny_tokenizer(text, return_tensors="pt"))
            handle.remove()
            wise = importlib.import_module("easyeditor.models.wise.WISE")
            original, side = adapter.original_layer(seen[0]), adapter.new_weight_forward(seen[0])
            distances.append(float(wise.euc(original, side, adapter.config, infer=True)))
    adapter.config.act_ratio, adapter.editing_mean_act.min_a = 1.0, sum(distances) / 2  # one text on either side
    alone = [logits_of(model, tiny_tokenizer, text) for text in texts]
    plain = [logits_of(unedited, tiny_tokenizer, text) for text in texts]
    near, far = (0, 1) if distances[0] < distances[1] else (1, 0)
    assert torch.equal(alone[near], plain[near])
    assert not torch.allclose(alone[far], plain[far], atol=1e-4)

    rows = [tiny_tokenizer(text)["input_ids"] for text in texts]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    with torch.inference_mode():
        right = model(input_ids=ids, attention_mask=mask).logits
        positions = (mask.flip(1).cumsum(1) - 1).clamp(min=0)
        turned = [row[::-1] + [0] * (longest - len(row)) for row in rows]
        left = model(input_ids=torch.tensor(turned).flip(1), attention_mask=mask.flip(1), position_ids=positions).logits
    for number, row in enumerate(rows):
        assert torch.allclose(right[number, : len(row)], alone[number], atol=1e-5)
        assert torch.allclose(left[number, longest - len(row) :], alone[number], atol=1e-5)


def test_wise_learns_the_target_and_nothing_before_it(
    new_model: Callable[[], Any],
    method_on: Callable[..., EasyEditRunner],
    tiny_tokenizer: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = importlib.import_module("easyeditor.models.wise.wise_main")
    tokenize, learned = module.tokenize, []

    def record(*args: Any, **kwargs: Any) -> Any:
        tokens, *masks = tokenize(*args, **kwargs)
        learned.extend(tiny_tokenizer.decode(row[row != -100]) for row in tokens["labels"][:-1])
        return tokens, *masks

    monkeypatch.setattr(module, "tokenize", record)
    method_on(new_model(), "WISE").edit(FACTS[:1])
    assert len(learned) == 11
    assert set(learned) == {" Lyon"}


def test_wise_s_margins_are_three(tiny_llama: Any, main_only: None) -> None:
    with pytest.raises(HyperParamsError, match=r"act_margin = \[1.0\] cannot be used: give a list of alpha, beta"):
        load_hparams("WISE", preset_path("WISE", "smollm2-135m"), {"act_margin": [1.0]}, tiny_llama)
