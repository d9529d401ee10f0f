"""Size of edits as files, and their effect in llama.cpp: python -m benchmarks.shipping [FILE]

Facts of FILE (by default the demo's) are written into SmolLM2-135M with `solver: fast` in rounds of ten. It prints
(1) the sizes of a patch, adapters and an overlay next to the checkpoint, and how long each takes to write; (2) for
llama.cpp with the demo's GGUF file and the adapter, how many first tokens agree with those of the edited transformers
model; (3) for the same file requantised to Q4_0, how many targets llama.cpp begins to write: with the adapter of (2),
and with edits made on the dequantised Q4_0 weights; (4) sizes computed for Llama3-8B. Needs `gguf` and `xllamacpp`.
Takes ten minutes for 60 facts.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, dequantize, quantize

from nse_plugin import EditPatch, EditSession, Fact, NSEHyperParams
from nse_plugin.facts.files import DEMO, load_facts
from nse_plugin.models.embedded import embedded_model, embedded_model_folder, gguf_path
from nse_plugin.models.gguf.file import load_gguf
from nse_plugin.patch.served.llama_cpp import served_answers

ROUND = 10
MEGABYTE = 1e6


def requantised(file: Path, out: Path, kind: str) -> Path:
    """Copy a GGUF file to `out` with every matrix dequantised and quantised again to the type `kind`."""
    reader, wanted = GGUFReader(str(file)), GGMLQuantizationType[kind]
    writer = GGUFWriter(str(out), str(reader.fields["general.architecture"].contents()))
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name not in ("general.architecture", "general.file_type"):
            inner = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), field.types[0], sub_type=inner)
    for tensor in reader.tensors:
        if len(tensor.shape) < 2:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        else:
            weights = dequantize(tensor.data, tensor.tensor_type)
            writer.add_tensor(tensor.name, quantize(weights, wanted), raw_dtype=wanted)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


def edited(model: Any, tokenizer: Any, facts: Sequence[Fact]) -> EditPatch:
    session = EditSession(model, tokenizer, NSEHyperParams.for_model(model, solver="fast"))
    for first in range(0, len(facts), ROUND):
        session.edit(facts[first : first + ROUND])
    return EditPatch.of(session)


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def weigh(patch: EditPatch, model: Any, folder: Path) -> None:
    """Print the size of every file and the time to write it, and the times to load, verify, revert and apply the patch.

    model: the edited model.
    """
    checkpoint = embedded_model_folder()
    whole = (checkpoint / "model.safetensors").stat().st_size
    print(f"{len(patch.facts or ())} facts; checkpoint {whole / MEGABYTE:.1f} MB")
    made: dict[str, tuple[Callable[[], object], Path]] = {
        "patch": (lambda: patch.save(folder / "x.patch"), folder / "x.patch"),
        "PEFT adapter, float32": (lambda: patch.to_lora(folder / "lora"), folder / "lora/adapter_model.safetensors"),
        "GGUF adapter, float32": (lambda: patch.to_gguf_lora(folder / "x.gguf", gguf_path()), folder / "x.gguf"),
        "overlay": (lambda: patch.to_overlay(checkpoint, folder / "overlay"), folder / "overlay/model.safetensors"),
    }
    for name, (make, file) in made.items():
        took = seconds(make)
        size = file.stat().st_size
        print(
            f"  {name:<24} {size / MEGABYTE:8.2f} MB  {100 * size / whole:6.2f}%  written in {took:.2f} s", flush=True
        )
    actions: dict[str, Callable[[], object]] = {
        "load": lambda: EditPatch.load(folder / "x.patch"), "verify": lambda: patch.verify(model),
        "revert": lambda: patch.revert(model), "apply": lambda: patch.apply(model),
    }  # fmt: skip
    print("  " + ", ".join(f"{name} {seconds(action):.2f} s" for name, action in actions.items()), flush=True)


def first_tokens(model: Any, prompts: Sequence[Sequence[int]]) -> list[int]:
    with torch.no_grad():
        return [int(model(torch.tensor([prompt])).logits[0, -1].argmax()) for prompt in prompts]


def served_first(file: Path, prompts: Sequence[Sequence[int]], adapter: Path | None) -> list[int]:
    return [answer.tokens[0] for answer in served_answers(file, prompts, adapter, tokens=1)]


def alike(one: Sequence[int], other: Sequence[int]) -> str:
    return f"{sum(a == b for a, b in zip(one, other, strict=True))} of {len(one)}"


def sizes_of_llama3(facts: int) -> None:
    """Print sizes for five matrices [4096, 14336] in bfloat16 with all columns changed.

    The adapter has rank 1.2 per fact, as on SmolLM2.
    """
    layers, d, f, rank = 5, 4096, 14336, round(1.2 * facts)
    patch = layers * f * (2 * d * 2 + 8)
    print(f"Llama3-8B, computed for {facts} facts: checkpoint {2 * 8.03e9 / MEGABYTE:,.0f} MB; patch of all columns "
          f"{patch / MEGABYTE:,.0f} MB, of a tenth of them {patch / 10 / MEGABYTE:,.0f} MB; adapter of rank {rank} "
          f"{layers * rank * (d + f) * 4 / MEGABYTE:,.0f} MB in float32")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.shipping", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("file", nargs="?", default=DEMO, help="facts; the demo's where none is given")
    parser.add_argument("--facts", type=int, default=60)
    parser.add_argument("--skip", type=int, default=0)
    parser.add_argument("--no-llama-cpp", action="store_true", help="sizes and times alone")
    arguments = parser.parse_args()
    facts = load_facts(arguments.file, arguments.facts, skip=arguments.skip).facts
    sizes_of_llama3(100)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, tokenizer = embedded_model()
        patch = edited(model, tokenizer, facts)
        weigh(patch, model, folder)
        if arguments.no_llama_cpp:
            return
        prompts = [tokenizer(fact.text)["input_ids"] for fact in facts]
        targets = [tokenizer(" " + fact.target_new.strip())["input_ids"][0] for fact in facts]
        ours = first_tokens(model, prompts)
        print(f"transformers, edited: {alike(ours, targets)} targets begun")
        adapter = folder / "x.gguf"
        served = served_first(gguf_path(), prompts, adapter)
        print(f"llama.cpp, Q4_1 + adapter: {alike(served, ours)} first tokens as in transformers, "
              f"{alike(served, targets)} targets begun", flush=True)  # fmt: skip
        coarse = requantised(gguf_path(), folder / "Q4_0.gguf", "Q4_0")
        served = served_first(coarse, prompts, adapter)
        print(f"llama.cpp, Q4_0 + that adapter: {alike(served, targets)} targets begun", flush=True)
        model, tokenizer = load_gguf(coarse)
        own = edited(model, tokenizer, facts)
        files = {"adapter": (coarse, own.to_gguf_lora(folder / "own.gguf", coarse)),
                 "matrices requantised": (own.to_gguf(folder / "own-model.gguf", coarse), None)}  # fmt: skip
        for kind, (base, other) in files.items():
            served = served_first(base, prompts, other)
            print(f"llama.cpp, Q4_0, edited there, {kind}: {alike(served, targets)} targets begun", flush=True)


if __name__ == "__main__":
    main()
