"""The store: an entry is found only if nothing that it depends on has changed, and never returned if damaged."""

from __future__ import annotations

import dataclasses
import logging
import os
import subprocess
import sys
import threading
import time

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny import TEMPLATES, tiny_facts, tiny_model, tiny_moments, tiny_tokenizer

from nse_plugin import store as store_module
from nse_plugin.cli import main
from nse_plugin.models.identity import ModelIdentity
from nse_plugin.models.layout import Layout
from nse_plugin.moments import provider as moments_module
from nse_plugin.session import EditSession
from nse_plugin.store import MOMENT, VALUE, Store, StoreError

Z = torch.arange(5.0)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def test_a_value_comes_back_to_the_bit(store):
    for value in (Z, Z.double() / 3, Z.bfloat16() / 3):
        store.put("ab" * 32, value, VALUE, "The capital of France is Lyon")
        assert torch.equal(store.get("ab" * 32), value)
        assert store.get("ab" * 32).dtype == value.dtype
    [entry] = store.entries()
    assert (entry.kind, entry.about) == (VALUE, "The capital of France is Lyon")
    assert store.get("cd" * 32) is None


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "other"])
def test_a_damaged_value_is_put_aside_and_never_served(store, damage, caplog):
    store.put("ab" * 32, Z, VALUE, "x")
    [path] = store.folder.glob("ab/*")
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        data[-3] ^= 4
    path.write_bytes({"cut": data[:-4], "flipped": data, "emptied": b"", "other": b"not a safetensors file"}[damage])
    with caplog.at_level(logging.WARNING):
        assert store.get("ab" * 32) is None
    assert "damaged" in caplog.text
    assert store.entries() == []
    assert path.with_suffix(".corrupt").is_file()
    store.put("ab" * 32, Z, VALUE, "x")
    assert torch.equal(store.get("ab" * 32), Z)


def test_verify_counts_and_cleans(store):
    for number in range(4):
        store.put(f"{number}{'a' * 63}", Z + number, VALUE, "x")
    broken = sorted(store.folder.glob("*/*.safetensors"))[0]
    broken.write_bytes(b"")
    assert store.verify() == (3, [broken])
    assert store.verify() == (3, [])


