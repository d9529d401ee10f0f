"""Compute which rounds to undo, and the requests of the rounds to make again when single facts are retired."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from nse_plugin.facts import Fact, FactError
from nse_plugin.session.folder.lock import SessionError
from nse_plugin.session.history import History, Request


def rounds_to_keep(history: History, rounds: int | None, to: str | None) -> int:
    """Return how many rounds to keep if the last `rounds`, or all after the one whose id begins with `to`, are undone.

    rounds: None, without `to`: one. Raises ValueError if there are no such rounds or both arguments are given.
    """
    ids = [made.id for made in history.rounds]
    if to is not None:
        if rounds is not None:
            raise ValueError("Both rounds and to are given: give one of them.")
        found = [number for number, own in enumerate(ids, 1) if to and own.startswith(to)]
        if len(found) != 1:
            known = ", ".join(own[:8] for own in ids) or "none"
            problem = "is no round of the session" if not found else f"begins {len(found)} ids"
            raise ValueError(f"to = {to!r} {problem}: give one of {known}.")
        return found[0]
    count = 1 if rounds is None else rounds
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= len(ids):
        raise ValueError(f"rounds = {count!r} cannot be undone: the session has {len(ids)}.")
    return len(ids) - count


def requests_without(history: History, case_ids: Iterable[int | str] | int | str) -> tuple[int, list[Request]]:
    """Return the number of rounds before the first one with one of these facts, and the requests of the later rounds
    without these facts. Rounds without other facts are left out.

    case_ids: a text that is no fact's case_id is read as a number. Raises FactError for a case_id that no round has,
    SessionError if a round cannot be made again.
    """
    wanted = [case_ids] if isinstance(case_ids, int | str) else list(case_ids)
    asked = [made.request for made in history.rounds]
    known = {fact.case_id for request in asked if request for fact in request.facts} - {None}
    chosen = {one if one in known else _number(one) for one in wanted}
    if unknown := chosen - known:
        raise FactError(
            f"case_ids holds {sorted(map(str, unknown))[0]!r}, and no round has such a fact: `nse log --facts`, or "
            "`EditSession.rounds`, lists them."
        )
    if not chosen:
        raise FactError("case_ids is empty: give at least one.")
    holds = [request is not None and any(fact.case_id in chosen for fact in request.facts) for request in asked]
    first = holds.index(True)
    requests = []
    for number, request in enumerate(asked[first:], first + 1):
        if request is None or request.given_values:
            raise SessionError(f"Round {number} was written with given values, and cannot be made again without them.")
        if facts := tuple(_but(request.facts, chosen)):
            requests.append(dataclasses.replace(request, facts=facts))
    return first, requests


def _but(facts: Iterable[Fact], case_ids: Iterable[int | str | None]) -> list[Fact]:
    return [fact for fact in facts if fact.case_id not in {*case_ids}]


def _number(text: int | str) -> int | str:
    return int(text) if isinstance(text, str) and text.lstrip("-").isdecimal() else text
