"""The page of a session, made from its folder alone."""

from __future__ import annotations

import base64
import hashlib
import re
import sys

import pytest
from tiny_sessions import COLD, WET, base, opened

from nse_plugin.session import SessionError, read_columns
from nse_plugin.session.page.html import default_path, page_of, write_page


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two rounds; the second replaces the first."""
    folder = tmp_path_factory.mktemp("sessions") / "rome"
    with opened(folder, base()) as session:
        session.edit(COLD, author="<ann>", reason="first")
        session.edit(WET, author="bob")
    return folder


def test_rounds_facts_and_the_size_of_their_changes_are_on_it(folder):
    page = page_of(folder)
    assert 0 < page.index('id="fact-2-1"') < page.index('id="fact-1-1"')  # the last round first
    assert "&lt;ann&gt;" in page
    assert "<ann>" not in page
    for number in (1, 2):
        for one in read_columns(folder, number, number).values():
            norm = (one.new.double() - one.old.double()).norm()
            assert f"round {number}: {norm:.3g}" in page


def test_its_one_script_is_the_one_that_it_allows(folder):
    page = page_of(folder)
    [script] = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"sha256-{allowed}" in page


def test_it_is_written_beside_the_folder_and_never_within(folder, tmp_path):
    assert default_path(folder) == folder.with_name("rome.html")
    write_page(folder, tmp_path / "new" / "page.html")
    assert (tmp_path / "new" / "page.html").read_text(encoding="utf-8").count("<html") == 1
    with pytest.raises(ValueError, match="is within the session's folder"):
        write_page(folder, folder / "page.html")
    with pytest.raises(SessionError, match="session"):
        write_page(tmp_path / "nowhere", tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_without_jinja2_it_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ImportError, match="pip install jinja2"):
        page_of(folder)
