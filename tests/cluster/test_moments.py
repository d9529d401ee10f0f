"""Second moments of a text that is distributed over workers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from pool_here import PoolHere

from nse_plugin.hparams import NSEHyperParams
from nse_plugin.models.layout import Layout
from nse_plugin.models.loading import load
from nse_plugin.moments.corpora import token_batches
from nse_plugin.moments.measure import MomentSums, measure_moments

pytest.importorskip("ray", reason="Ray is not installed: pip install 'nse-plugin[cluster]'")

from nse_plugin.cluster import moments as module
from nse_plugin.cluster.moments import measure_on
from nse_plugin.cluster.worker import Worker

LAYERS = [1, 2]


@pytest.mark.parametrize("written_by", ["the model", "somebody"])
@pytest.mark.parametrize("begun", [0, 1])
def test_they_are_those_of_one_process_in_whichever_order_shards_come(
    written_by, begun, saved, hparams_file, tmp_path, monkeypatch
):
    monkeypatch.setattr(module, "_TOKENS_PER_NEURON", 1)  # short texts in several shards
    text = tmp_path / "river.txt"
    text.write_text("".join(f"The river runs through {n} old towns because of rain.\n" for n in range(40)))
    dataset, count = ("self", 8) if written_by == "the model" else (str(text), 40)
    hparams = replace(
        NSEHyperParams.from_hparams(hparams_file), mom2_dataset=dataset, mom2_n_samples=count, tokens_per_batch=128
    )
    (model, tokenizer), seen = load(saved, "float64"), []
    layout = Layout.of(model)
    batches = list(token_batches(layout, tokenizer, hparams, 0))
    pool = PoolHere([Worker(saved, "float64", "cpu", hparams, 1) for _ in range(2)], last_first=True)
    start = measure_moments(layout, LAYERS, batches[:begun]) if begun else MomentSums({})
    found = measure_on(pool)(layout, tokenizer, hparams, LAYERS, start, lambda sums: seen.append(sums.batches))
    expected = measure_moments(layout, LAYERS, batches)
    assert (found.tokens, found.batches) == (expected.tokens, len(batches))
    assert len(seen) > 1
    assert seen == sorted(seen)
    for layer in LAYERS:
        assert torch.allclose(found.sums[layer], expected.sums[layer], rtol=1e-10)
