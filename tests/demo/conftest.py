from __future__ import annotations

import dataclasses

import pytest
import torch
from tiny import tiny_facts, tiny_model

from nse_plugin.facts import Fact


@pytest.fixture
def model():
    return tiny_model("llama", torch.float32)


@pytest.fixture
def facts() -> list[Fact]:
    """Four facts that can be scored: two rounds of two."""
    return [
        dataclasses.replace(
            fact,
            target_true="Paris",
            rephrase_prompts=(f"The old town of {fact.subject} is", f"She speaks of {fact.subject} and"),
            locality_prompts=(("Rome is an old town of", "Italy"), ("The river runs through", "Paris")),
        )
        for fact in tiny_facts()
    ]
