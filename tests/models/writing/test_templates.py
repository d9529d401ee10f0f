"""Context templates."""

from __future__ import annotations

import dataclasses

import pytest
from tiny import tiny_tokenizer

from nse_plugin import EditSession


@pytest.mark.parametrize("templates", [[], ["The. {}"], ["{}", "no slot"], ["{}", "{} {}"]])
def test_templates_that_cannot_be_used(llama, hparams, templates):
    with pytest.raises(ValueError, match="cannot be used"):
        EditSession(llama, tiny_tokenizer(), hparams, templates=templates)


def test_templates_are_seeded_and_free_of_braces(llama, hparams):
    first = EditSession(llama, tiny_tokenizer(), hparams).templates
    assert first == EditSession(llama, tiny_tokenizer(), hparams).templates
    assert first != EditSession(llama, tiny_tokenizer(), dataclasses.replace(hparams, seed=1)).templates
    assert first[0] == "{}"
    assert len(first) == 6
    assert all(template.count("{") == template.count("}") == 1 for template in first)
    assert all(template.endswith(". {}") for template in first[1:])
