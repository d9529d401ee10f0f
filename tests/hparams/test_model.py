"""A model's configuration and name, as hyperparameters are found by them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from nse_plugin.hparams.model import letters_of, text_config


def test_the_text_part_of_a_configuration():
    text = SimpleNamespace(hidden_size=8)
    assert text_config(SimpleNamespace(get_text_config=lambda: text)) is text
    assert text_config(text) is text


@pytest.mark.parametrize("name", ["Llama-3.2-1B", "llama3.2_1b", "LLAMA 3 2 1B"])
def test_spellings_of_a_name(name):
    assert letters_of(name) == "llama321b"
