"""`nse store`: list, verify and clean up a store of values z and second moments."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from nse_plugin.support.suggestions import number_of

if TYPE_CHECKING:
    from nse_plugin.cli.options import Commands


def add(commands: Commands) -> None:
    """Add the command and its options. commands: argparse's subparsers."""
    command = commands.add_parser("store", help="look after a store of values z and second moments")
    command.add_argument(
        "what",
        choices=("ls", "verify", "gc"),
        help="ls: list entries; verify: verify checksums, and set damaged entries aside; gc: delete damaged entries "
        "that were set aside, and unfinished files of killed processes, older than an hour",
    )
    command.add_argument("folder", type=Path, help="what `store` was set to")
    command.add_argument("--unused-for", type=float, metavar="DAYS", help="gc: also tensors not used for DAYS days")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int | None:
    """Run the command. Returns 1 if `verify` found damage. Raises StoreError."""
    from nse_plugin.store import Store, StoreError

    days = arguments.unused_for
    if days is not None and (arguments.what != "gc" or not 0 <= days < float("inf")):
        raise StoreError(f"--unused-for {days:g}: it is for `gc`, and takes a number of days, 0 or more.")
    store = Store.at(arguments.folder)
    if arguments.what == "ls":
        entries = store.entries()
        if entries:
            print(f"{'ADDRESS':<12}  {'KIND':<10}  {'BYTES':>11}  OF")
        for entry in entries:
            print(f"{entry.address[:12]}  {entry.kind:<10}  {entry.bytes:>11,}  {entry.about}")
        print(f"{number_of(len(entries), 'tensor')}, {number_of(sum(entry.bytes for entry in entries), 'byte')}")
    elif arguments.what == "verify":
        sound, damaged = store.verify()
        for path in damaged:
            print(f"damaged, put aside: {path}")
        print(f"{sound} sound, {len(damaged)} damaged")
        return 1 if damaged else 0
    else:
        files, freed = store.gc(None if days is None else days * 86400)
        print(f"{number_of(files, 'file')} removed, {number_of(freed, 'byte')}")
    return None
