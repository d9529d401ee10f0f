from __future__ import annotations

import pytest
from tiny import TEMPLATES, tiny_facts, tiny_tokenizer

from nse_plugin.models.prompts import encode_fact


@pytest.fixture
def rows():
    tokenizer = tiny_tokenizer()
    return [row for fact in tiny_facts() for row in encode_fact(tokenizer, fact, TEMPLATES).rewrites]
