"""Options shared by several commands."""

from __future__ import annotations

import argparse

import pytest
import torch

from nse_plugin.cli.options import (
    add_json,
    add_model,
    add_new_out,
    add_patch_file,
    add_session,
    add_skip_bad,
    check_counts,
    check_device,
    say_at_once,
)


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_model(parser, required=False)
    add_session(parser)
    add_json(parser)
    add_skip_bad(parser)
    return parser.parse_args(words)


def test_what_they_are_called_and_where_they_start_from():
    assert vars(parsed("--session", "s")) == {
        "model": None, "device": "cpu", "dtype": "float32", "session": "s", "json": False, "skip_bad": False,
    }  # fmt: skip
    with pytest.raises(SystemExit):
        parsed("--session", "s", "--dtype", "int8")


def test_a_device_must_be_there_or_at_least_be_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    check_device(argparse.Namespace(device="cpu"))
    with pytest.raises(ValueError, match=r"--device cuda: there is no such device here; give cpu\.$"):
        check_device(argparse.Namespace(device="cuda"))
    check_device(argparse.Namespace(device="cuda:3"), elsewhere=True)
    with pytest.raises(ValueError, match="--device gpu: there is no such device; give cpu, cuda, cuda:0 or mps"):
        check_device(argparse.Namespace(device="gpu"), elsewhere=True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_device(argparse.Namespace(device="cuda:1"))
    with pytest.raises(ValueError, match="give cpu or cuda or cuda:0 or cuda:1"):
        check_device(argparse.Namespace(device="cuda:2"))


def test_counts_are_above_0_where_they_are_given():
    check_counts(argparse.Namespace(limit=None, round=1), "limit", "round")
    with pytest.raises(ValueError, match="--round 0: give a number above 0"):
        check_counts(argparse.Namespace(limit=2, round=0), "limit", "round")


def test_lines_go_to_standard_error(capsys):
    say_at_once("begun")
    assert capsys.readouterr() == ("", "begun\n")


def test_a_step_that_writes_refuses_a_path_that_exists(tmp_path):
    parser, ran = argparse.ArgumentParser(), []
    add_patch_file(parser)
    add_new_out(parser, lambda arguments: ran.append(arguments.out), "the file")
    for name, words in ((".", "is there already: name another"), ("file/new", "file is a file; name another folder")):
        (tmp_path / "file").touch()
        arguments = parser.parse_args(["x.patch", "--out", str(tmp_path / name)])
        with pytest.raises(ValueError, match=words):
            arguments.run(arguments)
    arguments = parser.parse_args(["x.patch", "--out", str(tmp_path / "new")])
    arguments.run(arguments)
    assert ran == [tmp_path / "new"]
