#!/usr/bin/env bash
# safetensors 0.8.0 (numpy 2.4.6): saving the same tensors with the same metadata gives different bytes each time if the
# metadata have two or more entries. The entries are written in the order of a hash map with a random seed, so the
# header differs between two calls in one process and between processes. Anything that compares or stores files by their
# SHA-256 (a content-addressed cache, a reproducible build, a check whether an adapter was changed) sees different
# files. With one entry or none, the bytes are always the same. Models saved by transformers or PEFT have one entry
# ("format": "pt"), so only those who add entries of their own are affected.
#
# Observed in 200 saves in one process: 2 different files with two entries, 6 with three, 1 with one and with none.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check safetensors==0.8.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import hashlib
from importlib.metadata import version

import numpy
from safetensors.numpy import save

tensors = {"weight": numpy.arange(6, dtype=numpy.float32)}
entries = [("format", "pt"), ("base", "a"), ("author", "b")]


def files(count):
    """Return how many different files 200 saves with `count` metadata entries give."""
    metadata = dict(entries[:count]) or None
    return len({hashlib.sha256(save(tensors, metadata)).hexdigest() for _ in range(200)})


found = [files(count) for count in range(4)]
print("safetensors", version("safetensors"), "numpy", version("numpy"))
print("different files of 200 saves, by the number of metadata entries:", dict(enumerate(found)))
assert found[:2] == [1, 1]
assert found[2] == 2 and found[3] == 6
PYTHON
