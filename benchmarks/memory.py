"""Peak memory of one round, each side in its own process.

The peak is that of the resident set (VmHWM on Linux) after the model and the second moments have been loaded. It
includes the model's 540 MB; `loaded` includes only the part of the model that has been read so far. Our side runs a
complete round. Peers compute the z of one fact only, with three steps: they process one fact at a time, so further
facts need no more memory.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.comparisons.row import OURS, Peer, Plan
from benchmarks.facts import make_facts
from benchmarks.peers.authors import AuthorsNSE
from benchmarks.peers.standin import StandIn
from benchmarks.setting import Setting

STEPS = 3
MB = 1e6
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def measure(peers: Sequence[str], plan: Plan) -> list[dict[str, Any]]:
    """Return {side, facts, loaded_mb, peak_mb} of rounds with 20 facts for each peer, and 5, 20 and 100 for ours."""
    rounds = [(peer, facts) for peer in peers for facts in plan.counts(20)]
    rounds += [(OURS, facts) for facts in plan.counts(5, 20, 100)]
    return [_in_its_own_process(side, facts) for side, facts in rounds]


def _in_its_own_process(side: str, facts: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.memory", side, str(facts)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).resolve().parents[1])
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[1:])} failed: {done.stderr.strip().splitlines()[-1:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {"side": side, "facts": facts, **found}


def peak_of(work: Callable[[], object]) -> tuple[float, float]:
    """Return the resident megabytes before `work`, and the peak while it ran."""
    _CLEAR.write_text("5")  # resets the peak to the current resident set
    before = resident("VmRSS")
    work()
    return before, resident("VmHWM")


def resident(field: str) -> float:
    """Return VmRSS or VmHWM of this process in megabytes."""
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024 / MB


def run_once(setting: Setting, side: str, count: int) -> None:
    """Run one round on `count` facts: complete for our side; one z and the update for peers."""
    facts = make_facts(count)
    if side == OURS:
        setting.session().edit(facts)
        return
    peer: Peer = AuthorsNSE(setting) if side == AuthorsNSE.name else StandIn(setting)
    z = peer.value(facts[0], STEPS)
    peer.edit(facts, z.expand(len(facts), -1))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description="Peak memory of one round, in MB.")
    parser.add_argument("side", choices=[OURS, StandIn.name, AuthorsNSE.name])
    parser.add_argument("facts", type=int)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    setting = Setting.smollm2()
    before, peak = peak_of(lambda: run_once(setting, arguments.side, arguments.facts))
    print(json.dumps({"loaded_mb": before, "peak_mb": peak}))


if __name__ == "__main__":
    main()
