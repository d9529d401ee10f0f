"""EasyEdit's own evaluator as an additional family of metrics, for a model in its final state.

EasyEdit scores each edit directly after it is made; here its `compute_edit_quality` evaluates all facts on the same
model. Its locality is the agreement with the unedited model's outputs, so it needs a reference from before the first
edit.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from nse_plugin.easyedit import wheel
from nse_plugin.easyedit.algorithm import ALG_NAME
from nse_plugin.easyedit.editor import ready_to_pad
from nse_plugin.easyedit.register import register
from nse_plugin.facts import Fact
from nse_plugin.models.inputs import input_device
from nse_plugin.models.loading import easyedit_device

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

METRICS = ("easyedit_rewrite_acc", "easyedit_rephrase_acc", "easyedit_locality_acc")
LOCALITY = "neighborhood"  # chosen here: EasyEdit's records have several named kinds of locality prompts
UNCUT = 1_000_000  # tokens; EasyEdit truncates a prompt with its target at `max_length`, so the target is cut first
Outputs = list[list[int]]  # one fact's predicted tokens, by locality prompt


def easyedit_reference(model: nn.Module, tokenizer: PreTrainedTokenizerBase, facts: Sequence[Fact]) -> list[Outputs]:
    """Return the unedited model's predicted tokens at the locality prompts, per fact, as EasyEdit records them: plain
    numbers that can be stored as JSON."""
    return [_outputs(quality) for quality in _qualities(model, tokenizer, facts)]


def easyedit_scores(
    reference: Sequence[Outputs], model: nn.Module, tokenizer: PreTrainedTokenizerBase, facts: Sequence[Fact]
) -> pd.DataFrame:
    """Score every fact. Returns one row per fact, in the given order; NaN if a fact has no prompts of that kind.

    Each column is a share of tokens: `easyedit_rewrite_acc`; `easyedit_rephrase_acc`, for the first rephrase prompt,
    the only one in EasyEdit's records; `easyedit_locality_acc`, the agreement with the unedited model, as the mean over
    the locality prompts.

    reference: from `easyedit_reference`, for the same facts. Every method is evaluated with teacher forcing, as
    EasyEdit evaluates all methods but its own GRACE.

    Raises ImportError if there is no EasyEdit, ValueError if the reference is for other facts.
    """
    if [len(outputs) for outputs in reference] != [len(fact.locality_prompts) for fact in facts]:
        raise ValueError("The reference is not of these facts: make it with easyedit_reference, on the unedited model.")
    rows = []
    for quality, before in zip(_qualities(model, tokenizer, facts), reference, strict=True):
        kept = [np.mean(np.equal(now, then)) for now, then in zip(_outputs(quality), before, strict=True)]
        parts = (quality["rewrite_acc"], quality.get("rephrase_acc", []), kept)
        rows.append([float(np.mean(part)) if len(part) else np.nan for part in parts])
    return pd.DataFrame(rows, columns=list(METRICS))


def _qualities(model: nn.Module, tokenizer: PreTrainedTokenizerBase, facts: Sequence[Fact]) -> list[dict[str, Any]]:
    """Return EasyEdit's evaluation of each fact."""
    register()
    compute = importlib.import_module("easyeditor.evaluate").compute_edit_quality
    device = input_device(model)
    number = easyedit_device(device)
    settings = SimpleNamespace(alg_name=ALG_NAME, device=number, max_length=UNCUT)
    tokenizer = ready_to_pad(tokenizer, left=True)
    with wheel.device_meant(settings):
        return [compute(model, type(model).__name__, settings, tokenizer, _record(fact), number) for fact in facts]


def _record(fact: Fact) -> dict[str, object]:
    """Convert a fact to the record that EasyEdit's evaluator reads; the evaluator joins prompts and targets with a
    space."""
    record: dict[str, Any] = {
        "prompt": fact.text.rstrip(),
        "target_new": fact.target_new.strip(),
        "ground_truth": fact.target_true,
        "locality": {},
    }
    if fact.rephrase_prompts:
        record["rephrase_prompt"] = fact.rephrase_prompts[0].rstrip()
    if fact.locality_prompts:
        prompts, answers = zip(*fact.locality_prompts, strict=True)
        record["locality"][LOCALITY] = {
            "prompt": [prompt.rstrip() for prompt in prompts],
            "ground_truth": [answer.strip() for answer in answers],
        }
    return record


def _outputs(quality: dict[str, Any]) -> Outputs:
    outputs: Outputs = quality["locality"].get(f"{LOCALITY}_output", [])
    return outputs
