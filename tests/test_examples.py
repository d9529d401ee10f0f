"""The examples, run as a user runs them, on a tiny saved model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import tiny_model, tiny_tokenizer

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
# What each example prints when it did its work.
SAYS = {
    "compare_baselines.py": "efficacy",
    "easyedit_from_yaml.py": "Marie Curie was born in London: accuracy",
    "loaded_model.py": "accuracy on the new target: before",
    "session_without_easyedit.py": "1 facts:",
}
HPARAMS = """
alg_name: NSE
model_name: "{model}"
device: cpu
layers: [1, 2]
alpha: 0.5
p: 0.8
v_lr: 5e-1
v_num_grad_steps: 3
mom2_update_weight: 10
mom2_n_samples: 8
batch_size: {batch_size}
"""


@pytest.mark.parametrize("example", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_example_runs(example, tmp_path):
    folder = tmp_path / "tiny-llama"  # EasyEdit chooses its loader by the name
    tiny_model("llama", torch.float32).save_pretrained(folder)
    tiny_tokenizer(bos=True).save_pretrained(folder)
    yaml = tmp_path / "tiny.yaml"
    yaml.write_text(HPARAMS.format(model=folder, batch_size=2))
    compared = [f"model.source={folder}", "methods=[NSE]", f"methods.NSE.preset={yaml}", "facts=2", "round=2"]
    own = {"easyedit_from_yaml.py": [yaml], "compare_baselines.py": compared}
    arguments = own.get(example, [folder, yaml])
    command = [sys.executable, EXAMPLES / example, *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert SAYS[example] in done.stdout
