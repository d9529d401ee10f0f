"""The steps of `nse patch` that write files for other programs: adapters, GGUF files and checkpoints."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from nse_plugin.cli.options import add_model, add_new_out, add_patch_file, check_device
from nse_plugin.cli.tables import print_written

if TYPE_CHECKING:
    from nse_plugin.cli.options import Commands
    from nse_plugin.patch.patch import EditPatch


def add(steps: Commands) -> None:
    """Add the steps and their options. steps: the subparsers of `nse patch`."""
    lora = steps.add_parser("to-lora", help="a LoRA adapter for PEFT, transformers, vLLM and SGLang")
    add_patch_file(lora)
    _rank(lora)
    add_new_out(lora, _lora, "the adapter's folder")

    gguf = steps.add_parser("to-gguf", help="for llama.cpp and Ollama: an adapter, or with --whole the edited model")
    add_patch_file(gguf)
    gguf.add_argument("--base", type=Path, required=True, metavar="FILE", help="the GGUF file that is served")
    gguf.add_argument(
        "--whole", action="store_true", help="the whole file, with the edited matrices quantised as there"
    )
    _rank(gguf)
    add_new_out(gguf, _gguf, "the GGUF file")

    for name, words in (
        ("overlay", "the edited checkpoint, with links to the files that did not change"),
        ("merge", "the edited checkpoint, as a folder that stands alone"),
    ):
        command = steps.add_parser(name, help=words)
        add_patch_file(command)
        command.add_argument(
            "--checkpoint", required=True, metavar="DIR", help="the base model's folder, or `embedded`"
        )
        add_new_out(command, _checkpoint, "the new folder")
        command.set_defaults(link=name == "overlay")


def _rank(command: argparse.ArgumentParser) -> None:
    command.add_argument("--rank", type=int, help="fewer directions than the change has: facts are lost; default: all")
    counting = command.add_argument_group("with --rank: count the facts that still hold on the base or edited model")
    add_model(counting, required=False)


def _lora(arguments: argparse.Namespace) -> None:
    from nse_plugin.patch.patch import EditPatch

    _check_rank(arguments)
    patch = EditPatch.load(arguments.file)
    held = _held(patch, arguments)
    print_written(patch.to_lora(arguments.out, arguments.rank))
    print(held, end="")


def _gguf(arguments: argparse.Namespace) -> None:
    from nse_plugin.patch.export.gguf import write_gguf_model
    from nse_plugin.patch.patch import EditPatch

    if arguments.whole and arguments.rank is not None:
        raise ValueError(
            f"--rank {arguments.rank}: an adapter has one, and --whole writes none; leave one of them out."
        )
    _check_rank(arguments)
    patch = EditPatch.load(arguments.file)
    held = _held(patch, arguments)
    if arguments.whole:
        print_written(write_gguf_model(patch, arguments.out, arguments.base))
    else:
        print_written(patch.to_gguf_lora(arguments.out, arguments.base, arguments.rank))
    print(held, end="")


def _check_rank(arguments: argparse.Namespace) -> None:
    if arguments.model is not None:
        if arguments.rank is None:
            raise ValueError(
                f"--model {arguments.model}: it counts the facts that hold at a --rank; give both or none."
            )
        check_device(arguments)


def _held(patch: EditPatch, arguments: argparse.Namespace) -> str:
    """Return a line with the number of facts that hold at --rank on --model; an empty text without --model."""
    from nse_plugin.models.loading import load
    from nse_plugin.patch.export.truncation import kept_at_rank

    if arguments.model is None:
        return ""
    model, tokenizer = load(arguments.model, arguments.dtype, arguments.device)
    found = kept_at_rank(patch, model, tokenizer, arguments.rank)
    return (
        f"{found['begun']} of {found['facts']} facts still hold at rank {found['rank']}, and {found['begun_whole']} "
        "with the whole change (the most likely token is the target's first).\n"
    )


def _checkpoint(arguments: argparse.Namespace) -> None:
    from nse_plugin.experiments.plan.model import source_folder
    from nse_plugin.patch.export.overlay import write_overlay
    from nse_plugin.patch.patch import EditPatch

    patch = EditPatch.load(arguments.file)
    checkpoint = source_folder(arguments.checkpoint) or Path(arguments.checkpoint)
    print_written(write_overlay(patch, checkpoint, arguments.out, arguments.link))
