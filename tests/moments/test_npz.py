"""EasyEdit's files of second moments: read, written, and distinguished."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from moment_files import DOCUMENTS, brute_force, named, spd
from oracles import relative
from tiny import F, tiny_model

from nse_plugin.models.layout import Layout
from nse_plugin.moments import provider as module
from nse_plugin.moments import resume
from nse_plugin.moments.measure import MomentsError
from nse_plugin.moments.provider import moments_file, second_moments


def write_easyedit(path, moment, tokens=1000, **changes):
    """An npz as EasyEdit and MEMIT write it: sum of k k^T and count."""
    path.parent.mkdir(parents=True, exist_ok=True)
    entries = {
        "mom2.constructor": "util.runningstats.SecondMoment()",
        "mom2.count": tokens,
        "mom2.mom2": (moment * tokens).float().numpy(),
        "sample_size": 50,
    }
    np.savez(path, **{name: value for name, value in {**entries, **changes}.items() if value is not None})


@pytest.mark.parametrize("folder", ["town-model", "._cache_town-model"])
def test_files_that_people_have_are_read(folder, llama, tokenizer, settings, tmp_path):
    """EasyEdit names the folder by the last part of the model's path, ROME and MEMIT by all of it."""
    layout = named(llama, "./cache/town-model")
    for layer in (1, 2):
        file = f"model.layers.{layer}.mlp.down_proj_float32_mom2_50.npz"
        write_easyedit(tmp_path / "stats" / folder / "town_stats" / file, spd(layer))
    found = second_moments(layout, tokenizer, settings)
    for layer in (1, 2):
        assert relative(found[layer], spd(layer)) <= 1e-6
    assert not list((tmp_path / "stats").rglob("*partial*"))


def test_our_files_have_easyedits_layout(llama, tokenizer, settings, tmp_path):
    second_moments(named(llama, "org/town-model"), tokenizer, settings)
    file = tmp_path / "stats/town-model/town_stats/model.layers.2.mlp.down_proj_float32_mom2_50.npz"
    with np.load(file, allow_pickle=False) as data:
        tokens = sum(len(tokenizer(line)["input_ids"]) for line in DOCUMENTS)
        assert float(data["mom2.count"]) == tokens
        assert int(data["sample_size"]) == 50
        assert data["mom2.mom2"].dtype == np.float32
        moment = data["mom2.mom2"] / data["mom2.count"]
        assert str(data["mom2.constructor"]).endswith("SecondMoment()")
    assert relative(torch.from_numpy(moment), brute_force(llama, tokenizer, DOCUMENTS, 2)) <= 1e-6


def test_a_nameless_model_has_one_folder_of_its_own(settings):
    first, second = (Layout.of(tiny_model("llama", seed=seed)) for seed in (0, 1))
    folders = {moments_file(first, first.output_matrix(layer), settings).parent for layer in (0, 1, 2)}
    [folder] = folders
    assert folder.parent.name.startswith("llama-")
    assert folder.name == "town_stats"
    assert folder.is_relative_to(settings.stats_dir)
    assert moments_file(second, second.output_matrix(1), settings).parent != folder


def test_files_of_the_same_model_under_another_name_are_found(tokenizer, settings, monkeypatch):
    first = second_moments(named(tiny_model("llama"), "my-model"), tokenizer, settings)
    more = dataclasses.replace(settings, mom2_n_samples=500)
    second_moments(named(tiny_model("llama"), "my-model"), tokenizer, more)  # ..._500.npz is not ..._50.npz
    monkeypatch.setattr(module, "measure_moments", lambda *_: pytest.fail("measured again"))
    again = second_moments(named(tiny_model("llama"), "linked-model"), tokenizer, settings)
    assert all(torch.equal(again[layer], first[layer]) for layer in (1, 2))


def test_other_weights_of_the_same_name_have_their_own_and_leave_the_first_alone(tokenizer, settings, monkeypatch):
    model, other = tiny_model("llama", seed=0), tiny_model("llama", seed=1)
    first = second_moments(named(model, "town-model"), tokenizer, settings)
    second = second_moments(named(other, "town-model"), tokenizer, settings)
    assert relative(second[1], brute_force(other, tokenizer, DOCUMENTS, 1)) <= 1e-6
    monkeypatch.setattr(module, "measure_moments", lambda *_: pytest.fail("measured again"))
    for one, expected in ((model, first), (other, second)):
        assert torch.equal(second_moments(named(one, "town-model"), tokenizer, settings)[1], expected[1])


