"""Sessions on disk, measured.

    python -m benchmarks.durable growth              # do rounds get slower or larger? 1,000 rounds, tiny model
    python -m benchmarks.durable kill [MODEL]        # SIGKILL at random instants of a session
    python -m benchmarks.durable reopen [MODEL]      # a new process for every round, against an uninterrupted session
    python -m benchmarks.durable masters [MODEL]     # what float32 master copies of bfloat16 matrices gain

MODEL: a folder, a hub name, or `embedded` (SmolLM2-135M, the default). Exit code 1 if a result is not as promised.
"""

from __future__ import annotations

import argparse
import sys

import torch

from benchmarks.durable import growth, kill, masters, reopen


def main() -> int:
    """Run the command named on the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.durable", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    for module in (growth, kill, reopen, masters):
        module.add(commands)
    options = parser.parse_args()
    torch.set_num_threads(1)  # results are equal to the bit only with the same number of threads
    return 0 if options.run(options) else 1


if __name__ == "__main__":
    sys.exit(main())
