"""Patch files can be read by other users."""

from __future__ import annotations

import os


def test_others_may_read_it(patch, tmp_path):
    before = os.umask(0o022)
    try:
        assert patch.save(tmp_path / "x").stat().st_mode & 0o777 == 0o644
    finally:
        os.umask(before)
