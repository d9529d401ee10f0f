"""Downloading published data sets, from a server that the test starts."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading

import pytest
from rome_records import RECORDS

from nse_plugin.facts import Fact
from nse_plugin.facts.files import PUBLISHED, DatasetError, load_facts
from nse_plugin.facts.files.published import Published


class _Server:
    """Sends `body`, of which it announces `length` bytes, and counts how often it was asked."""

    body = json.dumps(RECORDS).encode()
    length: int | None = None
    asked = 0


@pytest.fixture
def server(monkeypatch):
    """The known benchmarks, served from here: `counterfact` with the hash of RECORDS, `zsre` without one."""
    state = _Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            state.asked += 1
            self.send_response(200)
            self.send_header("Content-Length", str(len(state.body) if state.length is None else state.length))
            self.end_headers()
            self.wfile.write(state.body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        threading.Thread(target=serving.serve_forever, args=(0.01,), daemon=True).start()
        root = f"http://127.0.0.1:{serving.server_port}/dsets"
        sha256 = hashlib.sha256(_Server.body).hexdigest()
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.setitem(PUBLISHED, "counterfact", Published(f"{root}/counterfact.json", sha256))
        monkeypatch.setitem(PUBLISHED, "zsre", Published(f"{root}/zsre_mend_eval.json", None))
        yield state
        serving.shutdown()


def kept(tmp_path):
    """Names of all files in the cache."""
    return sorted(path.name for path in (tmp_path / "nse-home").rglob("*") if path.is_file())


def test_what_is_published_is_known():
    assert PUBLISHED["counterfact"].url == "https://rome.baulab.info/data/dsets/counterfact.json"
    assert PUBLISHED["counterfact"].sha256 == "d017056125178a13728594e66a801357a8db9ed7973a7425554bb4271de9fc6f"
    assert PUBLISHED["zsre"].url == "https://rome.baulab.info/data/dsets/zsre_mend_eval.json"


@pytest.mark.parametrize(("name", "file"), [("counterfact", "counterfact.json"), ("zsre", "zsre_mend_eval.json")])
def test_a_benchmark_is_downloaded_once(server, tmp_path, name, file):
    loaded = load_facts(name)
    assert loaded.facts == [Fact.from_record(record) for record in RECORDS]
    assert loaded.path == tmp_path / "nse-home" / "data" / file
    assert loaded.sha256 == hashlib.sha256(server.body).hexdigest()
    assert load_facts(name) == loaded
    assert server.asked == 1
    assert kept(tmp_path) == [file]


def test_a_file_put_there_by_hand_is_not_downloaded(server, tmp_path):
    file = PUBLISHED["counterfact"].file
    file.parent.mkdir(parents=True)
    file.write_bytes(server.body)
    assert len(load_facts("counterfact").facts) == 3
    assert server.asked == 0


def test_a_kept_file_that_was_changed_is_refused_but_left(server, tmp_path):
    file = PUBLISHED["counterfact"].file
    file.parent.mkdir(parents=True)
    file.write_text("[]")
    published = PUBLISHED["counterfact"].sha256
    with pytest.raises(DatasetError, match=rf"has the SHA-256 4f53.*as published has {published}: delete the file"):
        load_facts("counterfact")
    assert kept(tmp_path) == ["counterfact.json"]


def test_another_hash_than_the_published_one_leaves_no_file(server, tmp_path):
    server.body = json.dumps(RECORDS[:2]).encode()
    sent, published = hashlib.sha256(server.body).hexdigest(), PUBLISHED["counterfact"].sha256
    with pytest.raises(DatasetError) as caught:
        load_facts("counterfact")
    assert f"expected sha256:{published} but got {sent}" in str(caught.value)
    assert f"put the file at {tmp_path / 'nse-home' / 'data' / 'counterfact.json'} by hand" in str(caught.value)
    assert kept(tmp_path) == []


@pytest.mark.parametrize("name", ["counterfact", "zsre"])
def test_a_broken_connection_leaves_no_file(server, tmp_path, name):
    server.length = len(server.body) + 10
    with pytest.raises(DatasetError, match=rf"IncompleteRead\({len(server.body)} bytes read, 10 more expected\)"):
        load_facts(name)
    assert kept(tmp_path) == []


@pytest.mark.parametrize(
    ("interruption", "error"), [(KeyboardInterrupt(), KeyboardInterrupt), (TimeoutError("timed out"), DatasetError)]
)
def test_an_interrupt_leaves_no_file(server, tmp_path, monkeypatch, interruption, error):
    def interrupted(*_, **__):
        yield server.body[:100]
        assert len(kept(tmp_path)) == 1  # under a name of its own
        raise interruption

    monkeypatch.setattr("requests.Response.iter_content", interrupted)
    with pytest.raises(error):
        load_facts("counterfact")
    assert kept(tmp_path) == []


@pytest.mark.parametrize("body", [b"", b"<html>Please log in.</html>", b'{"error": "moved"}'])
def test_what_is_no_list_of_records_is_not_kept(server, tmp_path, body):
    server.body = body
    with pytest.raises(DatasetError, match=r"zsre cannot be downloaded from http.*\(what came is no list of records\)"):
        load_facts("zsre")
    assert kept(tmp_path) == []


def test_offline_says_where_to_put_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setitem(PUBLISHED, "counterfact", Published("http://127.0.0.1:9/counterfact.json", "0" * 64))
    with pytest.raises(DatasetError) as caught:
        load_facts("counterfact")
    message = str(caught.value)
    assert message.startswith("counterfact cannot be downloaded from http://127.0.0.1:9/counterfact.json (")
    file = tmp_path / "nse-home" / "data" / "counterfact.json"
    assert message.endswith(f"): try again when online, or put the file at {file} by hand.")
    assert kept(tmp_path) == []
