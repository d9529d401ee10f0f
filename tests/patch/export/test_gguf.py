"""GGUF adapters, and GGUF files with the edited matrices, made for one file and refused for others."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_gguf import tiny_llama, write_gguf

from nse_plugin.patch.columns import PatchError
from nse_plugin.patch.export.gguf import write_gguf_lora, write_gguf_model

gguf = pytest.importorskip("gguf")


def test_the_adapter_is_the_change_in_llama_cpp_s_names(gguf_edited, tmp_path):
    file, _, patch = gguf_edited
    found = gguf.GGUFReader(str(patch.to_gguf_lora(tmp_path / "adapter.gguf", file)))
    tensors = {tensor.name: torch.tensor(tensor.data) for tensor in found.tensors}
    fields = {name: found.fields[name].contents() for name in ("general.type", "general.architecture", "adapter.type")}
    assert fields == {"general.type": "adapter", "general.architecture": "llama", "adapter.type": "lora"}
    assert len(tensors) == 4
    for layer in (1, 2):
        a, b = (tensors[f"blk.{layer}.ffn_down.weight.lora_{side}"] for side in "ab")
        assert found.fields["adapter.lora.alpha"].contents() == a.shape[0] == b.shape[1]
        exact = patch.change(layer)
        assert float((b.double() @ a.double() - exact).norm() / exact.norm()) < 1e-5


def test_only_the_edited_matrices_are_other_ones(gguf_edited, tmp_path):
    """Every other byte is the base's, and they are the edited ones up to quantisation."""
    file, _, patch = gguf_edited
    patch.to_gguf(tmp_path / "out.gguf", file)
    base, found = (gguf.GGUFReader(str(path)) for path in (file, tmp_path / "out.gguf"))
    edited = {f"blk.{layer}.ffn_down.weight": layer for layer in patch.columns}
    for before, after in zip(base.tensors, found.tensors, strict=True):
        assert before.name == after.name
        if before.name not in edited:
            assert np.array_equal(before.data, after.data)
            continue
        one = patch.columns[edited[before.name]]
        change = gguf.dequantize(after.data, after.tensor_type) - gguf.dequantize(before.data, before.tensor_type)
        wanted = patch.change(edited[before.name]).numpy()
        assert np.linalg.norm(change - wanted) / np.linalg.norm(one.new.numpy()) < 0.1
    whole = [path.read_bytes() for path in (file, tmp_path / "out.gguf")]
    assert len(whole[0]) == len(whole[1])
    changed = sum(tensor.n_bytes for tensor in base.tensors if tensor.name in edited)
    assert 0 < int((np.frombuffer(whole[0], np.uint8) != np.frombuffer(whole[1], np.uint8)).sum()) <= changed


def test_another_base_and_another_bos_are_said(gguf_edited, tmp_path, caplog):
    file, _, patch = gguf_edited
    with caplog.at_level(logging.WARNING):
        write_gguf_lora(patch, tmp_path / "adapter.gguf", file)
        assert not caplog.text
        other = write_gguf(tmp_path / "other.gguf", tiny_llama(), "Q5_0", adds_bos=True)
        write_gguf_lora(patch, tmp_path / "adapter.gguf", other)
    assert "other.gguf has other weights than the edits were written on" in caplog.text
    assert "is served with a BOS before every prompt, and the facts were written without one" in caplog.text
    with pytest.raises(PatchError, match="is not what was edited"):
        write_gguf_model(patch, tmp_path / "model.gguf", other)
    assert not (tmp_path / "model.gguf").exists()


def test_files_that_do_not_fit_are_refused(patch, gguf_edited, tmp_path):
    """`patch`: of another tiny model."""
    file, _, own = gguf_edited
    edited = write_gguf_model(own, tmp_path / "edited.gguf", file)
    for write, one, base, said in (
        (write_gguf_lora, patch, file, "the GGUF file is of another model"),
        (write_gguf_model, own, edited, "is not what was edited: give the file that the edits were made on"),
        (write_gguf_lora, own, tmp_path / "nowhere.gguf", "cannot be read as GGUF"),
    ):
        with pytest.raises(PatchError, match=said):
            write(one, tmp_path / "out.gguf", base)
    assert not (tmp_path / "out.gguf").exists()


@pytest.mark.parametrize("write", [write_gguf_lora, write_gguf_model])
def test_the_base_itself_is_never_overwritten(write, gguf_edited, monkeypatch):
    file, _, patch = gguf_edited
    before = file.read_bytes()
    monkeypatch.chdir(file.parent)
    (file.parent / "link.gguf").symlink_to(file)
    for name in (file, Path(file.name), Path("link.gguf")):
        with pytest.raises(PatchError, match="is the base model itself: name another file"):
            write(patch, name, file)
    assert file.read_bytes() == before
    assert sorted(path.name for path in file.parent.glob("*.gguf")) == ["link.gguf", file.name]


@pytest.mark.parametrize("write", [write_gguf_lora, write_gguf_model])
def test_an_adapter_is_no_base(write, gguf_edited, tmp_path):
    file, _, patch = gguf_edited
    adapter = write_gguf_lora(patch, tmp_path / "adapter.gguf", file)
    with pytest.raises(PatchError, match=r"adapter\.gguf holds no language model \(general\.type: adapter\)"):
        write(patch, tmp_path / "out.gguf", adapter)
    assert not (tmp_path / "out.gguf").exists()


def test_a_lower_rank_is_warned_of(gguf_edited, tmp_path, caplog):
    file, _, patch = gguf_edited
    write_gguf_lora(patch, tmp_path / "adapter.gguf", file, 1)
    assert "At rank 1 the adapter keeps" in caplog.text


def test_a_type_that_cannot_be_written_is_said(gguf_edited, tmp_path, monkeypatch):
    """K-quants: the package gguf reads them and does not write them."""
    file, _, patch = gguf_edited

    def refuse(*_):
        raise NotImplementedError

    monkeypatch.setattr(gguf, "quantize", refuse)
    with pytest.raises(PatchError, match=r"which the package gguf cannot write: make an adapter \(to_gguf_lora\)"):
        write_gguf_model(patch, tmp_path / "out.gguf", file)
    assert not (tmp_path / "out.gguf").exists()
