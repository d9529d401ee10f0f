"""`nse moments`, and one-line error messages."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import textwrap
from importlib import import_module
from importlib.metadata import version

import pytest
import torch

import nse_plugin
from nse_plugin.cli import main
from nse_plugin.cli.main import _in_shell_words
from nse_plugin.hparams import HyperParamsError, NSEHyperParams
from nse_plugin.store import VALUE, Store


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"--model": "/nowhere/at all"}, ["--model /nowhere/at all: there is no such folder."]),
        ({"--model": "./nosuch"}, ["--model ./nosuch: there is no such folder."]),
        ({"--model": "/tmp"}, ["--model /tmp holds no model", "save_pretrained"]),
        ({"--layers": "1,9"}, ["--layers 1,9 is out of range: this model has layers 0 to 3."]),
        ({"--layers": "one"}, ["--layers one", "4,5,6"]),
        ({"--layers": "2,1"}, ["--layers 2,1: list them ascending"]),
        ({"--layers": None}, ["--layers is missing", "a llama of 4 layers", "--layers 4,5,6", "`nse tune`"]),
        ({"--samples": "0"}, ["--samples 0: give a number above 0."]),
        ({"--workers": "0"}, ["--workers 0: give a number above 0."]),
        ({"--text": "a.pdf"}, ["--text a.pdf: give", ".parquet"]),
        ({"--text": "nocorpus.jsonl"}, ["--text nocorpus.jsonl: there is no such file"]),
        ({"--hparams": "llama3-8"}, ["'llama3-8'", "did you mean 'llama3-8b'"]),
        ({"--store": f"{__file__}/a"}, [f"{__file__} is a file; name a folder."]),
        ({"--device": "cuda:0"}, ["--device cuda:0: there is no such device here; give cpu"]),
        ({"--device": "foo"}, ["--device foo: there is no such device here; give cpu"]),
        ({"--device": "foo", "--address": "auto"}, ["--device foo: there is no such device; give cpu, cuda, cuda:0"]),
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
    assert not re.search(r"mom2_|layers=|layers = |alpha", message)  # settings that were not typed
    assert captured.out == ""


@pytest.mark.parametrize("kind", [OSError, ImportError])
def test_other_peoples_long_errors_are_made_one_line(kind, saved, monkeypatch, capsys):
    def refuse(*_, **__):
        raise kind("Cannot load it.\n  Have you\n  logged in?")

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", refuse)
    assert main(["moments", "--model", saved, "--layers", "1"]) == 1
    assert capsys.readouterr().err == "nse: Cannot load it. Have you logged in?\n"


def test_a_name_that_is_neither_a_folder_nor_on_the_hub(monkeypatch, capsys):
    def refuse(*_, **__):
        raise OSError("We couldn't connect\nto the hub.")

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", refuse)
    for command in (
        ["moments"],
        ["values", "--facts", "demo", "--store", "s"],
        ["tune", "--facts", "demo"],
        ["ability"],
    ):
        assert main([*command, "--model", "mymodel"]) == 1
        assert capsys.readouterr().err == (
            "nse: --model mymodel: there is no such folder, and from the hub: We couldn't connect to the hub.\n"
        )


def test_lines_of_the_hub_appear_once(monkeypatch):
    code = """
        from nse_plugin.cli import main
        main(["facts", "check", "demo"])
        from huggingface_hub.utils import logging
        logging.get_logger("huggingface_hub.utils._http").warning("Retrying in 1s")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert done.stderr.count("Retrying in 1s") == 1


def test_a_traceback_on_request(saved):
    with pytest.raises(ValueError, match="--layers one"):
        main(["--traceback", "moments", "--model", saved, "--layers", "one"])


MODULES = {name: f"nse_plugin.cli.experiments.{name}" for name in ("compare", "sweep", "tune", "ability")}


