"""`nse values` and `nse moments` with workers on this machine, and their errors."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path

import pytest
import torch
from tiny import tiny_facts

from nse_plugin.cli import main
from nse_plugin.hparams import NSEHyperParams
from nse_plugin.models.loading import load
from nse_plugin.session import EditSession
from nse_plugin.store import Store

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'nse-plugin[cluster]'")

from nse_plugin.cluster import pool as pool_module  # noqa: E402
from nse_plugin.cluster.pool import workers  # noqa: E402
from nse_plugin.cluster.values import fill_store  # noqa: E402
from nse_plugin.cluster.worker import ClusterError  # noqa: E402


@pytest.fixture(scope="module")
def ray_here():
    """A Ray that is connected to already: commands use it, and leave it."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def command(saved, hparams_file, tmp_path):
    """`nse values` for the tiny facts; what is given comes on top."""
    records = [{"prompt": fact.prompt, "subject": fact.subject, "target_new": fact.target_new} for fact in tiny_facts()]
    (tmp_path / "facts.json").write_text(json.dumps(records))
    given = {"--model": saved, "--hparams": hparams_file, "--facts": tmp_path / "facts.json", "--dtype": "float64"}

    def arguments(**others: object) -> list[str]:
        named = {**given, "--store": tmp_path / "store", **{f"--{name}": value for name, value in others.items()}}
        return ["values", *(str(word) for pair in named.items() for word in pair)]

    return arguments


def test_values_with_a_ray_of_its_own(command, saved, tmp_path, hparams_file, capsys):
    assert not ray.is_initialized()
    assert main(command(workers=1)) == 0
    assert not ray.is_initialized()
    assert capsys.readouterr().out.startswith("4 values: 4 computed by 1 worker in ")
    hparams, store = NSEHyperParams.from_hparams(hparams_file), Store(tmp_path / "store")
    alone = EditSession(*load(saved, "float64"), hparams).values(tiny_facts())
    hparams.store = str(store.folder)
    assert torch.allclose(EditSession(*load(saved, "float64"), hparams).values(tiny_facts()), alone, rtol=1e-10)
    assert len(store.entries()) == 4


def test_facts_that_are_there_twice_are_not_counted_as_read_and_those_of_one_subject_are_left(
    ray_here, command, tmp_path, capsys
):
    """To their rounds; but for corrections, which replace each other and so have a value each."""
    arguments = command(workers=1)
    records = json.loads((tmp_path / "facts.json").read_text())
    same = [{**records[0], "prompt": "{} is"}, {**records[1], "target_new": "Rome"}]
    (tmp_path / "facts.json").write_text(json.dumps([*records[:2], *records[1:3], *same]))
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert said.startswith("6 values: 3 computed by 1 worker in ")
    assert said.endswith(
        " 0 read from the store. 1 fact is there more than once. "
        "2 facts are about subjects of others or have several forms: their values are made in their rounds.\n"
    )
    (tmp_path / "facts.json").write_text(json.dumps(records))
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert said.startswith("4 values: 2 computed")
    assert said.endswith(" 2 read from the store.\n")


def test_moments_into_a_store(ray_here, saved, hparams_file, tmp_path, capsys):
    given = ["moments", "--model", saved, "--hparams", hparams_file, "--dtype", "float64"]
    assert main([*given, "--store", str(tmp_path / "there"), "--workers", "1"]) == 0
    said = capsys.readouterr()
    assert said.out.split() == [str(tmp_path / "there")]
    assert f"store: {tmp_path / 'there'}" in said.err
    assert main([*given, "--store", str(tmp_path / "here")]) == 0
    here, there = Store(tmp_path / "here"), Store(tmp_path / "there")
    assert len(here.entries()) == 2
    for entry in here.entries():
        assert torch.allclose(here.get(entry.address), there.get(entry.address), rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"workers": 0}, ["--workers 0: give a number above 0."]),
        ({"model": "./nosuch"}, ["--model ./nosuch: there is no such folder."]),
        ({"device": "cuda"}, ["--device cuda: there is no such device here; give cpu"]),
        ({"facts": "long.json"}, ["tokens long", "64 positions"]),
        ({"limit": 9}, ["has 4 facts", "9 are asked for"]),
    ],
)
def test_errors_are_one_line(ray_here, command, change, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("long.json").write_text(json.dumps([{"prompt": "{} is", "subject": "A" * 200, "target_new": "Rome"}]))
    assert main(command(**{"workers": 1, **change})) == 1
    said = capsys.readouterr().err.strip()
    assert said.startswith("nse: ")
    assert len(said.splitlines()) == 1
    assert all(word in said for word in words)


class StoppingStore(Store):
    """Stops a process before the values are handed out, and kills it half a second later."""

    process: int | None = None

    def get(self, address):
        if self.process:
            os.kill(self.process, signal.SIGSTOP)
            threading.Timer(0.5, os.kill, (self.process, signal.SIGKILL)).start()
            self.process = None
        return super().get(address)


def test_a_dead_worker_is_started_anew_but_not_for_ever(
    ray_here, saved, hparams_file, tmp_path, monkeypatch
):  # fmt: skip
    monkeypatch.setattr(pool_module, "RESTARTS", 1)
    store = StoppingStore(tmp_path / "store")
    with workers(1, None, saved, "float64", "cpu", NSEHyperParams.from_hparams(hparams_file)) as pool:
        list(pool.each("load", [()]))
        [(_, process)] = pool.places.values()
        store.process = process
        assert fill_store(store, tiny_facts(), pool).computed == 4
        assert pool.lost == 1
        assert [number for _, number in pool.places.values()] != [process]
        os.kill(next(iter(pool.places.values()))[1], signal.SIGKILL)
        with pytest.raises(ClusterError, match="All workers died, each 2 times"):
            list(pool.each("load", [()]))


def test_without_a_cluster_or_without_ray(command, capsys, monkeypatch):
    if ray.is_initialized():
        ray.shutdown()
    for address in ("127.0.0.1:1", "ray://127.0.0.1:1"):
        assert main(command(address=address)) == 1
        assert f"Ray cannot be had at '{address}'" in capsys.readouterr().err
    for name in [name for name in sys.modules if name.startswith("nse_plugin.cluster")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(command()) == 1
    assert "pip install 'nse-plugin[cluster]'" in capsys.readouterr().err
