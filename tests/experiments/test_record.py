"""A method's folder: checkpoints are complete or absent, and the next run finds them."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from nse_plugin.experiments import record as module
from nse_plugin.experiments.plan import PlanError
from nse_plugin.experiments.record import Checkpoint, Record

COSTS = {"seconds": {"edit": 1.5, "measure": 0.5}, "peak_memory_mib": 100.0, "note": None}


def checkpoint(edits: int) -> Checkpoint:
    facts = pd.DataFrame({"case_id": range(edits), "efficacy": [1.0] * edits, "fluency": [None, *[6.5] * (edits - 1)]})
    texts = pd.DataFrame({"case_id": [0], "prompt": ["None is"], "text": ['None is "nan",\nNA']})
    return Checkpoint(edits, facts, texts, {"perplexity": 30.25}, COSTS)


def test_a_checkpoint_comes_back(tmp_path) -> None:
    record = Record(tmp_path / "NSE")
    record.save(checkpoint(3), {"weights.a": torch.arange(6.0).view(2, 3).T})
    found = Record(tmp_path / "NSE").load(3)
    pd.testing.assert_frame_equal(found.facts, checkpoint(3).facts, check_dtype=False)
    assert found.texts["text"].tolist() == ['None is "nan",\nNA']
    assert (found.overall, found.costs) == ({"perplexity": 30.25}, COSTS)
    assert torch.equal(record.state(3)["weights.a"], torch.arange(6.0).view(2, 3).T)


def test_only_the_last_state_is_kept_and_none_of_a_method_that_is_done(tmp_path) -> None:
    record = Record(tmp_path)
    for edits in (2, 4):
        record.save(checkpoint(edits), {"x": torch.zeros(1)})
    assert record.edits == [2, 4]
    assert record.state(2) is None
    assert record.state(4) is not None
    assert not record.is_done
    record.end(status="done", error=None)
    assert record.is_done
    assert record.state(4) is None
    assert record.edits == [2, 4]


def test_a_failure_on_the_way_leaves_no_checkpoint(tmp_path, monkeypatch) -> None:
    record = Record(tmp_path)
    record.save(checkpoint(2), {"x": torch.zeros(1)})
    monkeypatch.setattr(module, "save_file", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        record.save(checkpoint(4), {"x": torch.zeros(1)})
    assert record.edits == [2]
    assert record.state(2) is not None
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-000002"]


def test_measured_again_after_a_kill_in_front_of_the_end(tmp_path) -> None:
    for _ in range(2):
        Record(tmp_path).save(checkpoint(2), state=None)
    assert Record(tmp_path).load(2).overall == {"perplexity": 30.25}


def test_a_method_that_failed_without_a_result_may_be_asked_anew(tmp_path) -> None:
    record = Record(tmp_path)
    record.open_for({"content of hparams.archive": "of old"})
    record.end(status="failed", error="there is no archive")
    record.check_for({"content of hparams.archive": "new"})
    record.open_for({"content of hparams.archive": "new"})
    record.save(checkpoint(2), state=None)  # which is of the new one
    with pytest.raises(PlanError, match="content of hparams.archive was new, now of old"):
        record.open_for({"content of hparams.archive": "of old"})


def test_another_comparison_is_not_mixed_in(tmp_path) -> None:
    Record(tmp_path).open_for({"facts": 20, "seed": 0, "checkpoints": (20,)})
    Record(tmp_path).open_for({"facts": 20, "seed": 0, "checkpoints": (20,)})
    Record(tmp_path).save(checkpoint(2), state=None)
    with pytest.raises(PlanError, match=r"facts was 20, now 30.*another `out`"):
        Record(tmp_path).open_for({"facts": 30, "seed": 0, "checkpoints": (20,)})
