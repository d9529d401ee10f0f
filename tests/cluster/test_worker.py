"""The work of a single process of a cluster."""

from __future__ import annotations

import os
import socket
from dataclasses import replace

import pytest
import torch
from tiny import tiny_facts

from nse_plugin.hparams import HyperParamsError, NSEHyperParams
from nse_plugin.models.identity import ModelIdentity
from nse_plugin.models.layout import Layout
from nse_plugin.models.loading import load
from nse_plugin.moments.measure import measure_moments
from nse_plugin.session import EditSession

pytest.importorskip("ray", reason="Ray is not installed: pip install 'nse-plugin[cluster]'")

from nse_plugin.cluster.worker import ClusterError, Worker


@pytest.fixture
def worker(saved, hparams_file):
    return Worker(saved, "float64", "cpu", NSEHyperParams.from_hparams(hparams_file), 1)


def test_values_are_a_sessions_under_their_addresses(worker, saved, hparams_file):
    assert worker.load() == (socket.gethostname(), os.getpid())
    facts = tiny_facts()
    addresses, prompts = worker.encode([*facts, replace(facts[0], prompt="{} is")])
    assert len(set(addresses)) == len(prompts) == 3  # two about one subject are left to their round
    found = worker.values(prompts, addresses)
    session = EditSession(*load(saved, "float64"), NSEHyperParams.from_hparams(hparams_file))
    assert torch.allclose(found, session.values(facts[1:]), rtol=1e-10)
    with pytest.raises(ClusterError, match="has another model"):
        worker.values(prompts, addresses[::-1])


def test_moments_are_sums_over_its_part_of_the_text(saved, hparams_file):
    hparams = replace(NSEHyperParams.from_hparams(hparams_file), tokens_per_batch=256)
    worker = Worker(saved, "float64", "cpu", hparams, 1)
    worker.load()
    layout = Layout.of(load(saved, "float64")[0])
    own = ModelIdentity(layout.model).full()
    batches = [[[5, 6, 7], [8, 9]], [[3, 4]]]
    found, expected = worker.moments(batches, [1, 2], own), measure_moments(layout, [1, 2], batches)
    assert (found.tokens, found.batches) == (7, 2)
    for layer in (1, 2):
        assert torch.allclose(found.sums[layer], expected.sums[layer], rtol=1e-12)
    parts = [worker.moments(range(first, first + 1), [1], own) for first in (0, 1)]  # that the model writes
    both = worker.moments(range(2), [1], own)
    assert both.tokens == sum(part.tokens for part in parts)
    assert torch.allclose(both.sums[1], parts[0].sums[1] + parts[1].sums[1], rtol=1e-10)
    with pytest.raises(ClusterError, match="has another model"):
        worker.moments(batches, [1], "of another")


def test_values_without_rewinding_are_refused(saved, hparams_file):
    hparams = replace(NSEHyperParams.from_hparams(hparams_file), rewind=False)
    worker = Worker(saved, "float64", "cpu", hparams, 1)
    worker.load()
    with pytest.raises(HyperParamsError, match="rewind = False cannot be used"):
        worker.encode(tiny_facts())
