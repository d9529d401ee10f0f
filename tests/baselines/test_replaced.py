"""Scopes in which something of EasyEdit's is another."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from nse_plugin.baselines.replaced import replaced


def test_within_it_is_the_other_and_afterwards_its_own_also_after_an_error():
    owner = SimpleNamespace(get_model="own")
    with replaced(owner, "get_model", "other"):
        assert owner.get_model == "other"
    assert owner.get_model == "own"
    with pytest.raises(KeyError), replaced(owner, "get_model", "other"):
        raise KeyError
    assert owner.get_model == "own"


def test_a_name_that_is_not_there_is_not_made():
    owner = SimpleNamespace()
    with pytest.raises(AttributeError), replaced(owner, "misspelt", 1):
        pass
    assert not vars(owner)
