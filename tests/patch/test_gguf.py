"""In llama.cpp, for real: the GGUF file of the demo's model, with an adapter and with the edited matrices in it."""

from __future__ import annotations

import dataclasses
import importlib.util

import numpy as np
import pytest
import torch
from sentences import demo_sentences

from nse_plugin import EditPatch, EditSession, NSEHyperParams
from nse_plugin.facts.files.load import load_facts
from nse_plugin.models.embedded import PACKAGE, embedded_model, gguf_path
from nse_plugin.patch.columns import PatchError
from nse_plugin.patch.gguf import write_gguf_lora, write_gguf_model
from nse_plugin.patch.served import served_answers

gguf = pytest.importorskip("gguf")
if importlib.util.find_spec(PACKAGE.replace("-", "_")) is None:
    pytest.skip(f"needs the package {PACKAGE}", allow_module_level=True)

EDITED = 8  # facts


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """(facts, their prompts as token ids, the edited model's next tokens, its patch)."""
    model, tokenizer = embedded_model(tmp_path_factory.mktemp("cache"))
    facts = load_facts("demo").facts
    corpus = demo_sentences(tmp_path_factory.mktemp("corpus"))
    hparams = NSEHyperParams.for_model(model, solver="fast", mom2_dataset=str(corpus), mom2_n_samples=1000)
    hparams = dataclasses.replace(hparams, stats_dir=str(tmp_path_factory.mktemp("stats")))
    templates = ["{}", "He said that it is so. {}", "In the year of her life, she went. {}"]
    session = EditSession(model, tokenizer, hparams, templates=templates)
    assert session.edit(facts[:EDITED]).frame["is_said"].all()
    prompts = [tuple(tokenizer(fact.text).input_ids) for fact in facts]
    with torch.no_grad():
        best = [int(model(torch.tensor([prompt])).logits[0, -1].argmax()) for prompt in prompts]
    return facts, prompts, best, EditPatch.of(session)


def first_tokens(answers):
    return [answer.tokens[0] for answer in answers]


@pytest.mark.parametrize("write", [write_gguf_lora, write_gguf_model])
def test_llama_cpp_says_what_the_edited_model_says(write, served, tmp_path):
    pytest.importorskip("xllamacpp")
    _, prompts, best, patch = served
    file = write(patch, tmp_path / "out.gguf", gguf_path())
    model, adapter = (gguf_path(), file) if write is write_gguf_lora else (file, None)
    found = first_tokens(served_answers(model, prompts[:EDITED], adapter, tokens=1))
    assert found == best[:EDITED]
    before = first_tokens(served_answers(gguf_path(), prompts[:EDITED], tokens=1))
    assert sum(a == b for a, b in zip(before, found, strict=True)) < EDITED / 2


def test_only_the_edited_matrices_are_other_ones(served, tmp_path):
    """Every other byte is the base's, and they are the edited ones up to quantisation."""
    patch = served[3]
    write_gguf_model(patch, tmp_path / "out.gguf", gguf_path())
    base, found = (gguf.GGUFReader(str(path)) for path in (gguf_path(), tmp_path / "out.gguf"))
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
    whole = [path.read_bytes() for path in (gguf_path(), tmp_path / "out.gguf")]
    assert len(whole[0]) == len(whole[1])
    changed = sum(tensor.n_bytes for tensor in base.tensors if tensor.name in edited)
    assert 0 < int((np.frombuffer(whole[0], np.uint8) != np.frombuffer(whole[1], np.uint8)).sum()) <= changed


def test_files_that_do_not_fit_are_refused(served, patch, tmp_path):
    """`patch`: of a tiny model."""
    own = served[3]
    edited = write_gguf_model(own, tmp_path / "edited.gguf", gguf_path())
    for write, one, base, said in (
        (write_gguf_lora, patch, gguf_path(), "the GGUF file is of another model"),
        (write_gguf_model, own, edited, "is not what was edited: give the file that the edits were made on"),
        (write_gguf_lora, own, tmp_path / "nowhere.gguf", "cannot be read as GGUF"),
    ):
        with pytest.raises(PatchError, match=said):
            write(one, tmp_path / "out.gguf", base)
    assert not (tmp_path / "out.gguf").exists()


def test_what_cannot_be_served_is_refused(tmp_path):
    pytest.importorskip("xllamacpp")
    with pytest.raises(PatchError, match="there is no such file"):
        served_answers(tmp_path / "nowhere.gguf", ["a"])
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    with pytest.raises(PatchError, match="llama.cpp cannot load"):
        served_answers(tmp_path / "x.gguf", ["a"])
