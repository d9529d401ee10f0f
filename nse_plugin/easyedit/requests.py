"""Check what is asked of EasyEdit's editor before the editor does: it meets bad input with empty assertions."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from nse_plugin.facts import Fact, FactError, check_round
from nse_plugin.spelling import number_of

from .algorithm import ALG_NAME


def checked(method: Callable[..., Any]) -> Callable[..., Any]:
    """`edit` or `batch_edit`, which with alg_name NSE raises FactError for requests that cannot be edited.

    A prompt with `{}` gets its subject written out, as EasyEdit wants it.
    """
    signature = inspect.signature(method)

    @functools.wraps(method)
    def edit(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.alg_name != ALG_NAME:
            return method(self, *args, **kwargs)
        given = signature.bind(self, *args, **kwargs)
        options = next(name for name, one in signature.parameters.items() if one.kind is one.VAR_KEYWORD)
        subjects = given.arguments.get("subject", given.arguments.get(options, {}).get("subject"))
        prompts = given.arguments["prompts"]
        facts = _facts(_listed(prompts), _listed(given.arguments["target_new"]), _listed(subjects or ()))
        if method.__name__ == "batch_edit":
            size = self.hparams.batch_size
            for first in range(0, len(facts), size):
                check_round(facts[first : first + size])
        written_out = [fact.text for fact in facts]
        given.arguments["prompts"] = written_out[0] if isinstance(prompts, str) else written_out
        return method(*given.args, **given.kwargs)

    return edit


def _facts(prompts: Sequence[Any], targets: Sequence[Any], subjects: Sequence[Any]) -> list[Fact]:
    if not prompts:
        raise FactError("prompts is empty: give at least one fact.")
    for name, values in (("target_new", targets), ("subject", subjects)):
        if len(values) != len(prompts):
            given = f"{number_of(len(values), 'value')} for {number_of(len(prompts), 'prompt')}"
            raise FactError(f"{name} has {given}: give one for each.")
    fields = ("prompt", "target_new", "subject")
    return [
        Fact.from_record(dict(zip(fields, values, strict=True)), case_id=number)
        for number, values in enumerate(zip(prompts, targets, subjects, strict=True))
    ]


def _listed(value: Any) -> Sequence[Any]:
    return [value] if isinstance(value, str) else value
