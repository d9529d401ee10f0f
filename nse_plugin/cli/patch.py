"""`nse patch`: a session's edits as files for this library, PEFT or llama.cpp, or as a checkpoint."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from nse_plugin.cli.options import add_json, add_model

if TYPE_CHECKING:
    from nse_plugin.cli.options import Commands


ROUNDS = {
    "number": "round", "id": "id", "time": "time (UTC)", "author": "author", "reason": "reason", "facts": "facts",
}  # fmt: skip


def add(commands: Commands) -> None:
    """Add the command and its options. commands: argparse's subparsers."""
    whole = commands.add_parser("patch", help="edits as a file: make, apply, revert, compare, join, export")
    steps = whole.add_subparsers(required=True, metavar="step")

    make = steps.add_parser("make", help="put a session's rounds into a patch; no model is needed")
    make.add_argument("--session", required=True, metavar="DIR", help="the session's folder")
    make.add_argument("--rounds", metavar="FIRST[:LAST]", help="which rounds, e.g. 3 or 2:5; default: all")
    facts = "leave the facts out; that hides nothing from a determined reader, who can recover what was edited"
    make.add_argument("--no-facts", action="store_true", help=facts)
    _to(make, _make, "the patch, one safetensors file")

    show = steps.add_parser("show", help="what is in a patch")
    _file(show)
    add_json(show)
    show.set_defaults(run=_show)

    for name, act, words in (
        ("apply", _apply, "edit a model with a patch, and save it"),
        ("revert", _revert, "take a patch out of an edited model, and save it"),
    ):
        command = steps.add_parser(name, help=words)
        _file(command)
        add_model(command)
        _to(command, act, "the folder to save the model in")

    diff = steps.add_parser("diff", help="how two patches differ")
    _file(diff)
    diff.add_argument("other", type=Path, help="the other patch")
    add_json(diff)
    diff.set_defaults(run=_diff)

    compose = steps.add_parser("compose", help="patches that were made one after another as one")
    compose.add_argument("files", nargs="+", type=Path, metavar="FILE", help="in the order they were made")
    _to(compose, _compose, "the patch")
    _add_exports(steps)


def _add_exports(steps: Commands) -> None:
    """Add the steps that write files for other programs."""
    lora = steps.add_parser("to-lora", help="a LoRA adapter for PEFT, transformers, vLLM and SGLang")
    _file(lora)
    _rank(lora)
    _to(lora, _lora, "the adapter's folder")

    gguf = steps.add_parser("to-gguf", help="for llama.cpp and Ollama: an adapter, or with --whole the edited model")
    _file(gguf)
    gguf.add_argument("--base", type=Path, required=True, metavar="FILE", help="the GGUF file that is served")
    gguf.add_argument(
        "--whole", action="store_true", help="the whole file, with the edited matrices quantised as there"
    )
    _rank(gguf)
    _to(gguf, _gguf, "the GGUF file")

    for name, words in (
        ("overlay", "the edited checkpoint, with links to the files that did not change"),
        ("merge", "the edited checkpoint, as a folder that stands alone"),
    ):
        command = steps.add_parser(name, help=words)
        _file(command)
        command.add_argument("--checkpoint", type=Path, required=True, metavar="DIR", help="the base model's folder")
        _to(command, _checkpoint, "the new folder")
        command.set_defaults(link=name == "overlay")


def _file(command: argparse.ArgumentParser) -> None:
    command.add_argument("file", type=Path, help="the patch")


def _rank(command: argparse.ArgumentParser) -> None:
    command.add_argument("--rank", type=int, help="fewer directions than the change has: facts are lost; default: all")


def _to(command: argparse.ArgumentParser, run: Callable[[argparse.Namespace], None], what: str) -> None:
    command.add_argument("--out", type=Path, required=True, metavar="PATH", help=what)
    command.set_defaults(run=run)


def _make(arguments: argparse.Namespace) -> None:
    from nse_plugin.patch.patch import EditPatch

    first, last = _rounds(arguments.rounds)
    patch = EditPatch.of(arguments.session, first, last)
    _said(patch.save(arguments.out, include_facts=not arguments.no_facts))


def _rounds(given: str | None) -> tuple[int, int | None]:
    if given is None:
        return 1, None
    first, colon, last = given.partition(":")
    try:
        return int(first), int(last) if last else (None if colon else int(first))
    except ValueError:
        raise ValueError(f"--rounds {given}: give a number, or two with a colon between them, e.g. 2:5.") from None