def test_many_writers_of_one_value(store):
    threads = [threading.Thread(target=store.put, args=("ab" * 32, Z, VALUE, "x")) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(store.get("ab" * 32), Z)
    assert [path.name for path in store.folder.glob("ab/*")] == [f"{'ab' * 32}.safetensors"]
    assert len(store.entries()) == 1


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(store):
    store.folder.mkdir()
    store.folder.chmod(0o500)
    with pytest.raises(OSError, match="ermission"):
        store.put("ab" * 32, Z, VALUE, "x")
    store.folder.chmod(0o700)


def session(hparams, **changes) -> EditSession:
    model = tiny_model("llama", torch.float32)
    return EditSession(
        model, tiny_tokenizer(), dataclasses.replace(hparams, **changes), moments=tiny_moments(model, [1, 2]),
        templates=TEMPLATES,
    )  # fmt: skip


def test_sessions_that_share_a_state_share_what_they_know_of_the_templates(store, hparams):
    one = session(hparams, store=str(store.folder))
    one.edit(tiny_facts()[:1])
    known = one.state.contexts
    another = EditSession(one.model, one.tokenizer, one.hparams, templates=TEMPLATES, state=one.state)
    another.edit(tiny_facts()[1:2])
    assert another.state.contexts is known
    with torch.no_grad():
        one.model.model.layers[0].self_attn.o_proj.weight.mul_(1.5)
    plain = session(hparams)
    with torch.no_grad():
        plain.model.model.layers[0].self_attn.o_proj.weight.mul_(1.5)
    assert torch.allclose(another.values(tiny_facts()[2:3]), plain.values(tiny_facts()[2:3]), rtol=1e-5)


def test_what_others_did_to_other_layers_is_another_model(store, hparams):
    one, plain = session(hparams, store=str(store.folder)), session(hparams)
    one.edit(tiny_facts()[:1])
    for model in (one.model, plain.model):
        with torch.no_grad():
            model.model.layers[0].self_attn.o_proj.weight.mul_(1.5)
    found = one.values(tiny_facts()[:1])
    assert one.values_from_store == 0
    assert len(store.entries()) == 2
    assert torch.allclose(found, plain.values(tiny_facts()[:1]), rtol=1e-5)


def test_hooks_that_transformers_leaves_behind_only_look(store, hparams):
    first, second = (session(hparams, store=str(store.folder)) for _ in range(2))
    for one in (first, second):
        one.model(torch.tensor([[1, 2, 3]]), output_hidden_states=True)
    first.values(tiny_facts())
    second.values(tiny_facts())
    assert second.values_from_store == len(tiny_facts())


def switched_off(wrapped):
    wrapped.base_model.disable_adapter_layers()


def with_another_scale(wrapped):
    for module in wrapped.modules():
        if hasattr(module, "set_scale"):
            module.set_scale("default", 3.0)


def with_another_buffer(wrapped):
    wrapped.get_base_model().model.layers[0].correction.fill_(2)


def with_another_rotary_angle(wrapped):
    wrapped.get_base_model().model.rotary_emb.inv_freq.mul_(2)


@pytest.mark.parametrize("change", [switched_off, with_another_scale, with_another_buffer, with_another_rotary_angle])
@pytest.mark.parametrize("new_session", [True, False])
def test_a_store_never_hands_out_another_models_values(change, new_session, store, hparams):
    """Whatever a model computes with is in the address: also adapters and buffers."""
    model = tiny_model("llama")
    model.model.layers[0].register_buffer("correction", torch.zeros(3))
    model.model.layers[0].register_forward_hook(adds_correction)
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.5, generator=torch.Generator().manual_seed(0))

    def begin(**settings):
        chosen = dataclasses.replace(hparams, **settings)
        moments = tiny_moments(tiny_model("llama"), [1, 2])
        return EditSession(wrapped.get_base_model(), tiny_tokenizer(), chosen, moments, TEMPLATES)

    one = begin(store=str(store.folder))
    one.values(tiny_facts()[:1])
    change(wrapped)
    again = begin(store=str(store.folder)) if new_session else one
    found = again.values(tiny_facts()[:1])
    assert again.values_from_store == 0
    assert torch.equal(found, begin().values(tiny_facts()[:1]))
    if new_session:
        assert again.values(tiny_facts()[:1]) is not None
        assert again.values_from_store == 1


def adds_correction(layer, _, output):
    hidden = output[0] if isinstance(output, tuple) else output
    changed = hidden + layer.correction.sum()
    return (changed, *output[1:]) if isinstance(output, tuple) else changed


adds_correction.__module__ = "transformers.models"  # a part of the model, as it were


def test_under_autocast_a_model_has_values_of_its_own(store, hparams):
    one = EditSession(
        tiny_model("llama", torch.float32), tiny_tokenizer(), dataclasses.replace(hparams, store=str(store.folder)),
        tiny_moments(tiny_model("llama"), [1, 2]), TEMPLATES,
    )  # fmt: skip
    plain = one.values(tiny_facts()[:1])
    with torch.autocast("cpu", torch.bfloat16):
        assert not torch.equal(one.values(tiny_facts()[:1]), plain)
    assert one.values_from_store == 0
    assert torch.equal(one.values(tiny_facts()[:1]), plain)


def test_the_whole_model_is_hashed_once_while_it_looks_the_same(store, hparams, monkeypatch):
    hashed, own = [], ModelIdentity.full
    monkeypatch.setattr(ModelIdentity, "full", lambda self, dtype=None: hashed.append(1) or own(self, dtype))
    one = session(hparams, store=str(store.folder))
    for fact in tiny_facts():
        one.edit([fact])
    assert len(hashed) == 1


