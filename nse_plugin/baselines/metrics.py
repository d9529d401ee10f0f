"""EasyEdit's own evaluator as one more family of metrics, on a model in its final state.

EasyEdit scores each edit right after it is made; here its `compute_edit_quality` is asked about all facts at one time.
Its locality is the agreement with the unedited model's outputs, so it takes a reference from before the first edit.
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
LOCALITY = "neighborhood"  # a name of ours: EasyEdit's records hold several kinds of locality prompts
UNCUT = 1_000_000  # tokens; EasyEdit cuts a prompt with its target after `max_length`, the target's end first
Outputs = list[list[int]]  # tokens by locality prompt


def easyedit_reference(model: nn.Module, tokenizer: PreTrainedTokenizerBase, facts: Sequence[Fact]) -> list[Outputs]:
    """What the unedited model predicts at the locality prompts, by fact, as EasyEdit records it; plain numbers, fit for
    JSON."""
    return [_outputs(quality) for quality in _qualities(model, tokenizer, facts)]


def easyedit_scores(
    reference: Sequence[Outputs], model: nn.Module, tokenizer: PreTrainedTokenizerBase, facts: Sequence[Fact]
) -> pd.DataFrame:
    """One row a fact, in the order given; NaN where a fact has no such prompts. Columns, each a share of tokens:
    `easyedit_rewrite_acc`; `easyedit_rephrase_acc`, of the first rephrase prompt, the only one its records hold;
    `easyedit_locality_acc`, against the unedited model, the mean over the locality prompts.

    reference: of `easyedit_reference`, for the same facts. Every method is read teacher-forced, as EasyEdit reads all
    but its own GRACE.

    Raises ImportError when there is no EasyEdit, ValueError when the reference is of other facts.
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
    """EasyEdit's verdict on each fact."""
    register()
    compute = importlib.import_module("easyeditor.evaluate").compute_edit_quality
    device = input_device(model)
    number = easyedit_device(device)
    settings = SimpleNamespace(alg_name=ALG_NAME, device=number, max_length=UNCUT)
    tokenizer = ready_to_pad(tokenizer, left=True)
    with wheel.device_meant(settings):
        return [compute(model, type(model).__name__, settings, tokenizer, _record(fact), number) for fact in facts]


def _record(fact: Fact) -> dict[str, object]:
    """A fact as EasyEdit's evaluator reads it; it joins prompts and targets with a space itself."""
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
