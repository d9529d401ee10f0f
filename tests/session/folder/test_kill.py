"""SIGKILL at random instants: the session then opens with the last committed round, and continues to the same result.

`NSE_KILLS=200 pytest tests/session/folder/test_kill.py` kills more often than the 24 times of a usual run.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time

import pytest
import torch
from tiny_sessions import base, edited, equal, go_on, in_memory, opened, rounds_of

COUNT = 8
KILLS = int(os.environ.get("NSE_KILLS", "24"))
KINDS = [("llama", "float32"), ("gpt2", "float32"), ("llama", "bfloat16"), ("gpt2", "bfloat16")]
FORK = multiprocessing.get_context("fork")  # torch is imported already


@pytest.mark.parametrize(("kind", "dtype"), KINDS)
def test_a_killed_session_goes_on_as_if_it_had_not_been(kind, dtype, tmp_path):
    """One session after another is killed again and again until it is finished."""
    model = base(kind, getattr(torch, dtype))
    session, after, protected = in_memory(model), [edited(model)], [0]
    started = time.monotonic()
    for facts in rounds_of(COUNT):
        session.edit(facts)
        after.append(edited(model))
        protected.append(session.state.knowledge.count)
    takes, kills, sessions, generator = time.monotonic() - started, 0, 0, random.Random(f"{kind} {dtype}")
    while kills < -(-KILLS // len(KINDS)):
        folder, sessions = tmp_path / str(sessions), sessions + 1
        while True:
            process = FORK.Process(target=go_on, args=(folder, kind, dtype, COUNT))
            process.start()
            process.join(generator.random() * 0.5 * takes)
            process.kill()
            process.join()
            if process.exitcode == 0:
                break
            assert process.exitcode == -signal.SIGKILL
            kills += 1
            if (folder / "session.json").exists():
                found = base(kind, getattr(torch, dtype))
                with opened(folder, found) as session:
                    count = len(session.rounds)
                    assert equal(edited(found), after[count])
                    assert session.state.knowledge.count == protected[count]
        finished = base(kind, getattr(torch, dtype))
        opened(folder, finished).close()
        assert equal(edited(finished), after[COUNT])
    print(f"{kind} {dtype}: {kills} kills, {sessions} sessions of {COUNT} rounds")