@pytest.mark.parametrize("change", ["hook", "forward"])
def test_a_model_with_hooks_keeps_its_values_to_itself(change, store, hparams):
    one = session(hparams, store=str(store.folder))
    layer = one.model.model.layers[0]
    if change == "hook":
        layer.register_forward_hook(lambda *_: None)
    else:
        layer.mlp.forward = lambda x: 1.1 * type(layer.mlp).forward(layer.mlp, x)
    assert one.values(tiny_facts()[:1]).isfinite().all()
    assert store.entries() == []


def test_a_file_that_cannot_be_read_is_not_damaged(store, monkeypatch, caplog):
    store.put("ab" * 32, Z, VALUE, "x")
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(store_module, "_read", lambda path: (_ for _ in ()).throw(PermissionError("not yours")))
        assert store.get("ab" * 32) is None
    assert "cannot be read" in caplog.text
    assert torch.equal(store.get("ab" * 32), Z)


def test_a_value_that_is_not_finite_is_not_kept(store, hparams):
    one = session(hparams, store=str(store.folder))
    with torch.no_grad():
        one.model.model.layers[3].mlp.down_proj.weight.fill_(torch.nan)
    assert one.values(tiny_facts()[:1]).isnan().all()
    assert store.entries() == []


def test_a_store_that_cannot_be_written_to_stops_nothing(tmp_path, hparams, caplog):
    one = session(hparams, store=str(tmp_path / "file"))
    (tmp_path / "file").write_text("not a folder")
    with caplog.at_level(logging.WARNING):
        assert one.values(tiny_facts()[:1]).isfinite().all()
    assert "cannot be written to" in caplog.text


# -- second moments in the store ---------------------------------------------------------------------------------


@pytest.fixture
def measuring(store, hparams, tmp_path):
    """A session that measures its moments on a text, into the store; `text` and `seed` of the model may be changed."""
    (tmp_path / "town.txt").write_text("The capital of France is Paris.\nThe river runs through the old town.\n" * 9)

    def make(model=None, tokenizer=None, **changes) -> EditSession:
        settings = {
            "mom2_dataset": str(tmp_path / "town.txt"),
            "stats_dir": None,
            "store": str(store.folder),
            **changes,
        }
        return EditSession(
            model or tiny_model("llama"), tokenizer or tiny_tokenizer(), dataclasses.replace(hparams, **settings),
            templates=TEMPLATES,
        )  # fmt: skip

    return make


@pytest.fixture
def measured(monkeypatch):
    """The layers of every measurement."""
    layers = []
    real = moments_module.measure_moments
    monkeypatch.setattr(moments_module, "measure_moments", lambda *a: layers.append(list(a[1])) or real(*a))
    return layers


def test_moments_are_measured_once_a_layer(store, measuring, measured, tmp_path):
    first = measuring().moments
    assert [(entry.kind, entry.about.split(",")[0]) for entry in store.entries()] == [
        (MOMENT, "layer 1"), (MOMENT, "layer 2"),
    ]  # fmt: skip
    (tmp_path / "town.txt").rename(tmp_path / "village.txt")
    again = measuring(layers=[0, 2], mom2_dataset=str(tmp_path / "village.txt")).moments
    assert measured == [[1, 2], [0]]
    assert torch.equal(again[2], first[2])
    in_files = measuring(stats_dir=str(tmp_path / "stats"), mom2_dataset=str(tmp_path / "village.txt")).moments
    assert torch.allclose(in_files[1], first[1])
    assert len(store.entries()) == 3


def test_what_moments_depend_on_is_their_address(measuring, measured, tmp_path):
    first = measuring().moments
    (tmp_path / "other.txt").write_text("The capital of France is Lyon.\nThe river runs through the old town.\n" * 9)
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.layers[0].self_attn.o_proj.weight[0, 0] += 1e-6  # not an edited matrix, but in front of one
    for one in (
        measuring(mom2_dataset=str(tmp_path / "other.txt")), measuring(model=model), measuring(mom2_n_samples=3),
        measuring(tokenizer=tiny_tokenizer(bos=True)),
    ):  # fmt: skip
        assert one.moments
    assert measured == [[1, 2]] * 5
    again = measuring(p=0.5, v_lr=0.1, mom2_update_weight=7.0, tokenizer=tiny_tokenizer(padding_side="left")).moments
    assert all(torch.equal(again[layer], first[layer]) for layer in first)
    assert len(measured) == 5


