"""One cell of a sweep."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from sweep_cells import plan_of

from nse_plugin.evaluation.metrics.probability import METRICS, score_facts
from nse_plugin.experiments.run import cell as cell_module
from nse_plugin.experiments.run.cell import run_cell
from nse_plugin.facts.files import load_facts
from nse_plugin.models.loading import load
from nse_plugin.session import EditSession


def test_a_cell_is_a_session_on_a_fresh_model(settings, tmp_path):
    """And the next cell meets the weights as they were."""
    for p in (0.4, 1.0):
        plan = plan_of(settings, tmp_path / "out", f"nse.p={p}", "nse.alpha=0.05")
        found = run_cell(plan)
        model, tokenizer = load(plan.model.source, "float32", "cpu")
        before = {name: weight.clone() for name, weight in model.named_parameters()}
        cached = cell_module.loaded(plan.model)[0]
        assert all(torch.equal(weight, before[name]) for name, weight in cached.named_parameters())
        facts = load_facts(plan.data.source, limit=6).facts
        session = EditSession(model, tokenizer, plan.hparams(model))
        reports = [session.edit(facts[start : start + 2]) for start in (0, 2, 4)]
        expected = score_facts(model, tokenizer, facts)
        for metric in METRICS:
            assert found.facts[metric].tolist() == expected[metric].tolist()
        assert np.allclose(found.facts["residual"], pd.concat([one.frame for one in reports])["residual"], rtol=1e-4)
