#!/usr/bin/env bash
# lm-evaluation-harness 0.4.13 (transformers 5.5.4, torch 2.13.0): a model whose logits are all NaN, for example after
# training or editing has diverged, is scored without an error or a warning. Every log-likelihood is NaN, and numpy's
# argmax of NaN values is 0, so on multiple-choice tasks the model counts as always answering the first choice. `acc` is
# then not NaN but the share of questions whose first choice is correct, a plausible number near chance. On a balanced
# task, the `acc` of a broken model cannot be distinguished from that of a model that has forgotten everything.
#
# Observed: the first choice is correct in 22 of 60 questions, and the NaN model's acc is 22/60 = 0.3667.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0
"$folder/venv/bin/pip" install -q --disable-pip-version-check transformers==5.5.4 "lm_eval[hf]==0.4.13" datasets==5.2.0
cd "$folder"
HF_HUB_OFFLINE=1 HF_HOME="$folder/hf" venv/bin/python - 2> "$folder/log" <<'PYTHON' || { tail -5 "$folder/log" >&2; exit 1; }
import json
import logging
import math
import warnings
from importlib.metadata import version
from pathlib import Path

import torch
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

NAMES = [f"w{number}" for number in range(20)]

words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(["<eos>", "<unk>", *NAMES])}, unk_token="<unk>"))
words.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>", unk_token="<unk>", pad_token="<eos>")
torch.manual_seed(0)
model = LlamaForCausalLM(
    LlamaConfig(vocab_size=32, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4)
).eval()
with torch.no_grad():
    model.model.layers[1].mlp.down_proj.weight.fill_(float("nan"))  # a training run that has diverged

rights = [0] * 22 + [1] * 13 + [2] * 13 + [3] * 12
questions = [
    {"q": f"w{n % 20} w{n % 7}", "choices": [f"w{(n + c) % 20} w{(3 * n + c) % 20}" for c in range(4)], "gold": right}
    for n, right in enumerate(rights)
]
Path("questions.jsonl").write_text("\n".join(map(json.dumps, questions)))
Path("tasks").mkdir()
Path("tasks/choices.yaml").write_text("""
task: choices
dataset_path: json
dataset_kwargs: {data_files: {test: questions.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{q}}"
doc_to_choice: "{{choices}}"
doc_to_target: gold
metric_list:
  - metric: acc
""")

said = []
handler = logging.Handler()
handler.emit = lambda record: said.append(record.getMessage())
logging.getLogger().addHandler(handler)
lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8, device="cpu")
tasks = TaskManager(include_path="tasks", include_defaults=False)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    found = simple_evaluate(lm, tasks=["choices"], task_manager=tasks, bootstrap_iters=0, log_samples=True)
said += [str(warning.message) for warning in caught]
accuracy = found["results"]["choices"]["acc,none"]
scores = [float(answer[0]) for sample in found["samples"]["choices"] for answer in sample["filtered_resps"]]
told = [line for line in said if "nan" in line.lower().split()]
print("lm_eval", version("lm_eval"), "transformers", version("transformers"), "torch", torch.__version__)
print(f"log-likelihoods: {len(scores)}, NaN: {sum(map(math.isnan, scores))}; messages that speak of NaN: {len(told)}")
print(f"acc = {accuracy:.4f}; share of questions whose first choice is right = {22 / 60:.4f}")
assert all(map(math.isnan, scores)) and not told
assert math.isclose(accuracy, 22 / 60)
PYTHON
