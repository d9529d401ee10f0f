"""MEND's archive: where the file is, and which archives are refused."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import pytest
import torch
from mend_cases import MATRICES, REQUEST, changed, weights

from nse_plugin.baselines.mend import ArchiveError, apply_mend_to_model, archive_path


def test_without_an_archive_the_message_says_what_to_run(tiny_llama, tiny_tokenizer, hparams_of):
    hparams = hparams_of(tiny_llama)
    with pytest.raises(ArchiveError, match="run `nse train-mend --model smollm2-135m --data FACTS.json --out .*pt`"):
        apply_mend_to_model(tiny_llama, tiny_tokenizer, [REQUEST], hparams)


def test_the_archive_lies_in_the_cache_unless_told(tiny_llama, hparams_of, monkeypatch, tmp_path):
    monkeypatch.setenv("NSE_HOME", str(tmp_path))
    hparams = hparams_of(tiny_llama, archive=None, model_name="./models/some-llama")
    assert archive_path(hparams) == tmp_path / "mend" / "some-llama.pt"


class _Payload:
    def __reduce__(self):
        return Path.touch, (Path("ran.txt"),)


def test_an_archive_that_holds_code_is_refused_unopened(tiny_llama, tiny_tokenizer, hparams_of):
    hparams = hparams_of(tiny_llama)
    torch.save({"model": _Payload(), "inner_params": MATRICES["llama"]}, hparams.archive)
    with pytest.raises(ArchiveError, match="no archive of `nse train-mend`"):
        apply_mend_to_model(tiny_llama, tiny_tokenizer, [REQUEST], hparams)
    assert not Path("ran.txt").exists()
    pickle.loads(pickle.dumps(_Payload()))
    assert Path("ran.txt").exists()


def test_an_archive_for_other_matrices_is_refused(trained, tiny_llama, tiny_tokenizer):
    before = weights(tiny_llama)
    others = dataclasses.replace(trained, inner_params=["model.layers.2.mlp.down_proj.weight"])
    with pytest.raises(ArchiveError, match="was trained for inner_params"):
        apply_mend_to_model(tiny_llama, tiny_tokenizer, [REQUEST], others)
    assert changed(tiny_llama, before) == []
