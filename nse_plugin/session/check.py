"""Check whether the current model still predicts every written fact, and which later facts overwrote the lost ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nse_plugin.facts import Fact
from nse_plugin.facts.texts import SLOT
from nse_plugin.method.multilayer import FAILED
from nse_plugin.method.subjects import by_fact, forms_of
from nse_plugin.method.targets import predictions
from nse_plugin.session.edited import EditedModel, prompts_of
from nse_plugin.session.folder.record import RoundRecord
from nse_plugin.session.report import KEPT

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class _Written:
    """A fact of a round. probability: of the fact's target after that round."""

    fact: Fact
    round: int
    status: str
    probability: float


def check_facts(edited: EditedModel, records: Sequence[RoundRecord]) -> pandas.DataFrame:
    """Return the table of `EditSession.check`."""
    import pandas

    written = _written_facts(records)
    facts = [one.fact for one in written]
    hparams = edited.hparams
    forms = forms_of(edited.tokenizer, facts, [SLOT], hparams.chat, edited.layout, hparams.target_eos)
    predicted = predictions(edited.layout, prompts_of(forms)) if forms else []
    holds = [all(predicted[place].is_said for place in places) for places in by_fact(forms)]
    now = [min(predicted[place].probability for place in places) for places in by_fact(forms)]
    return pandas.DataFrame(
        {
            "case_id": [fact.case_id for fact in facts],
            "subject": [fact.subject for fact in facts],
            "prompt": [fact.text for fact in facts],
            "target": [fact.target_new for fact in facts],
            "holds": holds,
            "probability": now,
            "probability_after_round": [one.probability for one in written],
            "round": [one.round for one in written],
            "status": [one.status for one in written],
            "overwritten_by": _overwritten_by(written, holds),
        }
    )


def _written_facts(records: Sequence[RoundRecord]) -> list[_Written]:
    """Return the facts of all rounds in order, except those with status `kept`.

    A fact of several rounds is listed once, for the last of them.
    """
    found: dict[Hashable, _Written] = {}
    for record in records:
        after = record.report.frame["target_after"].tolist()
        for fact, status, probability in zip(record.facts, record.statuses, after, strict=True):
            if status != KEPT:
                found.pop(fact.signature, None)
                found[fact.signature] = _Written(fact, record.number, status, probability)
    return list(found.values())


def _overwritten_by(written: Sequence[_Written], holds: Sequence[bool]) -> list[list[int | str]]:
    """Return the case_ids (or texts) of the later facts that overwrote each fact.

    That is the last fact with the same question; if there is none and the fact does not hold, all later facts about its
    subject.
    """
    asking: dict[Hashable, list[_Written]] = defaultdict(list)
    about: dict[str, list[_Written]] = defaultdict(list)
    for one in written:
        if one.status != FAILED:
            asking[one.fact.question].append(one)
            for name in one.fact.names:
                about[name.strip()].append(one)
    found = []
    for one, still in zip(written, holds, strict=True):
        later = [other for other in asking[one.fact.question] if other.round > one.round][-1:]
        if not later and not still:
            same = {id(other): other for name in one.fact.names for other in about[name.strip()]}
            later = [other for other in same.values() if other.round > one.round]
        found.append([other.fact.text if other.fact.case_id is None else other.fact.case_id for other in later])
    return found
