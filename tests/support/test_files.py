"""Files are written completely or not at all, and are on disk before they get their name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nse_plugin.support import files
from nse_plugin.support.files import cache_home, check_home, folder_written_whole, written_whole


@pytest.fixture
def synced(monkeypatch):
    """The paths that were synced, and whether the name was taken by then: {path: ...}."""
    done: list[Path] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        done.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        real(descriptor)

    monkeypatch.setattr(files.os, "fsync", fsync)
    return done


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="reads names of open files from /proc")
def test_a_file_and_its_name_are_on_the_disk(tmp_path, synced):
    with written_whole(tmp_path / "deep" / "a.json") as path:
        path.write_text("{}")
        assert not (tmp_path / "deep" / "a.json").exists()
    assert synced == [path, tmp_path / "deep"]
    assert [entry.name for entry in (tmp_path / "deep").iterdir()] == ["a.json"]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="reads names of open files from /proc")
def test_a_folder_its_files_and_its_name_are_on_the_disk(tmp_path, synced):
    with folder_written_whole(tmp_path / "point") as folder:
        (folder / "a.csv").write_text("1")
        (folder / "b.csv").write_text("2")
    assert sorted(synced[:2]) == [folder / "a.csv", folder / "b.csv"]
    assert synced[2:] == [folder, tmp_path]
    assert {path.name: path.read_text() for path in (tmp_path / "point").iterdir()} == {"a.csv": "1", "b.csv": "2"}


def test_a_folder_takes_the_place_of_an_older_one(tmp_path):
    for text in ("old", "new"):
        with folder_written_whole(tmp_path / "point") as folder:
            (folder / f"{text}.txt").write_text(text)
    assert [path.name for path in (tmp_path / "point").iterdir()] == ["new.txt"]


@pytest.mark.parametrize("write", [written_whole, folder_written_whole])
def test_a_failure_leaves_what_was_there(tmp_path, write):
    (tmp_path / "there").write_text("old")

    def fail() -> None:
        with write(tmp_path / "new") as path:
            (path / "x" if path.is_dir() else path).write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_where_folders_cannot_be_synced_files_are_written_all_the_same(tmp_path, monkeypatch):
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(22, "Invalid argument")
        real(descriptor)

    monkeypatch.setattr(files.os, "fsync", fsync)
    with written_whole(tmp_path / "a") as path:
        path.write_text("x")
    assert (tmp_path / "a").read_text() == "x"


def test_the_cache_is_where_it_is_said_to_be(monkeypatch, tmp_path):
    monkeypatch.setenv("NSE_HOME", str(tmp_path))
    assert cache_home() == tmp_path
    monkeypatch.delenv("NSE_HOME")
    assert cache_home() == Path.home() / ".cache" / "nse-plugin"


@pytest.mark.parametrize("inside", ["", "deep/er"])
def test_a_cache_that_is_a_file_is_refused(monkeypatch, tmp_path, inside):
    file = tmp_path / "file"
    file.touch()
    for folder in (file / inside, tmp_path / "new", tmp_path):
        monkeypatch.setenv("NSE_HOME", str(folder))
        if folder.is_relative_to(file):
            with pytest.raises(
                ValueError, match=f"NSE_HOME = '{folder}' cannot be used: {file} is a file; set it to a"
            ):
                check_home()
        else:
            check_home()
    assert not file.read_bytes()