def test_damaged_moments_are_measured_again(store, measuring, measured):
    first = measuring().moments
    path = next(store.folder.glob("*/*.safetensors"))
    path.write_bytes(path.read_bytes()[:-8])
    again = measuring().moments
    assert len(measured) == 2
    assert all(torch.equal(again[layer], first[layer]) for layer in first)
    assert store.verify() == (2, [])


# -- looking after it ------------------------------------------------------------------------------------------------


def test_an_index_that_was_cut_short_or_is_missing_changes_nothing(store):
    for number in range(3):
        store.put(f"{number}{'a' * 63}", Z, VALUE, f"fact {number}")
    [index] = store.folder.glob("index/*.jsonl")
    index.write_text(index.read_text()[:-20])
    assert [entry.about for entry in store.entries()] == ["fact 0", "fact 1", "fact 2"]
    index.unlink()
    assert [entry.about for entry in store.entries()] == ["fact 0", "fact 1", "fact 2"]


def test_gc_removes_what_nobody_will_read(store):
    for number in range(4):
        store.put(f"{number}{'a' * 63}", Z + number, VALUE, f"fact {number}")
    first, second, third, _ = sorted(store.folder.glob("*/*.safetensors"))
    first.write_bytes(b"")
    store.verify()
    killed = second.with_name(f".{second.stem}.{'0' * 32}.safetensors")
    killed.write_bytes(b"half")
    busy = second.with_name(f".{second.stem}.{'1' * 32}.safetensors")
    busy.write_bytes(b"half")
    for path, days in ((killed, 1), (second, 40), (third, 40)):
        os.utime(path, (time.time() - days * 86400,) * 2)
    store.get(third.stem)  # used today
    assert store.gc() == (2, 4)
    assert busy.exists()
    assert [entry.about for entry in store.entries()] == ["fact 1", "fact 2", "fact 3"]
    assert store.gc(unused_for=30 * 86400)[0] == 1
    assert [entry.about for entry in store.entries()] == ["fact 2", "fact 3"]
    assert len(list(store.folder.glob("index/*"))) == 1


def test_a_store_that_is_not_there(tmp_path):
    with pytest.raises(StoreError, match="There is no store '.*nowhere'"):
        Store.at(tmp_path / "nowhere")
    assert Store.at(tmp_path).entries() == []  # it may be one


@pytest.mark.parametrize(
    "name",
    [
        "v1/model.safetensors", "v1/.model.1234.safetensors", "ab/ab.corrupt", ".notes", "index/words.json",
        f"cd/{'ab' * 32}.safetensors", f"{'ab' * 32}.safetensors",
    ],
)  # fmt: skip
def test_what_is_not_the_stores_is_never_touched(name, store, capsys):
    def files():
        return {path: path.stat().st_mtime for path in store.folder.rglob("*") if path.is_file()}

    file = store.folder / name
    file.parent.mkdir(parents=True)
    file.write_bytes(b"a model")
    os.utime(file, (0, 0))
    before = files()
    for what in (["ls"], ["verify"], ["gc"], ["gc", "--unused-for", "0"]):
        assert main(["store", what[0], str(store.folder), *what[1:]]) == 1
        assert f"'{store.folder}' is no store" in capsys.readouterr().err
    assert files() == before
    store.put("ab" * 32, Z, VALUE, "x")
    assert [entry.about for entry in store.entries()] == ["x"]
    assert store.verify() == (1, [])
    assert store.gc(unused_for=0)[0] == 1
    assert file in files()


@pytest.mark.parametrize("days", ["nan", "inf", "-1"])
def test_days_that_are_none(days, store, capsys):
    store.put("ab" * 32, Z, VALUE, "x")
    assert main(["store", "gc", str(store.folder), f"--unused-for={days}"]) == 1
    assert "takes a number of days, 0 or more" in capsys.readouterr().err


