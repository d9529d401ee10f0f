"""Bad input through EasyEdit's editor: one clear sentence, and an unchanged model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from nse_plugin.easyedit.algorithm import nse
from nse_plugin.facts import FactError

pytestmark = pytest.mark.usefixtures("easyeditor")
FRANCE: dict[str, Any] = {
    "prompts": ["The capital of France is"], "subject": ["France"], "target_new": ["Lyon"], "ground_truth": ["Paris"],
}  # fmt: skip


@pytest.mark.parametrize("method", ["edit", "batch_edit"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"subject": ["Spain"]}, r"fact 0: .*does not contain the subject 'Spain'"),
        ({"prompts": ["France, oh France is"]}, r"contains 2 times the subject 'France'"),
        ({"target_new": [" "]}, r"target_new is ' '"),
        ({"prompts": [""]}, r"prompt is ''"),
        ({"prompts": [], "subject": [], "target_new": [], "ground_truth": []}, r"prompts is empty"),
        ({"subject": [""]}, r"subject is ''"),
        ({"prompts": ["Who wrote it?"], "subject": [None]}, r"fact 0: subject is missing, and prompt 'Who wrote it\?'"),
        ({"subject": ["France", "Peru"]}, r"subject has 2 values for 1 prompt:"),
    ],
)
def test_one_sentence_and_an_untouched_model(
    tiny_llama: Any, editor_of: Callable[..., Any], hparams: Any, method: str, change: dict[str, Any], words: str
) -> None:
    hparams.batch_size = 1
    before = {name: weight.detach().clone() for name, weight in tiny_llama.named_parameters()}
    with pytest.raises(FactError, match=words):
        getattr(editor_of(tiny_llama), method)(**{**FRANCE, **change}, sequential_edit=True)
    assert all(torch.equal(weight, before[name]) for name, weight in tiny_llama.named_parameters())


def test_contradicting_facts_of_one_round(tiny_llama: Any, editor_of: Callable[..., Any]) -> None:
    twice = {name: values * 2 for name, values in FRANCE.items()} | {"target_new": ["Lyon", "Nice"]}
    with pytest.raises(FactError, match=r"different targets, 'Lyon' and 'Nice'"):
        editor_of(tiny_llama).batch_edit(**twice, sequential_edit=True)


def test_a_slot_is_filled(new_llama: Callable[[], Any], editor_of: Callable[..., Any], edited: Any) -> None:
    written_out, with_slot = new_llama(), new_llama()
    editor_of(written_out).batch_edit(**FRANCE, sequential_edit=True)
    metrics, _, _ = editor_of(with_slot).batch_edit(
        **{**FRANCE, "prompts": ["The capital of {} is"]}, sequential_edit=True
    )
    assert metrics[0]["requested_rewrite"]["prompt"] == "The capital of France is"
    found, expected = edited(with_slot), edited(written_out)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_subject_that_is_not_given_is_found(
    new_llama: Callable[[], Any], editor_of: Callable[..., Any], edited: Any
) -> None:
    given = new_llama()
    editor_of(given).batch_edit(**FRANCE, sequential_edit=True)
    expected = edited(given)
    for change in ({"subject": None}, {"subject": [None]}, {}):
        model = new_llama()
        request = {name: value for name, value in FRANCE.items() if name != "subject"} | change
        metrics, _, _ = editor_of(model).batch_edit(**request, sequential_edit=True)
        assert metrics[0]["requested_rewrite"]["subject"] == "France"
        assert all(torch.equal(weight, expected[name]) for name, weight in edited(model).items())


def test_a_request_without_a_subject_is_told_by_its_rephrase_prompt(tiny_llama: Any, hparams: Any) -> None:
    request = {"prompt": "It is said that Paris met Tokyo in", "target_new": "May"}
    with pytest.raises(FactError, match="fact 0: subject is missing, .* share 'Paris' and 'Tokyo'"):
        nse.apply_to_model(tiny_llama, None, [{**request, "rephrase_prompt": "Tokyo was met by Paris in"}], hparams)
