"""How a worker goes through its rounds, without EasyEdit, and which work it does not repeat."""

from __future__ import annotations

from types import SimpleNamespace

import pandas as pd
import pytest
from tiny import tiny_facts, tiny_model

from nse_plugin.experiments.record import Checkpoint, Record
from nse_plugin.experiments.run import worker
from nse_plugin.experiments.run.worker import _Run
from nse_plugin.models.layout import Layout
from nse_plugin.moments.provider import second_moments

LOOK = _Run._look_at_first_round
COSTS = {"seconds": {"edit": 2.0, "measure": 1.0}, "peak_memory_mib": 1.0, "note": "of old", "values_from_store": 0}


class Method:
    """One that keeps no state, and notes what is asked of it."""

    def __init__(self) -> None:
        self.asked: list[object] = []
        self.seconds, self.values_from_store = {"edit": 0.0}, 0

    def edit(self, facts):
        self.asked.append([fact.subject for fact in facts])
        return pd.DataFrame({"case_id": range(len(facts)), "status": "done", "residual": 0.0})

    def state(self):
        return None


@pytest.fixture
def run(tmp_path, hparams, monkeypatch) -> _Run:
    """Four facts in rounds of two, measured at the end."""
    run = _Run.__new__(_Run)
    run._plan = SimpleNamespace(checkpoints=(2, 4))
    run._choice = SimpleNamespace(round=2, alg_name="WISE")
    run._record, run._method, run._facts = Record(tmp_path / "methods" / "WISE"), Method(), tiny_facts()
    run._hparams, run._kept = hparams, None
    run._news, run._note, run._edited, run._measuring = [], None, pd.DataFrame(), 0.0
    run._report_progress = run._news.append
    monkeypatch.setattr(_Run, "_look_at_first_round", lambda *_: None)
    monkeypatch.setattr(_Run, "_measure", lambda run, edits: kept(run._record, edits))
    return run


def kept(record: Record, edits: int) -> None:
    facts = pd.DataFrame({"case_id": range(edits), "round": 1, "status": "done", "residual": 0.0})
    texts = pd.DataFrame({"case_id": [], "prompt": [], "text": []})
    record.save(Checkpoint(edits, facts, texts, {"efficacy": 1.0}, COSTS), None)


def test_a_method_without_a_state_that_was_through_is_not_run_again(run):
    """It was killed between its last checkpoint and the note that it is done."""
    for edits in (2, 4):
        kept(run._record, edits)
    run.to_the_end()
    assert run._method.asked == []
    assert (run._record.ended["status"], run._record.ended["note"]) == ("done", "of old")


def test_one_that_was_not_begins_anew(run):
    kept(run._record, 2)
    run.to_the_end()
    assert [len(subjects) for subjects in run._method.asked] == [2, 2]
    assert run._record.is_done


def test_second_moments_are_told_without_edits(run, tokenizer, monkeypatch):
    """What follows is again told with them."""
    layout = Layout.of(tiny_model("llama"))
    run._hparams.mom2_n_samples = 2
    written = Method.edit

    def edit(method, facts):
        second_moments(layout, tokenizer, run._hparams)  # measured in the first round, and kept
        return written(method, facts)

    monkeypatch.setattr(Method, "edit", edit)
    run.to_the_end()
    moments = {"doing": f"measuring second moments of layers {[*run._hparams.layers]}"}
    first = {"doing": "editing", "edits": 0}
    assert run._news[:4] == [first, moments, first, {"doing": "measuring", "edits": 2}]
    assert moments not in run._news[4:]


@pytest.mark.parametrize(
    ("chat", "asked", "metric"),
    [
        (False, ("accuracy", None), "rewrite_accuracy"), ("both", ("accuracy", "both"), "rewrite_accuracy"),
        (True, ("chat", None), "chat_first_token"), ("loud", ("chat", "loud"), "chat_first_token"),
    ],
)  # fmt: skip
def test_what_was_written_in_a_chat_alone_is_asked_there_after_the_first_round(run, monkeypatch, chat, asked, metric):
    def measure(model, tokenizer, facts, families, rounds, chat):
        assert rounds == [1] * len(facts)
        seen.append((*families, chat.template))
        return SimpleNamespace(overall={"rewrite_accuracy": 0.2, "chat_first_token": 0.2})

    seen: list[tuple[str, str | None]] = []
    monkeypatch.setattr(worker, "measure", measure)
    run._model = run._tokenizer = None
    run._hparams.chat = chat
    LOOK(run, run._facts)
    assert seen == [asked]
    assert run._note.startswith(f"{metric} right after its first round of 4 was 0.20")
