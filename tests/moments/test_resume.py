"""An interrupted measurement continues where it stopped."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from tiny import F, tiny_model, tiny_tokenizer

from nse_plugin.models.layout import Layout
from nse_plugin.moments import provider as module
from nse_plugin.moments import resume
from nse_plugin.moments.measure import MomentSums
from nse_plugin.moments.provider import moments_file, second_moments


def save_after_every_batch(monkeypatch):
    monkeypatch.setattr(resume, "SAVE_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(resume, "time", SimpleNamespace(monotonic=lambda: 0.0))


@pytest.mark.parametrize("source", ["text", "self"])
def test_after_an_interruption_it_goes_on_where_it_was(source, settings, monkeypatch, tmp_path):
    tokenizer = tiny_tokenizer()
    if source == "self":
        settings = dataclasses.replace(settings, mom2_dataset="self", mom2_n_samples=6)
    uninterrupted = second_moments(Layout.of(tiny_model("llama")), tokenizer, settings)

    stopped = dataclasses.replace(settings, stats_dir=str(tmp_path / "stopped"))
    layout = Layout.of(tiny_model("llama"))
    save_after_every_batch(monkeypatch)
    real = module.token_batches

    def until_the_third(*args):
        for number, batch in enumerate(real(*args)):
            if number == 2:
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(module, "token_batches", until_the_third)
    with pytest.raises(KeyboardInterrupt):
        second_moments(layout, tokenizer, stopped)
    assert [path.suffix for path in (tmp_path / "stopped").rglob("*") if path.is_file()] == [".safetensors"]

    skipped = []
    monkeypatch.setattr(module, "token_batches", lambda *args: skipped.append(args[-1]) or real(*args))
    resumed = second_moments(layout, tokenizer, stopped)
    assert skipped == [2]
    assert all(torch.equal(resumed[layer], uninterrupted[layer]) for layer in (1, 2))
    assert {path.suffix for path in (tmp_path / "stopped").rglob("*") if path.is_file()} == {".npz"}


@pytest.mark.parametrize(
    "change", [{"mom2_n_samples": 7}, {"layers": [2, 3]}, {"tokens_per_batch": 90}, "weights", "garbage"]
)
def test_what_was_begun_otherwise_is_begun_again(change, llama, tokenizer, settings, monkeypatch, tmp_path):
    layout = Layout.of(llama)
    matrices = layout.output_matrices([1, 2])
    folder = moments_file(layout, matrices[1], settings).parent
    save_after_every_batch(monkeypatch)
    monkeypatch.setattr(type(folder), "unlink", lambda *_, **__: None)  # keep the partial file
    second_moments(layout, tokenizer, settings)
    monkeypatch.undo()
    for path in folder.glob("*.npz"):
        path.unlink()
    if change == "garbage":
        [partial] = folder.glob("nse_partial-*")
        partial.write_bytes(b"nonsense")
    elif change == "weights":
        with torch.no_grad():
            llama.model.layers[1].mlp.down_proj.weight.mul_(2)
    else:
        settings = dataclasses.replace(settings, **change)
    skipped = []
    real = module.token_batches
    monkeypatch.setattr(module, "token_batches", lambda *args: skipped.append(args[-1]) or real(*args))
    second_moments(layout, tokenizer, settings)
    assert skipped == [0]


def test_saving_takes_a_small_part_of_the_time(llama, tokenizer, settings, monkeypatch):
    """Each batch takes 40 seconds, each saving 30: not even every tenth batch is followed by one."""
    clock, saved = [0.0], []
    monkeypatch.setattr(resume, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    def save(_, sums, __):
        clock[0] += 30
        saved.append(sums.batches)

    def measure(_, __, ___, sums, on_batch):
        for number in range(1, 51):
            clock[0] += 40
            on_batch(MomentSums({1: torch.eye(F), 2: torch.eye(F)}, number, number))
        return MomentSums({1: torch.eye(F), 2: torch.eye(F)}, 50, 50)

    monkeypatch.setattr(resume, "_save_partial", save)
    monkeypatch.setattr(module, "measure_moments", measure)
    second_moments(Layout.of(llama), tokenizer, settings)
    assert saved == [1, 16, 31, 46]
