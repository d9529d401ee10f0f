"""`nse store`."""

from __future__ import annotations

import pytest
import torch

from nse_plugin.cli import main
from nse_plugin.store import VALUE, Store


def test_looking_after_a_store(tmp_path, capsys):
    store = Store(tmp_path / "store")
    for number in range(3):
        store.put(f"{number}{'a' * 63}", torch.arange(5.0), VALUE, f"The capital of town {number} is Lyon")
    assert main(["store", "ls", str(store.folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["ADDRESS", "KIND", "BYTES", "OF"]
    assert lines[2].split() == [
        "1aaaaaaaaaaa",
        "value",
        str(store.entries()[1].bytes),
        *["The", "capital", "of", "town", "1", "is", "Lyon"],
    ]
    assert lines[-1].startswith("3 tensors, ")
    broken = sorted(store.folder.glob("*/*.safetensors"))[0]
    broken.write_bytes(b"cut")
    assert main(["store", "verify", str(store.folder)]) == 1
    assert capsys.readouterr().out == f"damaged, put aside: {broken}\n2 sound, 1 damaged\n"
    assert main(["store", "verify", str(store.folder)]) == 0  # what was damaged is out of the way
    assert capsys.readouterr().out == "2 sound, 0 damaged\n"
    assert main(["store", "gc", str(store.folder)]) == 0
    assert capsys.readouterr().out == "1 file removed, 3 bytes\n"
    assert main(["store", "gc", str(store.folder), "--unused-for", "0"]) == 0
    assert store.entries() == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ls", "/nowhere"], "There is no store '/nowhere'"),
        (["ls", "/tmp", "--unused-for", "3"], "--unused-for 3: it is for `gc`"),
        *((["gc", "/tmp", "--unused-for", days], f"--unused-for {days}: it is") for days in ("-3", "nan", "inf")),
    ],
)
def test_store_errors_are_one_line(arguments, words, capsys):
    assert main(["store", *arguments]) == 1
    assert words in capsys.readouterr().err
