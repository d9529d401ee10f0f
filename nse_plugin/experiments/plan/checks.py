"""Checks of single settings. An error message is one sentence with the setting, its value and the remedy."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from nse_plugin.facts import Fact, FactError
from nse_plugin.facts.conflicts import check_round
from nse_plugin.support.suggestions import did_you_mean, number_of

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Settings = TypeVar("Settings", bound="DataclassInstance")


class PlanError(ValueError):
    """An experiment that cannot be run as asked; the message names the setting, its value and the remedy."""


class CommandLineError(PlanError):
    """A word on the command line that is not of the form NAME=VALUE; the message explains the form."""


def made(kind: type[Settings], where: str, values: Mapping[str, object]) -> Settings:
    """Make the dataclass `kind` from these values. where: name of the setting, for error messages. Raises PlanError
    for an unknown or a missing field."""
    known(where, values, [spec.name for spec in dataclasses.fields(kind)])
    try:
        return kind(**values)
    except TypeError as error:
        raise PlanError(f"{where}: {str(error).split(' ', 1)[-1]}.") from None


def known(where: str, given: Mapping[str, object], names: list[str]) -> None:
    """Raise PlanError for the first key of `given` that is not in `names`."""
    for name in given:
        if name not in names:
            hint = did_you_mean(name, names, f"known are {', '.join(names)}.")
            raise PlanError(f"{where}: {name!r} is not known; {hint}")


def positive(name: str, value: object) -> None:
    """Raise PlanError unless the value is an integer above 0."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise PlanError(f"{name} = {value!r} cannot be used: give an integer above 0.")


def check_rounds(facts: Sequence[Fact], size: int) -> None:
    """Raise PlanError if NSE would refuse a round when these facts are written `size` at a time."""
    for number, first in enumerate(range(0, len(facts), size), 1):
        try:
            check_round(facts[first : first + size])
        except FactError as error:
            raise PlanError(
                f"Round {number} of {number_of(size, 'fact')} cannot be written: {error} "
                "data.skip_bad=true leaves a fact that is there twice out, data.skip=N the first N facts."
            ) from None
