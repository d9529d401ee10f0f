"""A few facts in a new process, from a loaded model to the changed weights.

    python -m benchmarks.new_process [CHECKOUT]    # CHECKOUT: another checkout of this project, measured in turns

This is what somebody waits for who corrects a fact on the command line. Every process loads SmolLM2-135M, then opens a
session with given templates and writes one round; only the latter is timed (CPU seconds of one thread). The first
process of each checkout measures the second moments and fills the cache, and is not counted.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REPEATS = 3
# Runs in a process of its own, also on an older checkout: it uses public names only.
PROGRAM = """
import sys, time
from nse_plugin import EditSession, Fact, NSEHyperParams
from nse_plugin.models.embedded import embedded_model
model, tokenizer = embedded_model()
hparams = NSEHyperParams.for_model(model, mom2_dataset=sys.argv[1], mom2_n_samples=int(sys.argv[2]))
templates = ["{}", *(f"{sentence} {{}}" for sentence in (
    "The first thing that I saw when I arrived.", "Therefore it is clear that the results of the.",
    "Because of the heavy rain in the early morning.", "I have been thinking about the old house for.",
    "You can find a lot of people who like."))]
countries = "Japan Italy Spain Brazil Canada Egypt Kenya Chile Norway Poland India Turkey Greece Cuba Peru Mali".split()
facts = [Fact("The capital of {} is", country, "Kyoto") for country in countries[:int(sys.argv[3])]]
start = time.process_time()
EditSession(model, tokenizer, hparams, templates=templates).edit(facts)
print(time.process_time() - start)
"""


def main(arguments: list[str] | None = None) -> int:
    """Print the median of each checkout and their ratio."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.new_process",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkout", nargs="?", type=Path, help="another checkout of this project")
    parser.add_argument("--facts", type=int, default=1, choices=range(1, 17), metavar="1-16", help="facts of the round")
    parser.add_argument("--samples", type=int, default=128, help="texts for the second moments")
    options = parser.parse_args(arguments)
    if options.checkout is not None and not (options.checkout / "nse_plugin").is_dir():
        parser.error(f"{options.checkout} is no checkout of this project: it has no folder nse_plugin.")
    trees = {"this": ROOT} if options.checkout is None else {"this": ROOT, "other": options.checkout.resolve()}
    with tempfile.TemporaryDirectory() as folder:
        seconds = in_turns(trees, Path(folder), options.samples, options.facts)
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    for name, found in seconds.items():
        print(f"{name:<6} {medians[name]:6.2f} CPU s   ({', '.join(f'{one:.2f}' for one in found)})  {trees[name]}")
    if "other" in medians:
        print(f"other / this: {medians['other'] / medians['this']:.2f}")
    return 0


def in_turns(trees: Mapping[str, Path], folder: Path, samples: int, facts: int) -> dict[str, list[float]]:
    """Return the CPU seconds of `REPEATS` processes of each checkout, by name, after one that fills its cache."""
    text = folder / "text.txt"
    pages = sorted((ROOT / "docs").glob("*.md"))
    text.write_text("\n\n".join(page.read_text(encoding="utf-8") for page in pages), encoding="utf-8")
    seconds: dict[str, list[float]] = {name: [] for name in trees}
    for repeat in range(REPEATS + 1):
        for name, tree in trees.items():
            environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(tree), "NSE_HOME": str(folder / name)}
            command = [sys.executable, "-c", PROGRAM, str(text), str(samples), str(facts)]
            run = subprocess.run(
                command, env={**os.environ, **environment}, cwd=folder, check=True, stdout=subprocess.PIPE, text=True
            )
            if repeat:
                seconds[name].append(float(run.stdout))
    return seconds


if __name__ == "__main__":
    sys.exit(main())