@pytest.mark.parametrize(
    ("arguments", "goes_on"),
    [
        (["moments", "--model", "x"], True),
        (["compare", "facts=2"], True),
        (["sweep", "facts=2"], True),
        (["tune", "--model", "x", "--facts", "demo"], True),
        (["values", "--model", "x", "--facts", "demo", "--store", "s"], True),
        (["ability", "--model", "x"], False),
        (["demo"], False),
    ],
)
def test_an_interruption_is_no_error_message(arguments, goes_on, monkeypatch, capsys):
    def stop(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(import_module(MODULES.get(arguments[0], f"nse_plugin.cli.{arguments[0]}")), "run", stop)
    assert main(arguments) == 130
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == ("nse: stopped; the same command goes on from there." if goes_on else "nse: stopped.")


def test_the_version(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"nse-plugin {version('nse-plugin')}\n"
    assert nse_plugin.__version__ == version("nse-plugin")
    assert "__version__" in dir(nse_plugin)


MISTAKES_AND_HELP = [
    (["--version"], 0, "nse-plugin "),
    (["compare", "factz=6"], 1, "There is no setting 'factz'; did you mean 'facts'?"),
    (["compare", "facts=0"], 1, "facts = 0 cannot be used"),
    (["compare", "+metrics.fluensy={}"], 1, "did you mean 'fluency'?"),
    (["compare", "model=smolm2"], 1, "did you mean 'smollm2-135m'?"),
    (["compare", "--help"], 0, "metrics: ability, accuracy"),
    (["compare", "--help"], 0, "jobs         methods running at the same time"),
    (
        ["compare", "--facts", "4"],
        2,
        "'--facts' is no setting: settings are written NAME=VALUE, for example",
    ),
    (["compare", "facts=4", "methods", "NSE"], 2, "'methods' is no setting: settings are written NAME=VALUE"),
    (["sweep", "--facts", "4"], 2, "'--facts' is no setting: settings are written NAME=VALUE"),
    (["sweep", "nse.alfa=1"], 1, "There is no setting 'nse.alfa'; did you mean 'nse.alpha'?"),
    (["sweep", "round=0"], 1, "round = 0 cannot be used"),
    (["sweep", "--help"], 0, "nse.FIELD"),
]


def test_nothing_heavy_is_imported_for_mistakes_or_for_help():
    program = textwrap.dedent("""
        import contextlib, io, json, sys
        from nse_plugin.cli import main
        found = []
        for arguments in json.loads(sys.argv[1]):
            with io.StringIO() as said, contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                try:
                    code = main(arguments)
                except SystemExit as end:
                    code = end.code
                found.append((code, said.getvalue()))
            assert not {"torch", "transformers", "pandas"} & set(sys.modules), arguments
        print(json.dumps(found))
    """)
    asked = json.dumps([arguments for arguments, _, _ in MISTAKES_AND_HELP])
    done = subprocess.run([sys.executable, "-c", program, asked], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for (arguments, code, words), (found, said) in zip(MISTAKES_AND_HELP, json.loads(done.stdout), strict=True):
        assert found == code, (arguments, said)
        assert words in said, arguments


def test_a_closed_pipe_is_no_error(saved, tmp_path):
    """`nse store ls FOLDER | head -1`"""
    store = Store(tmp_path / "store")
    store.put("a" * 64, torch.zeros(1), VALUE, "x " * 100_000)
    command = [sys.executable, "-c", "import sys; from nse_plugin.cli import main; sys.exit(main(sys.argv[1:]))"]
    with subprocess.Popen(
        [*command, "store", "ls", str(store.folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["train-mend", "--train", "0"], "--train 0: give a number above 0."),
        (["train-mend", "--train", "-5"], "--train -5: give a number above 0."),
        (["train-mend", "--val", "0"], "--val 0: give a number above 0."),
        (["train-mend", "--steps", "0"], "--steps 0: give a number above 0."),
        (
            ["train-mend", "--skip", "-1", "--data", "demo"],
            "--skip -1: give the number of facts to leave out",
        ),
        (["tune", "--facts", "demo", "--device", "foo"], "--device foo: there is no such device here; give cpu"),
        (
            ["values", "--facts", "demo", "--store", "s", "--device", "foo"],
            "--device foo: there is no such device here",
        ),
        (["ability", "--device", "foo"], "--device foo: there is no such device here; give cpu"),
        (
            ["values", "--facts", "demo", "--store", "s", "--chat"],
            "--chat is given, and the tokenizer has no chat template: leave it out, or take a model tuned to chat.",
        ),
        (["values", "--facts", "demo", "--store", "s", "--chat", "both"], "--chat both: what is written in plain text"),
        (
            ["tune", "--facts", "demo", "--chat", "loud"],
            "--chat is loud, and the tokenizer has no chat template 'loud'",
        ),
    ],
)
def test_an_option_that_cannot_be_used_is_named(command, message, saved, capsys):
    model = "smollm2-135m" if command[0] == "train-mend" else saved
    assert main([*command, "--model", model]) == 1
    assert capsys.readouterr().err.startswith(f"nse: {message}")


@pytest.mark.parametrize("arguments", [[], ["moments"], ["moments", "--model", "x", "--dtype", "int8"], ["edit"]])
def test_a_command_line_that_is_none(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: nse" in capsys.readouterr().err


def test_a_model_without_tuned_hyperparameters_is_told_once_what_to_give():
    with pytest.raises(HyperParamsError) as caught:
        NSEHyperParams.for_model("unknown")
    said = _in_shell_words(str(caught.value), argparse.Namespace(is_hydra=False))
    assert said.startswith("No hyperparameters for 'unknown' (there are: gemma-2-2b, ")
    assert said.endswith("smollm2-360m): give the loaded model, or give --hparams FILE.yaml, which `nse tune` writes.")
