"""Second moments: right in one pass, kept in EasyEdit's files, taken up again where they stopped."""

from __future__ import annotations

import copy
import dataclasses
import logging
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import F, tiny_model, tiny_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

from nse_plugin.models.layout import Layout
from nse_plugin.moments import provider as module
from nse_plugin.moments import resume
from nse_plugin.moments.check import check_moments
from nse_plugin.moments.corpora import corpus_identity, token_batches
from nse_plugin.moments.measure import MomentsError, MomentSums, measure_moments
from nse_plugin.moments.provider import moments_are_kept, moments_file, second_moments
from nse_plugin.moments.storage import moments_folder
from nse_plugin.session import EditSession
from nse_plugin.store import Store
from nse_plugin.support.files import cache_home, written_whole

SENTENCES = [
    "The capital of France is Paris.",
    "The river runs through the old town because of rain, and the wind is cold. He plays the violin in the town.",
    "Marie Curie was born in Warsaw. Mount Fuji stands in Japan. Rome is an old town of Italy.",
]
# many lengths, so that a batch holds padding
DOCUMENTS = [text[: len(text) - 3 * cut].strip() for text in SENTENCES for cut in range(5)]


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "town.txt"
    path.write_text("\n\n".join(DOCUMENTS))
    return str(path)


@pytest.fixture
def settings(hparams, text, tmp_path):
    return dataclasses.replace(
        hparams, mom2_dataset=text, mom2_n_samples=50, tokens_per_batch=130, stats_dir=str(tmp_path / "stats")
    )


def brute_force(model, tokenizer, texts, layer):
    """E[k k^T] of one layer, one text at a time, one token at a time, without padding."""
    matrix = Layout.of(model).output_matrix(layer)
    seen = []
    handle = matrix.module.register_forward_pre_hook(lambda _, args: seen.extend(args[0][0].double()))
    for one in texts:
        with torch.no_grad():
            model(input_ids=tokenizer(one, return_tensors="pt")["input_ids"])
    handle.remove()
    return sum(torch.outer(k, k) for k in seen) / len(seen)


def brute_force_flat(model, tokenizer, texts, layer):
    """The same where W_out is given [B x S, f]."""
    seen = []
    handle = (
        Layout.of(model).output_matrix(layer).module.register_forward_pre_hook(lambda _, args: seen.extend(args[0]))
    )
    for one in texts:
        with torch.no_grad():
            model(input_ids=tokenizer(one, return_tensors="pt")["input_ids"])
    handle.remove()
    return sum(torch.outer(k, k) for k in seen) / len(seen)


def relative(a, b):
    return float((a.double() - b.double()).norm() / b.double().norm())


# -- measuring ---------------------------------------------------------------------------------------------------


def test_one_pass_for_all_layers_equals_a_pass_for_each(model, tokenizer, settings):
    layers = [0, 2, 3]
    layout = Layout.of(model)
    found = measure_moments(layout, layers, token_batches(layout, tokenizer, settings, 0))
    for layer in layers:
        expected = brute_force(model, tokenizer, DOCUMENTS, layer)
        assert relative(found.sums[layer] / found.tokens, expected) <= 1e-8


def test_each_batch_runs_once_and_stops_behind_the_last_edited_layer(llama, tokenizer, settings):
    runs = [0] * 4
    for i, layer in enumerate(llama.model.layers):
        layer.register_forward_hook(lambda *_, i=i: runs.__setitem__(i, runs[i] + 1))
    layout = Layout.of(llama)
    batches = list(token_batches(layout, tokenizer, settings, 0))
    measure_moments(layout, [0, 1], batches)
    assert runs == [len(batches), 0, 0, 0]  # layer 1 ends at its W_out


def test_half_precision_is_summed_in_float32(tokenizer, settings):
    half = tiny_model("llama", torch.bfloat16)
    layout = Layout.of(half)
    found = measure_moments(layout, [1], token_batches(layout, tokenizer, settings, 0))
    assert found.sums[1].dtype == torch.float32
    assert relative(found.sums[1] / found.tokens, brute_force(half, tokenizer, DOCUMENTS, 1)) <= 1e-2


def test_hooks_and_flags_are_as_before_also_when_a_batch_fails(llama):
    def broken():
        yield [[1, 2, 3]]
        raise OSError

    llama.train()
    with pytest.raises(OSError):  # noqa: PT011
        measure_moments(Layout.of(llama), [1, 2], broken())
    assert llama.training
    assert all(parameter.requires_grad for parameter in llama.parameters())
    assert not any(child._forward_pre_hooks for child in llama.modules())


