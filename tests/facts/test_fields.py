"""The descriptions of a fact's fields."""

from __future__ import annotations

import dataclasses

from nse_plugin.facts import Fact
from nse_plugin.facts.fields import FIELDS
from nse_plugin.facts.records import REQUIRED_FIELDS


def test_every_field_of_a_fact_is_explained_once():
    assert sorted(field.name for field in FIELDS) == sorted(field.name for field in dataclasses.fields(Fact))
    assert all(all(field) for field in FIELDS)


def test_those_that_every_edit_needs_are_the_required_ones():
    needed = {field.name for field in FIELDS if field.needed_for == "every edit"}
    assert needed == set(REQUIRED_FIELDS)
