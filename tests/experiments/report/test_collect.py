"""run.json: the times of all parts."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from nse_plugin.experiments.plan import Plan
from nse_plugin.experiments.plan.configuration import composed
from nse_plugin.experiments.report.collect import write_run


@pytest.mark.parametrize(
    ("began", "ended", "started", "worked", "seconds"),
    [
        (900, 600, 300, True, 600),  # stopped, and gone on with
        (900, 600, 300, False, 300),  # there was nothing left to run
        (480, 1, 360, True, 480),  # the other run on the folder was waited for
        (360, 1, 480, True, 480),  # it waited for this one, and was the first to write
    ],
)
def test_time_is_counted_once(tmp_path, began, ended, started, worked, seconds):
    """Seconds ago."""
    now = datetime.now(UTC)
    plan = Plan.from_config(composed("compare", ["methods=[NSE]", "model=embedded", f"out={tmp_path}"]))
    (path := Path(plan.out / "run.json")).write_text(
        json.dumps({
            "started": (now - timedelta(seconds=began)).isoformat(),
            "ended": (now - timedelta(seconds=ended)).isoformat(),
            "seconds": began - ended,
        })
    )  # fmt: skip
    write_run(plan, now - timedelta(seconds=started), {}, None, worked=worked)
    written = json.loads(path.read_text())
    assert written["seconds"] == pytest.approx(seconds, abs=2)
    first = max(began, started) if worked else began
    assert abs(datetime.fromisoformat(written["started"]) - now + timedelta(seconds=first)) <= timedelta(seconds=1)
