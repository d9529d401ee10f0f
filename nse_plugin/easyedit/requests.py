"""Check the arguments of EasyEdit's editor first, because its own assertions for bad input have no messages."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from nse_plugin.easyedit.algorithm import ALG_NAME
from nse_plugin.facts import Fact, FactError
from nse_plugin.facts.conflicts import check_round
from nse_plugin.facts.conversion import warn_of_found_subjects
from nse_plugin.support.suggestions import number_of


def checked(method: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap `edit` or `batch_edit` so that with alg_name NSE it raises FactError for requests that cannot be edited.

    In prompts with `{}` the subject is written out, as EasyEdit expects. A missing subject is found in the prompt.
    """
    signature = inspect.signature(method)

    @functools.wraps(method)
    def edit(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.alg_name != ALG_NAME:
            return method(self, *args, **kwargs)
        given = signature.bind(self, *args, **kwargs)
        options = next(name for name, one in signature.parameters.items() if one.kind is one.VAR_KEYWORD)
        places = given.arguments if "subject" in signature.parameters else given.arguments.setdefault(options, {})
        prompts = given.arguments["prompts"]
        facts = _facts(
            _listed(prompts),
            _listed(given.arguments["target_new"]),
            places.get("subject"),
            given.arguments.get("rephrase_prompts"),
        )
        if method.__name__ == "batch_edit":
            size = self.hparams.batch_size
            for first in range(0, len(facts), size):
                check_round(facts[first : first + size])
        is_one = isinstance(prompts, str)
        for where, name, values in (
            (given.arguments, "prompts", [fact.text for fact in facts]),
            (places, "subject", [fact.subject for fact in facts]),
        ):
            where[name] = values[0] if is_one else values
        return method(*given.args, **given.kwargs)

    return edit


def _facts(prompts: Sequence[object], targets: Sequence[object], subjects: object, rephrased: object) -> list[Fact]:
    """Convert the editor's arguments to facts. rephrased: rephrased prompts, which help to find a missing subject.
    Raises FactError."""
    if not prompts:
        raise FactError("prompts is empty: give at least one fact.")
    subjects = [None] * len(prompts) if subjects is None else _listed(subjects)
    for name, values in (("target_new", targets), ("subject", subjects)):
        if len(values) != len(prompts):
            given = f"{number_of(len(values), 'value')} for {number_of(len(prompts), 'prompt')}"
            raise FactError(f"{name} has {given}: give one for each.")
    rephrased = _listed(rephrased or ())
    rephrased = rephrased if len(rephrased) == len(prompts) else [None] * len(prompts)  # EasyEdit reports this
    records = [
        {"prompt": prompt, "target_new": target, "subject": subject, "rephrase_prompt": None if subject else other}
        for prompt, target, subject, other in zip(prompts, targets, subjects, rephrased, strict=True)
    ]
    facts = [Fact.from_record(record, case_id=number) for number, record in enumerate(records)]
    warn_of_found_subjects(records, facts, "NSE: ")
    return facts


def _listed(value: Any) -> Sequence[Any]:
    return [value] if isinstance(value, str) else value