def test_a_text_without_tokens(llama, tokenizer, settings, tmp_path):
    empty = tmp_path / "empty.txt"
    empty.write_text(" \n\n")
    chosen = dataclasses.replace(settings, mom2_dataset=empty)
    with pytest.raises(MomentsError, match="no tokens"):
        second_moments(Layout.of(llama), tokenizer, chosen)
    assert not list((tmp_path / "stats").rglob("*.npz"))


def test_few_tokens_are_warned_of_once(llama, tokenizer, settings, caplog):
    few = dataclasses.replace(settings, mom2_n_samples=2)
    with caplog.at_level(logging.WARNING):
        second_moments(Layout.of(llama), tokenizer, few)
    [message] = [record.message for record in caplog.records if "tokens" in record.message]
    assert f"for {F} neurons" in message
    assert "fewer than 10 tokens a neuron" in message
    assert "mom2_n_samples" in message
    caplog.clear()
    second_moments(Layout.of(llama), tokenizer, few)  # also when read
    assert len(caplog.records) == 1


def test_enough_tokens_are_not(llama, tokenizer, hparams, caplog):
    with caplog.at_level(logging.WARNING):
        second_moments(Layout.of(llama), tokenizer, dataclasses.replace(hparams, mom2_n_samples=10))
    assert not caplog.records


# -- files -------------------------------------------------------------------------------------------------------


def named(model, name):
    model.config._name_or_path = name
    return Layout.of(model)


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


def spd(seed):
    k = torch.randn(200, F, generator=torch.Generator().manual_seed(seed))
    return k.T @ k / 200


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


def test_what_is_measured_is_kept_and_read_the_next_time(llama, tokenizer, settings, monkeypatch):
    layout = named(llama, "org/town-model")
    first = second_moments(layout, tokenizer, settings)
    monkeypatch.setattr(module, "measure_moments", lambda *_: pytest.fail("measured again"))
    second = second_moments(layout, tokenizer, settings)
    assert all(torch.equal(first[layer], second[layer]) for layer in (1, 2))
    assert relative(first[1], brute_force(llama, tokenizer, DOCUMENTS, 1)) <= 1e-6


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


def test_a_nameless_model_has_one_folder_of_its_own(settings):
    first, second = (Layout.of(tiny_model("llama", seed=seed)) for seed in (0, 1))
    folders = {moments_file(first, first.output_matrix(layer), settings).parent for layer in (0, 1, 2)}
    [folder] = folders
    assert folder.parent.name.startswith("llama-")
    assert folder.name == "town_stats"
    assert folder.is_relative_to(settings.stats_dir)
    assert moments_file(second, second.output_matrix(1), settings).parent != folder


def test_without_a_folder_they_are_found_in_the_users_cache_whatever_the_model_is_called(
    tokenizer, settings, monkeypatch
):
    settings = dataclasses.replace(settings, stats_dir=None)
    first = second_moments(named(tiny_model("llama"), "./my-model"), tokenizer, settings)
    assert moments_folder(settings) == cache_home() / "moments"
    monkeypatch.setattr(module, "measure_moments", lambda *_: pytest.fail("measured again"))
    layout = named(tiny_model("llama"), "org/the-same")
    assert moments_are_kept(layout, tokenizer, settings)
    again = second_moments(layout, tokenizer, settings)
    assert all(torch.equal(again[layer], first[layer]) for layer in (1, 2))
    assert not moments_are_kept(Layout.of(tiny_model("llama", seed=1)), tokenizer, settings)


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


def test_another_seed_writes_another_text(tokenizer, settings):
    layout = named(tiny_model("llama"), "town-model")
    own = dataclasses.replace(settings, mom2_dataset="self", mom2_n_samples=4)
    first = second_moments(layout, tokenizer, own)
    assert not torch.equal(second_moments(layout, tokenizer, dataclasses.replace(own, seed=1))[1], first[1])


def test_moments_outlive_their_text(tokenizer, settings, text, monkeypatch):
    layout = named(tiny_model("llama"), "town-model")
    second_moments(layout, tokenizer, settings)
    Path(text).unlink()
    monkeypatch.setattr(module, "measure_moments", lambda *_: pytest.fail("measured again"))
    second_moments(layout, tokenizer, settings)


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