@pytest.mark.parametrize("below", ["", "deep/er"])
def test_a_store_that_is_a_file_is_refused_before_anything_is_measured(below, tmp_path, hparams, monkeypatch):
    (tmp_path / "file").write_text("")
    settings = dataclasses.replace(hparams, store=str(tmp_path / "file" / below))
    monkeypatch.setattr(moments_module, "measure_moments", lambda *_: pytest.fail("measured"))
    words = f"store = '.*file.*' cannot be used: {tmp_path}/file is a file"
    with pytest.raises(StoreError, match=words):
        EditSession(tiny_model("llama"), tiny_tokenizer(), settings)
    with pytest.raises(StoreError, match=words):
        moments_module.second_moments(Layout.of(tiny_model("llama")), tiny_tokenizer(), settings)


# -- processes -------------------------------------------------------------------------------------------------------

FILL = """
import sys, torch
from nse_plugin.store import Store
store = Store(sys.argv[1])
for number in range(int(sys.argv[2]), 10**6 if sys.argv[3] == "on" else 60):
    address = f"{number:064x}"
    if store.get(address) is None:
        store.put(address, torch.full((40_000,), float(number)), "value", f"fact {number}")
    if number == 20:
        print("filling", flush=True)
"""


def fill(store, first="0", until="60"):
    command = [sys.executable, "-c", FILL, str(store.folder), first, until]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_two_processes_fill_one_store(store):
    both = [fill(store), fill(store)]
    assert [process.wait() for process in both] == [0, 0]
    assert store.verify() == (60, [])
    assert len(store.entries()) == 60
    for number in (0, 33, 59):
        assert torch.equal(store.get(f"{number:064x}"), torch.full((40_000,), float(number)))


def test_a_kill_while_writing_leaves_nothing_wrong(store):
    for _ in range(3):
        process = fill(store, until="on")
        assert process.stdout.readline() == "filling\n"
        time.sleep(0.02)
        process.kill()
        process.wait()
        count, damaged = store.verify()
        assert damaged == []
        assert count >= 21
        for entry in store.entries():
            assert store.get(entry.address)[0] == int(entry.address, 16)


@pytest.fixture
def disk(store):
    """The store's folder is a disk of 16 KiB; what this gives mounts it with other options."""
    if os.getuid() != 0:
        pytest.skip("mounting a small disk needs root")
    store.folder.mkdir()

    def mount(options: str = "size=16k") -> None:
        if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(store.folder)]).returncode:
            pytest.skip("no disk can be mounted here")

    mount()
    yield mount
    subprocess.run(["umount", "--lazy", str(store.folder)], check=True)  # tensors read from it may still be mapped


@pytest.mark.usefixtures("disk")
def test_a_full_disk(store, hparams, caplog):
    big = {number: torch.full((2_000,), float(number)) for number in range(3)}
    with caplog.at_level(logging.WARNING):
        store.put_all((f"{number:064x}", tensor, VALUE, "x") for number, tensor in big.items())
    assert "cannot be written to" in caplog.text
    assert "No space left" in caplog.text
    kept = store.verify()[0]
    assert kept < 3
    assert [store.get(f"{number:064x}") is not None for number in range(3)] == [number < kept for number in big]
    assert not list(store.folder.glob("??/.*"))
    assert session(hparams, store=str(store.folder)).values(tiny_facts()).isfinite().all()


def test_a_store_that_may_only_be_read(store, hparams, caplog, disk):
    disk("remount,size=1m")
    facts = tiny_facts()
    kept = session(hparams, store=str(store.folder)).values(facts[:2])
    disk("remount,ro")
    with pytest.raises(OSError, match="Read-only"):
        store.put("ab" * 32, Z, VALUE, "x")
    later = session(hparams, store=str(store.folder))
    with caplog.at_level(logging.WARNING):
        values = later.values(facts)
    assert later.values_from_store == 2
    assert torch.equal(values[:2], kept)
    assert torch.allclose(values, session(hparams).values(facts), atol=1e-6)
    assert caplog.text.count("cannot be written to") == 1
    assert "Read-only" in caplog.text
    assert store.verify() == (2, [])
