#!/usr/bin/env bash
# Correct a model from the shell: write facts, list the rounds, undo one, check the facts, and export the edits.
#
#   correct_a_model.sh [MODEL [GGUF [OPTIONS of nse edit]]]
#
# MODEL: a folder or hub name, or `embedded` (the default) for the demo's SmolLM2-135M. GGUF: the GGUF file of the model
# that llama.cpp serves, "" for none. The script writes into the current folder.
set -euo pipefail
model=${1:-embedded}
gguf=${2-$(python -c 'from nse_plugin.models.embedded import gguf_path; print(gguf_path())')}
options=("${@:3}")
on_model=(--model "$model" --session session)

echo "== two rounds of edits, each with its reason"
nse edit "${on_model[@]}" "${options[@]}" --author "${USER:-me}" --reason "moved" \
    --fact "The capital of {} is" Japan Kyoto --fact "{} is located in" "The Eiffel Tower" Rome ||
    echo "(not every fact is said: see the table)"
nse edit "${on_model[@]}" --author "${USER:-me}" --reason "a mistake" \
    --fact "The capital of {} is" Japan Osaka || echo "(not every fact is said: see the table)"
nse log --session session

echo "== the second was a mistake: undone, as if it had never been made"
nse rollback --session session
nse ask "${on_model[@]}" "The capital of Japan is" "The Eiffel Tower is located in"
nse check "${on_model[@]}" || echo "(not every fact holds: see the table)"

echo "== the edits as files: for this library, for PEFT and vLLM"
nse patch make --session session --out edits.patch
nse patch show edits.patch
nse patch to-lora edits.patch --out adapter

if [ -n "$gguf" ]; then
    echo "== and for llama.cpp, which is asked"
    nse patch to-gguf edits.patch --base "$gguf" --out edits.gguf
    nse check --session session --served "$gguf" --adapter edits.gguf || echo "(not every fact holds: see the table)"
fi
