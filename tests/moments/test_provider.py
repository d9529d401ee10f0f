"""Second moments: correct in one pass, stored in EasyEdit's files, and continued after an interruption."""

from __future__ import annotations

import copy
import dataclasses
import threading
import time

import pytest
import torch
from moment_files import DOCUMENTS, brute_force, named
from oracles import relative
from tiny import tiny_model

from nse_plugin.models.layout import Layout
from nse_plugin.moments import provider as module
from nse_plugin.moments.provider import moments_are_kept, moments_file, second_moments
from nse_plugin.support.files import cache_home, written_whole


def test_what_is_measured_is_kept_and_read_the_next_time(llama, tokenizer, settings, monkeypatch):
    layout = named(llama, "org/town-model")
    first = second_moments(layout, tokenizer, settings)
    monkeypatch.setattr(module, "measure_moments", lambda *_: pytest.fail("measured again"))
    second = second_moments(layout, tokenizer, settings)
    assert all(torch.equal(first[layer], second[layer]) for layer in (1, 2))
    assert relative(first[1], brute_force(llama, tokenizer, DOCUMENTS, 1)) <= 1e-6


def test_only_missing_layers_are_measured(llama, tokenizer, settings, monkeypatch):
    layout = Layout.of(llama)
    both = second_moments(layout, tokenizer, settings)
    moments_file(layout, layout.output_matrix(2), settings).unlink()
    asked = []
    real = module.measure_moments
    monkeypatch.setattr(module, "measure_moments", lambda *args: asked.append(args[1]) or real(*args))
    again = second_moments(layout, tokenizer, settings)
    assert asked == [[2]]
    assert all(torch.equal(both[layer], again[layer]) for layer in (1, 2))


@pytest.mark.parametrize("kept_in", ["files", "store"])
@pytest.mark.parametrize("measured_in", [torch.bfloat16, torch.float32])
def test_the_same_model_in_another_precision_reads_them(measured_in, kept_in, tokenizer, settings, monkeypatch):
    settings = settings if kept_in == "files" else dataclasses.replace(settings, stats_dir=None)
    half = tiny_model("llama", torch.bfloat16)
    models = {torch.bfloat16: half, torch.float32: copy.deepcopy(half).float()}
    first = second_moments(named(models.pop(measured_in), "town-model"), tokenizer, settings)
    asked, real = [], module.measure_moments
    monkeypatch.setattr(module, "measure_moments", lambda *args: asked.append(args[1]) or real(*args))
    [other] = models.values()
    second = second_moments(named(other, "town-model"), tokenizer, settings)
    assert all(torch.equal(first[layer], second[layer]) for layer in (1, 2))
    assert asked == []
    with torch.no_grad():
        other.model.layers[0].self_attn.v_proj.weight.mul_(2)  # another model of that name and precision
    third = second_moments(named(other, "town-model"), tokenizer, settings)
    assert asked == [[1, 2]]
    assert relative(third[1], brute_force(other, tokenizer, DOCUMENTS, 1)) <= 1e-2


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.model.layers[0].self_attn.q_proj.weight.data.mul_(3),
        lambda model: model.model.embed_tokens.weight.data.mul_(3),
        lambda model: model.model.rotary_emb.inv_freq.mul_(3),
        lambda model: setattr(model.config, "rms_norm_eps", 1.0),
    ],
    ids=["attention", "embeddings", "buffer", "configuration"],
)
@pytest.mark.parametrize("kept_in", ["files", "store"])
def test_a_model_of_the_same_name_that_differs_elsewhere_has_its_own(change, kept_in, tokenizer, settings, monkeypatch):
    settings = settings if kept_in == "files" else dataclasses.replace(settings, stats_dir=None)
    second_moments(named(tiny_model("llama"), "town-model"), tokenizer, settings)
    other = tiny_model("llama")
    change(other)
    asked, real = [], module.measure_moments
    monkeypatch.setattr(module, "measure_moments", lambda *args: asked.append(args[1]) or real(*args))
    found = second_moments(named(other, "town-model"), tokenizer, settings)
    assert asked == [[1, 2]]
    assert relative(found[1], brute_force(other, tokenizer, DOCUMENTS, 1)) <= 1e-6


def hook(model):
    model.model.layers[0].mlp.register_forward_hook(lambda _, args, output: 3 * output)


def replace_forward(model):
    mlp = model.model.layers[0].mlp
    mlp.forward = lambda hidden: 3 * type(mlp).forward(mlp, hidden)


@pytest.mark.parametrize("change", [hook, replace_forward])
@pytest.mark.parametrize("kept_in", ["files", "store"])
def test_a_model_with_hooks_neither_reads_nor_keeps_any(change, kept_in, tokenizer, settings, caplog):
    settings = settings if kept_in == "files" else dataclasses.replace(settings, stats_dir=None)
    changed, plain = tiny_model("llama"), tiny_model("llama")
    change(changed)
    expected = {model: brute_force(model, tokenizer, DOCUMENTS, 1) for model in (changed, plain)}
    assert relative(expected[plain], expected[changed]) > 0.1
    for model in (changed, plain, changed):
        found = second_moments(named(model, "town-model"), tokenizer, settings)
        assert relative(found[1], expected[model]) <= 1e-6
    assert "not kept: the model has" in caplog.text
    assert moments_are_kept(named(plain, "town-model"), tokenizer, settings)
    assert not moments_are_kept(named(changed, "town-model"), tokenizer, settings)


def test_a_cache_that_is_a_file_loses_no_measurement(llama, tokenizer, settings, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NSE_HOME", str(tmp_path / "file"))
    settings = dataclasses.replace(settings, stats_dir=None)
    found = second_moments(Layout.of(llama), tokenizer, settings)
    assert relative(found[1], brute_force(llama, tokenizer, DOCUMENTS, 1)) <= 1e-6


def test_two_processes_that_want_the_same_measure_once(tokenizer, settings, monkeypatch):
    """Two threads here: the second finds what the first has kept when it gets the lock."""
    measured, real, begun = [], module.measure_moments, threading.Event()

    def slowly(*args):
        measured.append(args[1])
        begun.set()
        time.sleep(0.5)
        return real(*args)

    monkeypatch.setattr(module, "measure_moments", slowly)
    found = {}

    def run(name):
        found[name] = second_moments(Layout.of(tiny_model("llama")), tokenizer, settings)

    first = threading.Thread(target=run, args=("first",))
    first.start()
    assert begun.wait(20)
    run("second")
    first.join()
    assert measured == [[1, 2]]
    assert all(torch.equal(found["first"][layer], found["second"][layer]) for layer in (1, 2))


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with written_whole(path) as temporary:
        temporary.write_text("one")
    assert path.read_text() == "one"

    def fail():
        with written_whole(path) as temporary:
            temporary.write_text("tw")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert path.read_text() == "one"
    assert list(path.parent.iterdir()) == [path]
    plain = tmp_path / "plain.txt"
    plain.write_text("")
    assert path.stat().st_mode == plain.stat().st_mode


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("NSE_HOME", str(tmp_path / "x"))
    assert cache_home() == tmp_path / "x"
    monkeypatch.delenv("NSE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_home() == tmp_path / ".cache" / "nse-plugin"
    assert not cache_home().exists()
