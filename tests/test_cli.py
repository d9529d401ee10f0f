"""`nse moments`, and errors of one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_model, tiny_tokenizer

from nse_plugin.cli import main
from nse_plugin.hparams import NSEHyperParams
from nse_plugin.models.layout import Layout
from nse_plugin.second_moments import second_moments
from nse_plugin.store import VALUE, Store


@pytest.fixture
def saved(tmp_path):
    """The folder of a saved tiny model."""
    folder = tmp_path / "town-model"
    tiny_model("llama", torch.float32).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


def test_moments_of_a_saved_model(saved, tmp_path, capsys):
    stats = tmp_path / "stats"
    arguments = ["--model", saved, "--layers", "1,2", "--samples", "30", "--stats-dir", str(stats)]
    assert main(["moments", *arguments]) == 0
    printed = [Path(line) for line in capsys.readouterr().out.split()]
    names = [f"model.layers.{layer}.mlp.down_proj_float32_mom2_30.npz" for layer in (1, 2)]
    assert printed == [stats / "town-model" / "self_stats" / name for name in names]
    hparams = NSEHyperParams(layers=[1, 2], alpha=1, mom2_n_samples=30, stats_dir=str(tmp_path / "others"))
    expected = second_moments(Layout.of(tiny_model("llama", torch.float32)), tiny_tokenizer(), hparams)
    for layer, path in zip((1, 2), printed, strict=True):
        with np.load(path, allow_pickle=False) as data:
            assert np.allclose(data["mom2.mom2"] / data["mom2.count"], expected[layer].numpy(), rtol=1e-5, atol=1e-6)


def test_moments_from_a_text_with_a_file_of_hyperparameters(saved, tmp_path, capsys):
    text, config = tmp_path / "river.txt", tmp_path / "mine.yaml"
    text.write_text("The river runs through the old town because of rain.\n" * 30)
    config.write_text(f"layers: [0, 3]\nalpha: 1\nstats_dir: {tmp_path}/stats\nmom2_n_samples: 20\n")
    assert main(["moments", "--model", saved, "--hparams", str(config), "--text", str(text)]) == 0
    said = capsys.readouterr()
    printed = [Path(line) for line in said.out.split()]
    assert [path.parent.name for path in printed] == ["river_stats"] * 2
    assert all(path.stem.endswith("_mom2_100000") for path in printed)  # the whole of it, as EasyEdit's
    assert f"mom2_dataset: {text}, mom2_n_samples: 100000" in said.err
    assert [path.name.split(".")[2] for path in printed] == ["0", "3"]
    assert all(path.is_file() for path in printed)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"--model": "/nowhere/at all"}, ["/nowhere/at all"]),
        ({"--layers": "1,9"}, ["9", "out of range", "0 to 3"]),
        ({"--layers": "one"}, ["--layers one", "4,5,6"]),
        ({"--layers": "2,1"}, ["layers = [2, 1]", "ascending"]),
        ({"--layers": None}, ["No tuned hyperparameters", "LlamaForCausalLM", "layers"]),
        ({"--samples": "0"}, ["mom2_n_samples = 0"]),
        ({"--text": "a.pdf"}, ["mom2_dataset = 'a.pdf'", ".parquet"]),
        ({"--hparams": "llama3-8"}, ["'llama3-8'", "did you mean 'llama3-8b'"]),
        ({"--device": "cuda:0"}, ["device cuda:0", "no CUDA", "use cpu"]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_errors_are_one_line(saved, tmp_path, capsys, monkeypatch, change, words):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    options = {"--model": saved, "--layers": "1,2", "--samples": "4", "--stats-dir": str(tmp_path / "stats"), **change}
    arguments = [part for option, value in options.items() if value is not None for part in (option, value)]
    assert main(["moments", *arguments]) == 1
    captured = capsys.readouterr()
    [message] = [line for line in captured.err.splitlines() if line.startswith("nse: ")]
    assert captured.err.endswith(message + "\n")
    assert "Traceback" not in captured.err
    assert all(word in message for word in words), message
    assert captured.out == ""


@pytest.mark.parametrize("kind", [OSError, ImportError])
def test_other_peoples_long_errors_are_made_one_line(kind, monkeypatch, capsys):
    def refuse(*_, **__):
        raise kind("Cannot load it.\n  Have you\n  logged in?")

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", refuse)
    assert main(["moments", "--model", "x"]) == 1
    assert capsys.readouterr().err == "nse: Cannot load it. Have you logged in?\n"


def test_a_traceback_on_request(saved):
    with pytest.raises(ValueError, match="--layers one"):
        main(["--traceback", "moments", "--model", saved, "--layers", "one"])


def test_an_interruption_is_no_error_message(monkeypatch, capsys):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("nse_plugin.cli._moments_hparams", stop)
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", lambda *_, **__: tiny_model("llama"))
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda *_, **__: tiny_tokenizer())
    assert main(["moments", "--model", "x"]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "nse: stopped."


@pytest.mark.parametrize("arguments", [[], ["moments"], ["moments", "--model", "x", "--dtype", "int8"], ["edit"]])
def test_a_command_line_that_is_none(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: nse" in capsys.readouterr().err


def test_looking_after_a_store(tmp_path, capsys):
    store = Store(tmp_path / "store")
    for number in range(3):
        store.put(f"{number}{'a' * 63}", torch.arange(5.0), VALUE, f"The capital of town {number} is Lyon")
    assert main(["store", "ls", str(store.folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == [
        "1aaaaaaaaaaa",
        "value",
        str(store.entries()[1].bytes),
        *["The", "capital", "of", "town", "1", "is", "Lyon"],
    ]
    assert lines[-1].startswith("3 tensors, ")
    broken = sorted(store.folder.glob("*/*.safetensors"))[0]
    broken.write_bytes(b"cut")
    assert main(["store", "verify", str(store.folder)]) == 0
    assert capsys.readouterr().out == f"damaged, put aside: {broken}\n2 sound, 1 damaged\n"
    assert main(["store", "gc", str(store.folder)]) == 0
    assert capsys.readouterr().out == "1 files removed, 3 bytes\n"
    assert main(["store", "gc", str(store.folder), "--unused-for", "0"]) == 0
    assert store.entries() == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ls", "/nowhere"], "There is no store '/nowhere'"),
        (["ls", "/tmp", "--unused-for", "3"], "--unused-for is for `gc`"),
        (["gc", "/tmp", "--unused-for", "-3"], "0 or more"),
    ],
)
def test_store_errors_are_one_line(arguments, words, capsys):
    assert main(["store", *arguments]) == 1
    assert words in capsys.readouterr().err
