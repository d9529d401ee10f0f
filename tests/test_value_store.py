"""The store of values: found again only where nothing that z depends on has changed, and never served damaged."""

from __future__ import annotations

import dataclasses
import logging
import os
import threading

import pytest
import torch
from tiny import TEMPLATES, tiny_facts, tiny_model, tiny_moments, tiny_tokenizer

from nse_plugin import session as session_module
from nse_plugin.models.fingerprint import model_fingerprint
from nse_plugin.models.prompts import encode_fact
from nse_plugin.session import EditSession
from nse_plugin.value_store import ValueStore, fact_of

Z = torch.arange(5.0)


@pytest.fixture
def store(tmp_path):
    return ValueStore(tmp_path / "store")


def address(hparams, model=None, fact=None, tokenizer=None, templates=TEMPLATES) -> str:
    model, fact = model or tiny_model("llama"), fact or tiny_facts()[0]
    rows = [encode_fact(tokenizer or tiny_tokenizer(), fact, list(templates))]
    return ValueStore("").addresses(model_fingerprint(model), rows, hparams)[0]


def test_a_value_comes_back_to_the_bit(store):
    for value in (Z, Z.double() / 3, Z.bfloat16() / 3):
        store.put("ab" * 32, value, "The capital of France is Lyon")
        assert torch.equal(store.get("ab" * 32), value)
        assert store.get("ab" * 32).dtype == value.dtype
    assert [fact_of(path) for path in store.files()] == ["The capital of France is Lyon"]
    assert store.get("cd" * 32) is None


def test_what_z_does_not_depend_on_does_not_matter(hparams):
    others = {
        "p": 0.5, "alpha": 3.0, "mom2_update_weight": 7.0, "max_iterations": 1, "accumulate": False, "layers": [0, 2],
    }  # fmt: skip
    assert address(dataclasses.replace(hparams, **others)) == address(hparams)
    assert address(hparams, tokenizer=tiny_tokenizer(padding_side="left")) == address(hparams)


@pytest.mark.parametrize(
    "change",
    [
        {"layers": [1, 3]}, {"v_lr": 0.2}, {"v_num_grad_steps": 7}, {"v_weight_decay": 0.1}, {"kl_factor": 0.5},
        {"clamp_norm_factor": 4.0},
    ],
)  # fmt: skip
def test_every_setting_of_the_value_step_is_another_address(hparams, change):
    assert address(dataclasses.replace(hparams, **change)) != address(hparams)


def test_model_fact_template_and_tokenizer_are_part_of_the_address(hparams):
    model, fact = tiny_model("llama"), tiny_facts()[0]
    found = {
        address(hparams),
        address(hparams, model=tiny_model("llama", seed=1)),
        address(hparams, fact=dataclasses.replace(fact, target_new="Berlin")),
        address(hparams, fact=dataclasses.replace(fact, prompt="The old capital of {} is")),
        address(hparams, templates=TEMPLATES[:2]),
        address(hparams, tokenizer=tiny_tokenizer(bos=True)),
    }
    with torch.no_grad():
        model.model.norm.weight[0] += 1e-6  # one bit or two, far from any edited layer
    found.add(address(hparams, model=model))
    model = tiny_model("llama")
    model.config.rms_norm_eps *= 2
    found.add(address(hparams, model=model))
    assert len(found) == 8


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "other"])
def test_a_damaged_value_is_put_aside_and_never_served(store, damage, caplog):
    store.put("ab" * 32, Z, "x")
    [path] = store.files()
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        data[-3] ^= 4
    path.write_bytes({"cut": data[:-4], "flipped": data, "emptied": b"", "other": b"not a safetensors file"}[damage])
    with caplog.at_level(logging.WARNING):
        assert store.get("ab" * 32) is None
    assert "damaged" in caplog.text
    assert list(store.files()) == []
    assert path.with_suffix(".corrupt").is_file()
    store.put("ab" * 32, Z, "x")
    assert torch.equal(store.get("ab" * 32), Z)


def test_verify_counts_and_cleans(store):
    for number in range(4):
        store.put(f"{number}{'a' * 63}", Z + number, "x")
    broken = next(store.files())
    broken.write_bytes(b"")
    assert store.verify() == (3, [broken])
    assert store.verify() == (3, [])


def test_many_writers_of_one_value(store):
    threads = [threading.Thread(target=store.put, args=("ab" * 32, Z, "x")) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(store.get("ab" * 32), Z)
    assert [path.name for path in store.folder.rglob("*.*")] == [f"{'ab' * 32}.safetensors"]


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(store):
    store.folder.mkdir()
    store.folder.chmod(0o500)
    with pytest.raises(OSError, match="ermission"):
        store.put("ab" * 32, Z, "x")
    store.folder.chmod(0o700)


def session(hparams, **changes) -> EditSession:
    model = tiny_model("llama", torch.float32)
    return EditSession(
        model, tiny_tokenizer(), dataclasses.replace(hparams, **changes), moments=tiny_moments(model, [1, 2]),
        templates=TEMPLATES,
    )  # fmt: skip


def test_a_session_computes_each_value_once(store, hparams, monkeypatch):
    folder = str(store.folder)
    plain, first = session(hparams), session(hparams, value_store=folder)
    facts = tiny_facts()
    for one in (plain, first):
        one.edit(facts[:2])
        one.edit(facts[2:])
    assert len(list(store.files())) == len(facts)
    computed = []
    real = session_module.optimize_values
    monkeypatch.setattr(session_module, "optimize_values", lambda *a: computed.append(len(a[1])) or real(*a))
    again = session(hparams, value_store=folder, p=0.5, alpha=3.0)
    assert torch.equal(again.values(facts), first.values(facts))
    assert computed == []
    more = [*facts, dataclasses.replace(facts[0], subject="Italy")]
    again.values(more)
    assert computed == [1]
    assert torch.allclose(plain.values(facts), first.values(facts), rtol=1e-5)
    for layer in (1, 2):
        name = f"model.layers.{layer}.mlp.down_proj.weight"
        found, expected = (one.model.get_parameter(name) for one in (first, plain))
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_without_rewinding_values_are_of_this_moment_and_not_kept(store, hparams):
    one = session(hparams, value_store=str(store.folder), rewind=False)
    one.edit(tiny_facts()[:1])
    assert list(store.files()) == []


def test_a_value_that_is_not_finite_is_not_kept(store, hparams):
    one = session(hparams, value_store=str(store.folder))
    with torch.no_grad():
        one.model.model.layers[3].mlp.down_proj.weight.fill_(torch.nan)
    assert one.values(tiny_facts()[:1]).isnan().all()
    assert list(store.files()) == []


def test_a_store_that_cannot_be_written_to_stops_nothing(tmp_path, hparams, caplog):
    (tmp_path / "file").write_text("not a folder")
    one = session(hparams, value_store=str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING):
        assert one.values(tiny_facts()[:1]).isfinite().all()
    assert "cannot be written to" in caplog.text
