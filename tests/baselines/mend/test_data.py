"""Facts in the form that EasyEdit's trainer takes."""

from __future__ import annotations

import pytest
from mend_cases import FACTS

from nse_plugin.baselines.mend import train_mend
from nse_plugin.facts import Fact, FactError


def test_facts_without_locality_prompts_are_named(tiny_llama, tiny_tokenizer, hparams_of):
    facts = [Fact("The capital of {} is", "Peru", "Arica", case_id=7)]
    with pytest.raises(FactError, match="fact 7 .*locality_prompts is empty"):
        train_mend(tiny_llama, tiny_tokenizer, facts, FACTS, hparams_of(tiny_llama), steps=1)
    with pytest.raises(FactError, match="facts is empty"):
        train_mend(tiny_llama, tiny_tokenizer, FACTS, [], hparams_of(tiny_llama), steps=1)
