"""`python -m benchmarks`: see README.md beside this file."""

from __future__ import annotations

import argparse
import sys

import torch
from rich.console import Console

from benchmarks import breakdown, flat, memory, show, trend
from benchmarks.comparisons import easyedit, evaluation, keys, moments, rounds, solve, values
from benchmarks.comparisons.row import Peer, Plan, Row
from benchmarks.peers import NotHere
from benchmarks.peers.authors import AuthorsNSE
from benchmarks.peers.standin import StandIn
from benchmarks.setting import Setting

COMPARISONS = {
    "values": values.compare,
    "keys": keys.compare,
    "solve": solve.compare,
    "moments": moments.compare,
    "evaluation": evaluation.compare,
    "round": rounds.compare,
    "easyedit": easyedit.compare,
}
QUICK = Plan(repeats=1, most=10)
BY_NAME = ("memory", "flat")  # run only when named: the others already take a quarter of an hour
ROUNDS, QUICK_ROUNDS = 200, 24


def main() -> int:
    known = (*COMPARISONS, *BY_NAME)
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="CPU seconds: ours beside the peers'.")
    parser.add_argument("--only", default=",".join(COMPARISONS), help=f"some of {','.join(known)}; %(default)s")
    parser.add_argument("--quick", action="store_true", help="one repeat, ten facts at most, nothing kept")
    parser.add_argument("--profile", action="store_true", help="where our own time goes, and nothing else")
    arguments = parser.parse_args()
    chosen = arguments.only.split(",")
    unknown = sorted(set(chosen) - set(known))
    if unknown:
        parser.error(f"--only {','.join(unknown)}: choose among {', '.join(known)}")

    torch.set_num_threads(1)
    console = Console()
    plan = QUICK if arguments.quick else Plan()
    with console.status("SmolLM2 and its second moments"):
        setting = Setting.smollm2()
    if arguments.profile:
        show.shares(console, breakdown.shares(setting, plan.counts(20)[0]))
        return 0

    peers: list[Peer] = [StandIn(setting)]
    try:
        peers.append(AuthorsNSE(setting))
    except NotHere as reason:
        console.print(str(reason))
    rows: list[Row] = []
    least = show.ratio_floors(setting)
    for name in chosen:
        with console.status(f"{name} ({chosen.index(name) + 1} of {len(chosen)})"):
            if name == "memory":
                show.memory(console, memory.measure([peer.name for peer in peers], plan))
            elif name == "flat":
                show.flat(console, flat.measure(setting, QUICK_ROUNDS if arguments.quick else ROUNDS))
            else:
                try:
                    found = list(COMPARISONS[name](setting, peers, plan))
                except NotHere as reason:
                    console.print(str(reason))
                    continue
                show.comparison(console, name, found, least)
                rows += found
    show.floors_of_models(console, setting)
    if rows and not arguments.quick:
        # results of only some comparisons do not overwrite those of a full run
        name = "benchmark" if chosen == list(COMPARISONS) else "-".join(chosen)
        console.print(f"Kept in {show.keep(rows, least, name)}")
        for line in trend.record(rows):
            console.print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
