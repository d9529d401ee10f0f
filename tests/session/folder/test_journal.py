"""A session's folder: opening, refusals, its lock, failing writes, and damaged files."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import shutil

import pytest
import torch
from interrupting import interrupted_at_every_line
from safetensors import safe_open
from safetensors.torch import save
from tiny_sessions import (
    LAYERS,
    base,
    edited,
    equal,
    in_memory,
    opened,
    other_attention,
    other_matrix,
    rounds_of,
)

from nse_plugin import Fact
from nse_plugin.method.update import UpdateError
from nse_plugin.session import SessionError, read_columns, read_rounds, transaction
from nse_plugin.session import round as round_module
from nse_plugin.session.folder import journal
from nse_plugin.support.files import written_whole

ROUNDS = rounds_of(5)


# -- opening -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("llama", torch.float32), ("gpt2", torch.float32), ("llama", torch.float16), ("gpt2", torch.bfloat16)],
)  # Linear, Conv1D
def test_a_session_that_is_closed_and_opened_goes_on_as_one_that_never_was(kind, dtype, tmp_path):
    model, reopened = base(kind, dtype), base(kind, dtype)
    session = in_memory(model)
    for facts in ROUNDS:
        expected = session.edit(facts)
    for facts in ROUNDS[:3]:
        with opened(tmp_path / "a", base(kind, dtype)) as one:
            one.edit(facts)
    with opened(tmp_path / "a", reopened) as one:
        one.edit(ROUNDS[3])
    with opened(tmp_path / "a", reopened) as one:  # which is at HEAD
        report = one.edit(ROUNDS[4])
        assert equal(one.state.originals.tensors.values(), edited(base(kind, dtype)))
        ours, theirs = one.state.history, session.state.history
        assert ours.written == theirs.written
        assert [made.keys.keys() for made in ours.rounds] == [made.keys.keys() for made in theirs.rounds]
        for layer in LAYERS:
            assert equal(ours.knowledge.layers[layer].parts, theirs.knowledge.layers[layer].parts)
    assert equal(edited(reopened), edited(model))
    assert report.frame.drop(columns="seconds").equals(expected.frame.drop(columns="seconds"))
    assert report.again.equals(expected.again)


def test_a_report_reads_back_as_it_was(finished, folder):
    model = base()
    with opened(folder, model) as session:
        report = session.edit([Fact("{} is", "Rome", "cold"), Fact("{} is", "old France", "wet", case_id="x")])
        failed = session.edit([Fact("The wind of {} is", "Lyon", "cold")])
    found = read_rounds(folder)
    for one, made in ((report, found[-2]), (failed, found[-1])):
        assert made.report.frame.equals(one.frame)
        assert (made.report.frame.dtypes == one.frame.dtypes).all()
        assert made.report.again.equals(one.again)
        assert (made.report.again.dtypes == one.again.dtypes).all()
        assert (made.report.seconds, str(made.report)) == (one.seconds, str(one))


def test_columns_of_rounds_lead_from_the_base_to_the_end(finished):
    folder, after = finished
    for first, last in ((1, None), (2, 3), (5, 5)):
        columns = read_columns(folder, first, last)
        for layer, before, then in zip(LAYERS, after[first - 1], after[5 if last is None else last], strict=True):
            own = before.clone()
            assert torch.equal(own[:, columns[layer].neurons].T, columns[layer].old)
            own[:, columns[layer].neurons] = columns[layer].new.T
            assert torch.equal(own, then)
    with pytest.raises(ValueError, match="no rounds 3 to 6: the session has 5"):
        read_columns(folder, 3, 6)


def test_files_follow_the_umask(finished):
    umask = os.umask(0o022)
    os.umask(umask)
    files = [path for path in finished[0].rglob("*") if path.is_file() and path.name != "lock"]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o666 & ~umask}


def test_neither_the_disk_of_a_round_nor_what_opening_reads_of_it_grows(tmp_path, monkeypatch):
    """benchmarks/durable.py measures both, and time, over 1,000 rounds."""
    with opened(tmp_path / "a", base(), p=1.0) as session:
        for number in range(12):
            session.edit(Fact("{} is", f"town {number % 3}{number}", "Lyon"))
    sizes = [
        sum(file.stat().st_size for file in one.iterdir()) for one in sorted((tmp_path / "a" / "rounds").iterdir())
    ]
    assert max(sizes) < 1.02 * min(sizes)
    read = []

    class Spy:
        def __init__(self, path, framework):
            self.file, self.name = safe_open(path, framework=framework), path.parent.name[:4]

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def keys(self):
            return self.file.keys()

        def get_tensor(self, name):
            read.append((self.name, name.partition(".")[0]))
            return self.file.get_tensor(name)

    monkeypatch.setattr(journal, "safe_open", Spy)
    opened(tmp_path / "a", base()).close()
    assert {number for number, kind in read if kind == "new"} == {"0012"}


# -- refusals ----------------------------------------------------------------------------------------------------


def test_another_format_is_refused(folder):
    told = json.loads((folder / "session.json").read_text())
    (folder / "session.json").write_text(json.dumps({**told, "format": 2}))
    with pytest.raises(SessionError, match=r"session\.json has format 2, and this version of nse-plugin reads 1"):
        opened(folder, base())


@pytest.mark.parametrize("change", [other_matrix, other_attention])
def test_a_model_that_others_change_is_refused(change, folder):
    model = base()
    with opened(folder, model) as session:
        change(model)
        with pytest.raises(SessionError, match="other weights than the last round|More than the edited matrices"):
            session.edit(Fact("{} is", "Rome", "cold"))
    assert len(read_rounds(folder)) == 5


def test_a_closed_session_is_no_more(folder):
    session = opened(folder, base())
    session.close()
    session.close()
    for ask in (lambda: session.edit(ROUNDS[0]), session.rollback, lambda: session.retire(0)):
        with pytest.raises(SessionError, match="was closed: open"):
            ask()
    assert len(session.rounds) == 5


# -- writes that fail --------------------------------------------------------------------------------------------


class Writes:
    """Counts what is written; the call number `fails` does not happen, or only half."""

    def __init__(self, patch, number=errno.ENOSPC):
        self.calls, self.fails, self.number = 0, None, number
        for owner, name in (
            (os, "fsync"), (os, "open"), (journal.Path, "replace"), (journal.Path, "write_bytes"),
            (journal.Path, "write_text"), (journal.Path, "mkdir"),
        ):  # fmt: skip
            patch.setattr(owner, name, self.counted(getattr(owner, name), name))

    def counted(self, own, name):
        def call(*args, **more):
            self.calls += 1
            if self.calls == self.fails:
                if name in ("write_bytes", "write_text"):
                    own(args[0], args[1][: len(args[1]) // 2])
                raise OSError(self.number, os.strerror(self.number))
            return own(*args, **more)

        return call


def act(session, action):
    if action == "edit":
        return session.edit(ROUNDS[2])
    return session.rollback() if action == "rollback" else session.retire(0)


@pytest.mark.parametrize(
    ("action", "dtype"), [("edit", torch.bfloat16), ("rollback", torch.float32), ("retire", torch.float32)]
)
def test_whichever_write_fails_memory_and_disk_agree(action, dtype, tmp_path, monkeypatch):
    """After each failure the session on disk is the one in memory, and goes on to the right weights."""
    model = base(dtype=dtype)
    with opened(tmp_path / "begun", model) as session:
        for facts in ROUNDS[:2]:
            session.edit(facts)
    before, whole = edited(model), base(dtype=dtype)
    with opened(shutil.copytree(tmp_path / "begun", tmp_path / "whole"), whole) as session:
        act(session, action)
        after = edited(whole)
    failing, made = 0, set()
    while True:
        failing, model = failing + 1, base(dtype=dtype)
        folder = shutil.copytree(tmp_path / "begun", tmp_path / str(failing))
        session = opened(folder, model)
        with monkeypatch.context() as patch:
            writes = Writes(patch, errno.ENOSPC if failing % 2 else errno.EROFS)
            writes.fails = failing
            with contextlib.suppress(OSError):
                act(session, action)
        made.add(equal(edited(model), after))
        assert equal(edited(model), after if equal(edited(model), after) else before)
        session.close()
        with opened(folder, base(dtype=dtype)) as reopened:
            assert equal(edited(reopened.model), edited(model))
            if not equal(edited(model), after):
                act(reopened, action)
                assert equal(edited(reopened.model), after)
        if writes.calls < failing:
            break
    assert made == {False, True}


@pytest.mark.parametrize("action", ["edit", "rollback"])
def test_memory_and_disk_agree_after_an_interrupt_at_any_line(action, tmp_path):
    model = base()
    session = opened(tmp_path / "a", model, v_num_grad_steps=1, max_iterations=1)
    session.edit(ROUNDS[1])
    number, counts = 0, set()

    def act():
        nonlocal number
        if action == "rollback" and len(session.rounds) > 1:
            return session.rollback()
        number += 1
        return session.edit(Fact("{} is", f"town {number}", "Lyon"))

    own = session._rounds
    for where in interrupted_at_every_line(act, transaction, journal):
        assert own.journal.head() == own._head(own.state.history), where
        assert session._edited.weights() == own.state.history.now, where
        counts.add(len(session.rounds))
    session.close()
    with opened(tmp_path / "a", base()) as reopened:
        assert equal(edited(reopened.model), edited(model))
        assert [one.id for one in reopened.rounds] == [one.id for one in session.rounds]
    assert len(counts) > 1


def test_a_folder_that_cannot_be_written_is_refused(folder, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("nse_plugin.session.folder.lock.FileLock.acquire", refuse)
    with pytest.raises(SessionError, match=r"cannot be written \(.*Read-only file system\): make it writable"):
        opened(folder, base())


def test_a_round_that_is_not_finite_leaves_nothing(folder, monkeypatch):
    model = base()
    with opened(folder, model) as session:
        before, there = edited(model), sorted(folder.rglob("*"))

        def not_finite(*_):
            raise UpdateError("not finite")

        own = round_module.edit_layers
        with monkeypatch.context() as patch:
            patch.setattr(round_module, "edit_layers", lambda *args: (own(*args), not_finite()))
            with pytest.raises(UpdateError):
                session.edit(Fact("{} is", "Rome", "cold"))
        assert equal(edited(model), before)
        assert sorted(folder.rglob("*")) == there
        values = torch.full_like(session.values(Fact("{} is", "Rome", "cold")), torch.nan)
        report = session.edit_with_values([Fact("{} is", "Rome", "cold", case_id="nan")], values)
        assert report.frame["status"].tolist() == ["failed"]
        assert equal(edited(model), before)
    found = base()
    with opened(folder, found) as session:
        assert session.rounds[-1].statuses == ("failed",)
        assert session.check().set_index("case_id").loc["nan", "status"] == "failed"
        session.rollback()
        session.edit(rounds_of(6)[5])
    plain = in_memory(base())
    for facts in rounds_of(6):
        plain.edit(facts)
    assert equal(edited(found), edited(plain.model))


def test_what_a_kill_has_left_is_removed_and_nothing_else(folder):
    inside = folder / "rounds"
    shutil.copytree(next(inside.iterdir()), inside / "0006-00000000")
    (inside / ("." + "0" * 32)).mkdir()
    (folder / ".HEAD.0123").write_text("")
    (folder / ".gitignore").write_text("")
    (inside / "notes").mkdir()
    opened(folder, base()).close()
    assert {path.name for path in folder.iterdir()} == {"HEAD", "session.json", "rounds", "lock", ".gitignore"}
    assert len(list(inside.iterdir())) == 6


# -- damage ------------------------------------------------------------------------------------------------------

MUTATIONS = int(os.environ.get("NSE_MUTATIONS", "120"))


def mutated(folder, generator):
    """Truncate, flip, drop or swap files of a session. Says what."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "lock")
    path = generator.choice(files)
    content = bytearray(path.read_bytes())
    kind = generator.choice(["truncated", "flipped", "byte", "removed", "swapped", "longer", "another"])
    if kind == "truncated":
        content = content[: generator.randrange(len(content))]
    elif kind == "flipped":
        content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
    elif kind == "byte":
        content[generator.randrange(len(content))] = generator.randrange(256)
    elif kind == "longer":
        content += generator.randbytes(9)
    elif kind == "another":
        content = bytearray(
            save({"neurons.1": torch.arange(3), "new.1": torch.ones(3, 16), "old.1": torch.ones(3, 16)})
        )
    if kind == "removed":
        path.unlink()
    elif kind == "swapped":
        alike = [other for other in files if other.name == path.name and other != path] or files
        other = generator.choice(alike)
        one, two = path.read_bytes(), other.read_bytes()
        path.write_bytes(two)
        other.write_bytes(one)
    else:
        path.write_bytes(bytes(content))
    return f"{path.relative_to(folder)} {kind}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_damage_is_an_error_or_does_no_harm(dtype, tmp_path):
    """After each mutation the session opens at a round that was made, and goes on to the right weights, or says which
    file is damaged; rolled back likewise."""
    model, after = base(dtype=dtype), []
    with opened(tmp_path / "sound", model) as session:
        for facts in [None, *ROUNDS[:4]]:
            if facts:
                session.edit(facts)
            after.append(edited(model))
    expected = base(dtype=dtype)
    plain = in_memory(expected)
    for facts in ROUNDS:
        plain.edit(facts)
    last, errors, generator = edited(expected), [], random.Random(str(dtype))
    for number in range(MUTATIONS // 2):
        folder = shutil.copytree(tmp_path / "sound", tmp_path / "damaged")
        what, model = mutated(folder, generator), base(dtype=dtype)
        try:
            with opened(folder, model) as session:
                assert equal(edited(model), after[4]), what
                if number % 2:
                    session.edit(ROUNDS[4])
                    assert equal(edited(model), last), what
                else:
                    session.rollback(rounds=3)
                    assert equal(edited(model), after[1]), what
                    session.edit(ROUNDS[1])
                    assert equal(edited(model), after[2]), what
        except SessionError as error:
            errors.append(str(error))
            assert any(equal(edited(model), one) for one in after), what
        shutil.rmtree(folder)
    assert len(errors) > MUTATIONS // 5
    assert all(str(tmp_path) in error and "\n" not in error for error in errors)


def test_nothing_is_unpickled():
    import inspect

    text = inspect.getsource(journal)
    assert "pickle" not in text
    assert "torch.load" not in text


def test_written_whole_is_what_writes_head(folder, monkeypatch):
    """HEAD is never seen half-written."""
    names = []
    own = written_whole

    def spied(path):
        names.append(path.name)
        return own(path)

    monkeypatch.setattr(journal, "written_whole", spied)
    with opened(folder, base()) as session:
        session.edit(Fact("{} is", "Rome", "cold"))
    assert names == ["HEAD"]