def _show(arguments: argparse.Namespace) -> None:
    from nse_plugin.cli.tables import print_json, print_table
    from nse_plugin.patch.patch import EditPatch

    patch = EditPatch.load(arguments.file)
    norms = patch.norms()
    layers = [
        {"layer": layer, "matrix": one.name, "columns": len(one.neurons), "of": one.shape[1], "norm": norms[layer]}
        for layer, one in patch.columns.items()
    ]
    if arguments.json:
        print_json({"model": patch.model_name, "rounds": patch.rounds, "layers": layers, "facts": patch.facts})
        return
    print(f"edits of {patch.model_name or 'a model'}")
    print_table([{**one, "id": one["id"][:8]} for one in patch.rounds], ROUNDS)
    print_table(layers, {name: name for name in layers[0]})
    if patch.facts is None:
        print("Its facts were left out.")
        return
    rows = [{name: fact.get(name) for name in ("case_id", "prompt", "subject", "target_new")} for fact in patch.facts]
    print_table(rows, {"case_id": "case", "prompt": "prompt", "subject": "subject", "target_new": "target"})


def _apply(arguments: argparse.Namespace) -> None:
    _swapped(arguments, "apply")


def _revert(arguments: argparse.Namespace) -> None:
    _swapped(arguments, "revert")


def _swapped(arguments: argparse.Namespace, step: str) -> None:
    from nse_plugin.cli.options import check_device
    from nse_plugin.models.loading import load
    from nse_plugin.patch.columns import PatchError
    from nse_plugin.patch.file import make_readable
    from nse_plugin.patch.patch import EditPatch
    from nse_plugin.support.files import file_in_the_way, folder_written_whole

    check_device(arguments)
    if arguments.out.exists():
        raise PatchError(f"--out {arguments.out} is there already: name a new folder.")
    if file := file_in_the_way(arguments.out.absolute()):
        raise PatchError(f"--out {arguments.out} cannot be made: {file} is a file; name another folder.")
    patch = EditPatch.load(arguments.file)
    model, tokenizer = load(arguments.model, arguments.dtype, arguments.device)
    getattr(patch, step)(model)
    with folder_written_whole(arguments.out) as aside:
        model.save_pretrained(aside)
        tokenizer.save_pretrained(aside)
        for file in aside.glob("*.safetensors"):
            make_readable(file)
    _said(arguments.out)


def _diff(arguments: argparse.Namespace) -> None:
    from nse_plugin.cli.tables import print_json, print_table
    from nse_plugin.patch.patch import EditPatch

    found = EditPatch.load(arguments.file).diff(EditPatch.load(arguments.other))
    if arguments.json:
        print_json(found)
        return
    print("of one base" if found["same_base"] else "of different bases")
    rows = [
        {
            "layer": layer, "columns": one["columns"][0], "columns there": one["columns"][1],
            "norm": one["norms"][0], "norm there": one["norms"][1], "distance": one["distance"],
        }
        for layer, one in found["layers"].items()
    ]  # fmt: skip
    print_table(rows, {name: name for name in rows[0]})
    for where in ("here", "there"):
        for fact in found[f"facts_only_{where}"] or ():
            print(f"only {where}: {fact['prompt']} | {fact['subject']} -> {fact['target_new']}")


def _compose(arguments: argparse.Namespace) -> None:
    from nse_plugin.patch.patch import EditPatch

    whole, *others = (EditPatch.load(file) for file in arguments.files)
    for other in others:
        whole = whole.compose(other)
    _said(whole.save(arguments.out))


def _lora(arguments: argparse.Namespace) -> None:
    from nse_plugin.patch.patch import EditPatch

    _said(EditPatch.load(arguments.file).to_lora(arguments.out, arguments.rank))


def _gguf(arguments: argparse.Namespace) -> None:
    from nse_plugin.patch.export.gguf import write_gguf_model
    from nse_plugin.patch.patch import EditPatch

    patch = EditPatch.load(arguments.file)
    if arguments.whole:
        _said(write_gguf_model(patch, arguments.out, arguments.base))
    else:
        _said(patch.to_gguf_lora(arguments.out, arguments.base, arguments.rank))


def _checkpoint(arguments: argparse.Namespace) -> None:
    from nse_plugin.patch.export.overlay import write_overlay
    from nse_plugin.patch.patch import EditPatch

    _said(write_overlay(EditPatch.load(arguments.file), arguments.checkpoint, arguments.out, arguments.link))


def _said(path: Path) -> None:
    """Print where the result was written, and its size."""
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    print(f"{path}: {sum(file.stat().st_size for file in files):,} bytes")
