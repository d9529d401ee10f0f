"""The examples, run on a tiny saved model as a user runs them."""

from __future__ import annotations

import os
import subprocess
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
    "session_without_easyedit.py": "1 fact:",
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


def ended(command, programs, folder) -> str:
    """What it prints. programs: the folder of its `nse` and `python`."""
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("example", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_example_runs(example, tmp_path, request):
    folder = tmp_path / "tiny-llama"  # EasyEdit chooses its loader by the name
    model = tiny_model("llama", torch.float32)
    model.config.max_position_embeddings = 256  # the demo's prompts are long ones for so small a vocabulary
    model.save_pretrained(folder)
    tiny_tokenizer(bos=True).save_pretrained(folder)
    yaml = tmp_path / "tiny.yaml"
    yaml.write_text(HPARAMS.format(model=folder, batch_size=2))
    compared = [f"model.source={folder}", "methods=[NSE]", f"methods.NSE.preset={yaml}", "facts=2", "round=2"]
    own = {"easyedit_from_yaml.py": [yaml], "compare_baselines.py": compared}
    arguments = own.get(example, [folder, yaml])
    own_imports = "" if example != "compare_baselines.py" else "_with_easyedit"  # of its workers
    programs = request.getfixturevalue(f"forked_programs{own_imports}")
    assert SAYS[example] in ended([programs / "python", EXAMPLES / example, *arguments], programs, tmp_path)


def test_a_model_is_corrected_from_the_shell(tmp_path, forked_programs):
    """On a tiny model without a GGUF file; `tests/patch/test_served.py` asks llama.cpp."""
    tiny_model("llama", torch.float32).save_pretrained(tmp_path / "model")
    tiny_tokenizer(bos=True).save_pretrained(tmp_path / "model")
    (tmp_path / "tiny.yaml").write_text(HPARAMS.format(model=tmp_path / "model", batch_size=1))
    command = [EXAMPLES / "correct_a_model.sh", tmp_path / "model", "", "--hparams", "tiny.yaml"]
    said = ended(command, forked_programs, tmp_path)
    for words in ("a mistake", "1 round undone", "of 2 facts hold", "edits.patch:", "adapter:"):
        assert words in said, said
    assert "Osaka" not in said.partition("1 round undone")[2]


def test_the_sweep_and_its_notebook_run(tiny_experiment, tmp_path, monkeypatch, forked_programs):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    own = [*tiny_experiment, "facts=2", "nse.layers=[1,2]", "nse.v_num_grad_steps=2", "nse.mom2_n_samples=8"]
    own += [f"store={tmp_path / 'store'}", "hydra/launcher=basic"]  # on one core
    said = ended([EXAMPLES / "sweep_p_alpha.sh", *own], forked_programs, tmp_path)
    assert "30 cells: 2 values z computed, 58 read from the store" in said

    monkeypatch.setenv("SWEEP", str(tmp_path / "results" / "sweep"))
    notebook = nbformat.read(EXAMPLES / "sweep.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # as committed: no figures of somebody's run
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in shown) == 2
    assert "# Best of 30 cells on 2 facts: alpha = " in "".join(output.get("text", "") for output in shown)
