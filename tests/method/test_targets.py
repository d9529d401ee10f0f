"""The report's target columns agree with the model, and only facts whose z gives the target are `done`."""

from __future__ import annotations

import dataclasses
import logging

import oracles
import pandas as pd
import pytest
import torch
from tiny import TEMPLATES, tiny_facts, tiny_model, tiny_moments, tiny_tokenizer

from nse_plugin import EditSession, Fact
from nse_plugin.evaluation.teacher_forcing import Prediction, predict
from nse_plugin.method import targets
from nse_plugin.method.multilayer import RoundResult
from nse_plugin.method.targets import predictions_under_values
from nse_plugin.models.layout import Layout
from nse_plugin.models.prompts import encode_fact
from nse_plugin.session.report import RoundReport, Targets

LAYERS = [1, 2]


def session_of(model, hparams, **changes):
    chosen = dataclasses.replace(hparams, **changes)
    return EditSession(model, tiny_tokenizer(), chosen, tiny_moments(tiny_model("llama"), LAYERS), list(TEMPLATES))


@pytest.mark.parametrize("at_once", [2, 32])
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2"])
def test_what_is_said_under_z_is_what_a_full_forward_says(architecture, at_once, facts, monkeypatch):
    """float64; z in the place of l_0's output at the subject's last token, and targets of several tokens."""
    monkeypatch.setattr(targets, "AT_ONCE", at_once)
    model, tokenizer = tiny_model(architecture), tiny_tokenizer()
    prompts = [encode_fact(tokenizer, fact, ["{}"]) for fact in facts]
    h = torch.stack([oracles.key_and_output(model, tokenizer, fact, ["{}"], 1, 2)[1] for fact in facts])
    z = h + 0.3 * torch.randn(h.shape, dtype=h.dtype, generator=torch.Generator().manual_seed(0))
    found = predictions_under_values(Layout.of(model), 2, prompts, z)
    asked = [*zip(facts, [both.under_z for both in found], z - h, strict=True)]
    asked += [*zip(facts, [both.before for both in found], torch.zeros_like(h), strict=True)]
    for fact, own, delta in asked:
        [(ids, lookup, count)] = oracles.rows(tokenizer, fact, ["{}"])
        logits = oracles.run(model, ids, 2, lookup, delta)[0][-count - 1 : -1]
        targets_of = ids[0, -count:]
        assert own.log_probability == pytest.approx(
            float(logits.log_softmax(-1)[range(count), targets_of].mean()), rel=1e-5
        )
        assert own.best == tuple(logits.argmax(-1).tolist())
        assert own.target == tuple(targets_of.tolist())


def test_the_report_has_the_targets_before_under_z_and_after(llama, hparams, facts):
    session = session_of(llama, hparams)
    pairs = [(fact.text, fact.target_new) for fact in facts]
    before = None
    for number in range(2):
        before = before or predict(llama, tiny_tokenizer(), pairs)  # the unedited model
        frame = session.edit([dataclasses.replace(fact, case_id=number) for fact in facts]).frame
        after = predict(llama, tiny_tokenizer(), pairs)
        assert frame["target_before"].tolist() == pytest.approx([before[pair].probability for pair in pairs])
        assert frame["target_after"].tolist() == pytest.approx([after[pair].probability for pair in pairs])
        assert frame["is_said"].tolist() == [after[pair].is_said for pair in pairs]


def test_what_was_not_learnt_is_not_done(llama, hparams):
    """So few and short steps that z is h: the residual is 0, and the model says what it said."""
    fact = Fact("{} is in", "Rome", "Spain")
    frame = session_of(llama, hparams, alpha=0.5, v_num_grad_steps=5, v_lr=1e-4).edit([fact]).frame
    assert frame["residual"][0] < 0.5
    assert frame["status"][0] == "weak_value"


@pytest.mark.parametrize(
    ("status", "gained", "under_z", "expected"),
    [
        ("done", True, (7, 8), "done"), ("done", True, (7, 9), "weak_value"), ("done", False, (7, 8), "weak_value"),
        ("off_target", False, (7, 9), "off_target"), ("failed", False, (-1, -1), "failed"),
    ],
)  # fmt: skip
def test_done_is_a_target_that_z_says_and_that_gained(status, gained, under_z, expected):
    """A target of two tokens: each must be the most likely one."""
    one = torch.zeros(1, dtype=torch.float64)
    result = RoundResult([status], one, one, one.long(), {})
    before, after = Prediction(-3.0, (7, 8), (1, 1)), Prediction(-2.0 if gained else -3.0, (7, 8), (1, 1))
    said = [Targets(before, Prediction(-1.0, (7, 8), under_z), after)]
    report = RoundReport.of([Fact("{} is in", "Rome", "Spain")], [], [[0]], result, said, [], 1.0, {}, 0)
    assert report.frame["status"].tolist() == [expected]


def test_a_value_that_is_not_finite_is_no_number(llama, hparams, facts):
    session = session_of(llama, hparams)
    values = session.values(facts)
    values[1] = torch.nan
    frame = session.edit_with_values(facts, values).frame
    assert frame["target_under_z"].isna().tolist() == [False, True, False, False]
    assert frame["status"][1] == "failed"
    assert frame["target_after"].notna().all()


def test_without_rewinding_it_is_the_present_model_under_z(llama, hparams):
    [fact] = tiny_facts()[:1]
    session = session_of(llama, hparams, rewind=False)
    session.edit(tiny_facts()[1:])
    present = {name: tensor.clone() for name, tensor in llama.state_dict().items()}
    values = session.values([fact])
    frame = session.edit_with_values([fact], values).frame
    llama.load_state_dict(present)
    [own] = predictions_under_values(Layout.of(llama), 2, [encode_fact(tiny_tokenizer(), fact, ["{}"])], values)
    assert frame["target_under_z"][0] == pytest.approx(own.under_z.probability)
    assert frame["target_before"][0] == pytest.approx(own.before.probability)


@pytest.mark.parametrize("tokens_per_batch", [1, 4096])
def test_what_the_value_step_says_is_what_is_said_of_values_by_themselves(llama, hparams, facts, tokens_per_batch):
    """Also of facts that stop early."""
    settings = {"v_lr": 2.0, "v_num_grad_steps": 9, "clamp_norm_factor": 4.0, "tokens_per_batch": tokens_per_batch}
    session, other = session_of(llama, hparams, **settings), session_of(tiny_model("llama"), hparams, **settings)
    values = session.values(facts)
    names = ["target_before", "target_under_z", "target_after", "status"]
    found, expected = session.edit(facts).frame[names], other.edit_with_values(facts, values).frame[names]
    pd.testing.assert_frame_equal(found, expected, rtol=1e-6)


def test_easyedit_tells_of_weak_values(llama, caplog):
    from nse_plugin.easyedit.algorithm import NSE
    from nse_plugin.hparams import NSEHyperParams

    caplog.set_level(logging.WARNING)
    hparams = NSEHyperParams(layers=LAYERS, alpha=5.0, v_num_grad_steps=2, v_lr=1e-4, mom2_n_samples=2)
    request = {"prompt": "{} is in", "subject": "Rome", "target_new": "Spain"}
    NSE().apply_to_model(llama, tiny_tokenizer(), [request], hparams)
    assert "NSE: fact 0 is weak_value" in caplog.text
