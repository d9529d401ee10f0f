"""Modules that were moved can still be imported and patched under their former names."""

from __future__ import annotations

import importlib

import pytest


@pytest.mark.parametrize(
    ("former", "present"),
    [
        ("second_moments", "moments.provider"),
        ("models.past", "replay.prefix_cache"),
        ("evaluation.fluency", "evaluation.metrics.fluency"),
        ("experiments.cell", "experiments.run.cell"),
        ("experiments.comparison", "experiments.run.comparison"),
        ("experiments.instruments", "experiments.measure.instruments"),
    ],
)
def test_a_former_name_is_the_module_itself(former, present):
    """So that what a script puts in the place of a function is what runs."""
    assert importlib.import_module(f"nse_plugin.{former}") is importlib.import_module(f"nse_plugin.{present}")


@pytest.mark.parametrize(
    ("former", "names"),
    [
        ("datasets", {"PUBLISHED", "DatasetError", "Loaded", "load_facts"}),
        ("models.replay", {"ContextStates", "SpanReplay", "SuffixReplay"}),
        ("models.layout", {"Layout", "LayoutError", "_writers"}),
        ("models.prompts", {"EncodedPrompt", "encode_fact"}),
        ("models.writing", {"uniform_draws", "write"}),
        ("models.attention", {"shared_heads"}),
        ("models.embedded", {"_convert", "gguf_path", "read_model", "read_tokenizer"}),
        ("method.keys", {"FactSpan"}),
        ("method.values", {"_rows"}),
        ("second_moments", {"_text", "measure_moments"}),
        ("easyedit.algorithm", {"NSE", "fingerprint"}),
        ("experiments.cell", {"CellPlan", "_facts", "check_before", "run_cell"}),
        ("experiments.comparison", {"_Children"}),
        ("experiments.plan", {"DataChoice", "ModelChoice"}),
    ],
)
def test_a_module_has_what_scripts_take_from_it(former, names):
    assert names <= vars(importlib.import_module(f"nse_plugin.{former}")).keys()