def test_another_text_of_the_same_name_is_another_file(tokenizer, settings, tmp_path):
    layout = named(tiny_model("llama"), "town-model")
    first = second_moments(layout, tokenizer, settings)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "town.txt").write_text("The old river is cold.")
    other = dataclasses.replace(settings, mom2_dataset=str(tmp_path / "other" / "town.txt"))
    assert not torch.equal(second_moments(layout, tokenizer, other)[1], first[1])
    assert torch.equal(second_moments(layout, tokenizer, settings)[1], first[1])


def test_moments_outlive_their_text(tokenizer, settings, text, monkeypatch):
    layout = named(tiny_model("llama"), "town-model")
    second_moments(layout, tokenizer, settings)
    Path(text).unlink()
    monkeypatch.setattr(module, "measure_moments", lambda *_: pytest.fail("measured again"))
    second_moments(layout, tokenizer, settings)


@pytest.mark.parametrize("blocked", ["a file", "a parent that is a file"])
def test_a_stats_dir_that_cannot_be_written_is_refused_before_measuring(
    blocked, llama, tokenizer, settings, monkeypatch, tmp_path
):
    taken = tmp_path / "taken"
    taken.write_text("")
    folder = taken if blocked == "a file" else taken / "stats"
    monkeypatch.setattr(module, "measure_moments", lambda *_: pytest.fail("measured"))
    with pytest.raises(MomentsError, match=rf"stats_dir = '{folder}' cannot be written to.*name another folder"):
        second_moments(Layout.of(llama), tokenizer, dataclasses.replace(settings, stats_dir=str(folder)))


def test_moments_that_cannot_be_kept_after_all_are_used(llama, tokenizer, settings, monkeypatch, caplog):
    """As when the disk fills up while they are measured."""

    def full(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr(np, "savez", full)
    monkeypatch.setattr(resume, "save_file", full)
    monkeypatch.setattr(resume, "SAVE_EVERY_SECONDS", 0.0)
    with caplog.at_level(logging.WARNING):
        found = second_moments(Layout.of(llama), tokenizer, settings)
    assert relative(found[1], brute_force(llama, tokenizer, DOCUMENTS, 1)) <= 1e-6
    assert "no space left" in caplog.text
    assert not list(Path(settings.stats_dir).rglob("*.npz"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", r"not a readable second-moment file.*delete the file"),
        (b"PK\x03\x04 and then nothing", r"not a readable second-moment file.*delete the file"),
        (b"not a zip at all", r"not a readable second-moment file.*delete the file"),
        ({"mom2.mom2": None}, r"not a readable second-moment file.*mom2\.mom2"),
        ({"mom2.mom2": np.array([{"a": 1}], dtype=object)}, r"not a readable second-moment file"),
        ({"mom2.count": np.array([1, 2])}, r"not a readable second-moment file"),
        ({"mom2.count": 0}, r"count of 0\.0 tokens"),
        ({"mom2.mom2": np.zeros((3, 3), np.float32)}, rf"\(3, 3\).*needs \({F}, {F}\)"),
        ({"mom2.mom2": np.float32(1)}, rf"\(\).*needs \({F}, {F}\)"),
        ({"mom2.mom2": np.full((F, F), np.nan, np.float32)}, "NaN or infinite"),
    ],
)
def test_a_file_that_cannot_be_used(content, words, llama, tokenizer, settings):
    layout = named(llama, "town-model")
    path = moments_file(layout, layout.output_matrix(2), settings)
    write_easyedit(path, spd(0), **(content if isinstance(content, dict) else {}))
    if isinstance(content, bytes):
        path.write_bytes(content)
    before = path.read_bytes()
    with pytest.raises(MomentsError, match=words) as caught:
        second_moments(layout, tokenizer, settings)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before


def test_a_truncated_file(llama, tokenizer, settings):
    layout = named(llama, "town-model")
    path = moments_file(layout, layout.output_matrix(1), settings)
    write_easyedit(path, spd(0))
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(MomentsError, match="not a readable second-moment file"):
        second_moments(layout, tokenizer, settings)