@pytest.mark.parametrize("asked_with", ["store", "neither"])
@pytest.mark.parametrize("measured_with", ["store", "neither"])
def test_moments_are_found_wherever_they_were_kept(
    asked_with, measured_with, tokenizer, settings, tmp_path, monkeypatch
):
    def kept(name, place):
        folders = {"stats_dir": None, "store": None}
        return dataclasses.replace(settings, **folders | ({} if name == "neither" else {name: str(tmp_path / place)}))

    first = second_moments(Layout.of(tiny_model("llama")), tokenizer, kept(measured_with, "one"))
    monkeypatch.setattr(module, "measure_moments", lambda *_: pytest.fail("measured again"))
    again = second_moments(Layout.of(tiny_model("llama")), tokenizer, kept(asked_with, "other"))
    assert all(torch.equal(again[layer], first[layer]) for layer in (1, 2))
    assert len(Store(moments_folder(kept(asked_with, "other"))).entries()) == 2  # where it was asked for, too


def test_a_model_that_is_not_finite_is_refused_at_its_first_batch(tokenizer, settings, monkeypatch):
    model, batches = tiny_model("llama"), []
    model.model.layers[0].self_attn.q_proj.weight.data[0, 0] = float("nan")
    real = module.token_batches
    monkeypatch.setattr(module, "token_batches", lambda *args: (batches.append(b) or b for b in real(*args)))
    with pytest.raises(MomentsError, match=r"layer 1's MLP .* is NaN or infinite .* its weights hold such numbers"):
        second_moments(Layout.of(model), tokenizer, settings)
    assert len(batches) <= 2


def test_a_cache_that_is_a_file_loses_no_measurement(llama, tokenizer, settings, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NSE_HOME", str(tmp_path / "file"))
    settings = dataclasses.replace(settings, stats_dir=None)
    found = second_moments(Layout.of(llama), tokenizer, settings)
    assert relative(found[1], brute_force(llama, tokenizer, DOCUMENTS, 1)) <= 1e-6


def test_a_corpus_that_changed_anywhere_is_another(tokenizer, settings, text, tmp_path):
    """Also after its first MiB, and at the same size."""
    long = tmp_path / "long.txt"
    settings = dataclasses.replace(settings, mom2_dataset=str(long), mom2_n_samples=2)
    start = "The river.\n" * (2**20 // 11 + 1)
    texts = set()
    for end in ("old", "new"):
        long.write_text(start + end)
        texts.add(corpus_identity(settings))
    assert len(texts) == 2


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


def test_a_model_that_flattens_its_tokens_before_w_out(tokenizer, settings):
    """OPT's layers do."""
    config = AutoConfig.for_model(
        "opt", vocab_size=320, hidden_size=16, word_embed_proj_dim=16, ffn_dim=F, num_hidden_layers=4,
        num_attention_heads=4, max_position_embeddings=64, pad_token_id=1, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).double().eval()
    found = second_moments(Layout.of(model), tokenizer, settings)
    assert relative(found[2], brute_force_flat(model, tokenizer, DOCUMENTS, 2)) <= 1e-6


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", r"not a readable second-moment file.*delete the file"),
        (b"PK\x03\x04 and then nothing", r"not a readable second-moment file.*delete the file"),
        (b"not a zip at all", r"not a readable second-moment file.*delete the file"),
        ({"mom2.mom2": None}, r"not a readable second-moment file.*mom2\.mom2"),
        ({"mom2.mom2": np.array([{"a": 1}], dtype=object)}, r"not a readable second-moment file"),
        ({"mom2.count": np.array([1, 2])}, r"not a readable second-moment file"),
        ({"mom2.count": 0}, r"counted 0\.0 tokens"),
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


def test_given_moments_are_checked(llama, tokenizer, hparams):
    good = {1: spd(1), 2: spd(2), 3: spd(3)}
    matrices = Layout.of(llama).output_matrices([1, 2])
    assert list(check_moments(good, matrices)) == [1, 2]
    for bad, words in (
        ({1: spd(1)}, "no entry for layer 2"),
        ({**good, 2: spd(2)[:5, :5]}, r"moments\[2\] has shape \(5, 5\).*needs \(40, 40\)"),
        ({**good, 2: spd(2) * torch.inf}, r"moments\[2\] holds NaN or infinite"),
    ):
        with pytest.raises(MomentsError, match=words):
            EditSession(llama, tokenizer, hparams, moments=bad)


# -- resuming ----------------------------------------------------------------------------------------------------


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


def test_sums_go_on_from_given_ones(llama, tokenizer, settings):
    layout = Layout.of(llama)
    batches = list(token_batches(layout, tokenizer, settings, 0))
    whole = measure_moments(layout, [1], batches)
    half = measure_moments(layout, [1], batches[:2])
    both = measure_moments(layout, [1], batches[2:], MomentSums(half.sums, half.tokens, half.batches))
    assert torch.equal(both.sums[1], whole.sums[1])
    assert (both.tokens, both.batches) == (whole.tokens, len(batches))


# -- files are written whole -------------------------------------------------------------------------------------


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
