"""The output of `nse ability`."""

from __future__ import annotations

import torch
from task_files import questions_file
from tiny import tiny_model, tiny_tokenizer

from nse_plugin.cli import main


def test_a_log_is_as_wide_as_its_table(saved, tmp_path, capsys):
    edited = tmp_path / "a_folder_with_a_name_that_is_longer_than_a_narrow_column"
    tiny_model("llama", torch.float32, seed=7).save_pretrained(edited)
    tiny_tokenizer().save_pretrained(edited)
    file = tmp_path / "questions_about_everything_that_a_model_may_know.json"
    file.write_bytes(questions_file(tmp_path).read_bytes())
    arguments = ["--model", saved, "--edited", str(edited), "--questions", str(file), "--out", str(tmp_path / "out")]
    assert main(["ability", *arguments]) == 0
    [row] = [line for line in capsys.readouterr().out.splitlines() if "accuracy" in line and "all" not in line]
    assert file.stem in row
    assert edited.name in row
