#!/usr/bin/env bash
# lm-evaluation-harness 0.4.13 (transformers 5.5.4, torch 2.13.0): the log-likelihoods of a bfloat16 model, including
# the sums over a choice's tokens, are rounded to bfloat16 unless `softmax_dtype="float32"` is given. A choice of twenty
# tokens (about -70 nats) is therefore scored in steps of 0.5 nats. Most of 60 questions with four choices have choices
# with equal scores, of which the first counts as the answer, and some answers differ from those of the same bfloat16
# model with the softmax in float32. There is no warning. Comparing the `acc` of a bfloat16 model with that of an
# edited, merged or quantised one also compares this rounding.
#
# Observed: steps of 0.5; 45 of 60 questions with a tie, 0 with softmax_dtype="float32"; 10 answers differ.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0
"$folder/venv/bin/pip" install -q --disable-pip-version-check transformers==5.5.4 "lm_eval[hf]==0.4.13" datasets==5.2.0
cd "$folder"
HF_HUB_OFFLINE=1 HF_HOME="$folder/hf" venv/bin/python - 2> "$folder/log" <<'PYTHON' || { tail -5 "$folder/log" >&2; exit 1; }
import json
import random
from importlib.metadata import version
from pathlib import Path

import torch
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = "the a of to in town river boat red old new cold warm bread stone house bird tree hill road".split()

words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(["<eos>", "<unk>", *WORDS])}, unk_token="<unk>"))
words.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>", unk_token="<unk>", pad_token="<eos>")
torch.manual_seed(0)
model = LlamaForCausalLM(
    LlamaConfig(vocab_size=32, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4)
).eval()

draw = random.Random(0)
questions = [
    {
        "q": " ".join(draw.choices(WORDS, k=5)),
        "choices": [" ".join(draw.choices(WORDS, k=20)) for _ in range(4)],
        "gold": draw.randrange(4),
    }
    for _ in range(60)
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


def scores(**settings):
    """Return the log-likelihood of every choice, one row per question."""
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8, device="cpu", **settings)
    tasks = TaskManager(include_path="tasks", include_defaults=False)
    found = simple_evaluate(lm, tasks=["choices"], task_manager=tasks, bootstrap_iters=0, log_samples=True)
    samples = sorted(found["samples"]["choices"], key=lambda sample: sample["doc_id"])
    return [[float(answer[0]) for answer in sample["filtered_resps"]] for sample in samples]


model.to(torch.bfloat16)
coarse, fine = scores(), scores(softmax_dtype="float32")
ties = [sum(len(set(row)) < 4 for row in rows) for rows in (coarse, fine)]
best = [[row.index(max(row)) for row in rows] for rows in (coarse, fine)]
differ = sum(a != b for a, b in zip(*best))
in_steps = all((2 * score).is_integer() for row in coarse for score in row if abs(score) >= 64)
print("lm_eval", version("lm_eval"), "transformers", version("transformers"), "torch", torch.__version__)
print("first question, as it is:               ", coarse[0])
print("first question, softmax_dtype='float32':", [round(score, 3) for score in fine[0]])
print(f"scores below -64 are multiples of 0.5: {in_steps}")
print(f"questions with a tie: {ties[0]} of 60, with softmax_dtype='float32' {ties[1]}; answers that differ: {differ}")
assert in_steps and ties[0] >= 30 and ties[1] == 0 and differ >= 3
PYTHON
