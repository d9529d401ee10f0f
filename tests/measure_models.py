"""Measure every model type of the installed transformers and write the table that `nse models` prints:
`python -m tests.measure_models`, from the repository's root."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import torch
import transformers
from small_models import TYPES
from verdicts import measured

from nse_plugin.cli.tested_types import write_types

DATA = Path(__file__).parents[1] / "nse_plugin" / "data"


def main() -> None:
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    types = []
    for kind in TYPES:
        types.append(measured(kind))
        print(types[-1], flush=True)
    print(write_types(DATA, transformers.__version__, types), dict(Counter(one.verdict for one in types)))


if __name__ == "__main__":
    main()
