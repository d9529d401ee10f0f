"""`nse patch`: a session's edits as files for this library, PEFT or llama.cpp, or as a checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from nse_plugin.cli import patch_exports
from nse_plugin.cli.options import add_json, add_model, add_new_out, add_patch_file, check_device
from nse_plugin.cli.tables import print_written

if TYPE_CHECKING:
    from nse_plugin.cli.options import Commands

ROUNDS = {
    "number": "round", "id": "id", "time": "time (UTC)", "author": "author", "reason": "reason", "facts": "facts",
}  # fmt: skip


def add(commands: Commands) -> None:
    """Add the command and its options. commands: argparse's subparsers."""
    whole = commands.add_parser("patch", help="edits as a file: make, apply, revert, verify, compare, join, export")
    steps = whole.add_subparsers(required=True, metavar="step")

    make = steps.add_parser("make", help="put a session's rounds into a patch; no model is needed")
    make.add_argument("--session", required=True, metavar="DIR", help="the session's folder")
    make.add_argument("--rounds", metavar="FIRST[:LAST]", help="which rounds, e.g. 3 or 2:5; default: all")
    facts = "leave the facts out; that hides nothing from a determined reader, who can recover what was edited"
    make.add_argument("--no-facts", action="store_true", help=facts)
    add_new_out(make, _make, "the patch, one safetensors file")

    show = steps.add_parser("show", help="what is in a patch")
    add_patch_file(show)
    add_json(show)
    show.set_defaults(run=_show)

    for name, act, words in (
        ("apply", _apply, "edit a model with a patch, and save it"),
        ("revert", _revert, "take a patch out of an edited model, and save it"),
    ):
        command = steps.add_parser(name, help=words)
        add_patch_file(command)
        add_model(command)
        add_new_out(command, act, "the folder to save the model in")

    verify = steps.add_parser(
        "verify",
        help="does a model have a patch's edits, is it unedited, or neither?",
        epilog="Exit code: 0 the model has the edits, and no other change; 1 it is unedited, or another model.",
    )
    add_patch_file(verify)
    add_model(verify)
    verify.set_defaults(run=_verify)

    diff = steps.add_parser("diff", help="how two patches differ")
    add_patch_file(diff)
    diff.add_argument("other", type=Path, help="the other patch")
    add_json(diff)
    diff.set_defaults(run=_diff)

    compose = steps.add_parser("compose", help="patches that were made one after another as one")
    compose.add_argument("files", nargs="+", type=Path, metavar="FILE", help="in the order they were made")
    add_new_out(compose, _compose, "the patch")
    patch_exports.add(steps)


def _make(arguments: argparse.Namespace) -> None:
    from nse_plugin.patch.patch import EditPatch

    first, last = _rounds(arguments.rounds)
    patch = EditPatch.of(arguments.session, first, last)
    print_written(patch.save(arguments.out, include_facts=not arguments.no_facts))


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
    from nse_plugin.models.loading import load
    from nse_plugin.patch.file import make_readable
    from nse_plugin.patch.patch import EditPatch
    from nse_plugin.support.files import folder_written_whole

    check_device(arguments)
    patch = EditPatch.load(arguments.file)
    model, tokenizer = load(arguments.model, arguments.dtype, arguments.device)
    getattr(patch, step)(model)
    with folder_written_whole(arguments.out) as aside:
        model.save_pretrained(aside)
        tokenizer.save_pretrained(aside)
        for file in aside.glob("*.safetensors"):
            make_readable(file)
    print_written(arguments.out)


def _verify(arguments: argparse.Namespace) -> int:
    """Return 0 if the model has the edits, 1 if it is unedited. Raises PatchError if it is neither."""
    from nse_plugin.models.loading import load
    from nse_plugin.patch.columns import PatchError
    from nse_plugin.patch.patch import EditPatch

    check_device(arguments)
    patch = EditPatch.load(arguments.file)
    model, _ = load(arguments.model, arguments.dtype, arguments.device)
    try:
        found = patch.verify(model)
    except PatchError as error:
        raise PatchError(
            f"{arguments.model} is neither the unedited model nor the one with the edits of {arguments.file}: {error}"
        ) from error
    is_edited = found == "applied"
    print(f"{arguments.model} {'has' if is_edited else 'is unedited: it does not have'} the edits of {arguments.file}.")
    return 0 if is_edited else 1


def _diff(arguments: argparse.Namespace) -> None:
    from nse_plugin.cli.tables import print_json, print_table
    from nse_plugin.patch.patch import EditPatch

    found = EditPatch.load(arguments.file).diff(EditPatch.load(arguments.other))
    if arguments.json:
        print_json(found)
        return
    print("of one base" if found["same_base"] else "of different bases")
    print("the same change" if found["same_change"] else "different changes")
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
    print_written(whole.save(arguments.out))
