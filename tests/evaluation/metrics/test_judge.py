from __future__ import annotations

import importlib.util
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from nse_plugin.evaluation.metrics.judge import Judge, JudgeError


def _says(question: str) -> str:
    _, expected, given = (line.split(": ")[1] for line in question.splitlines())
    return "Yes." if expected in given else "No."


@dataclass
class Server:
    """A stand-in that says yes where the expected answer stands in the given one; `reply` says otherwise."""

    url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    status: list[int] = field(default_factory=list)  # of the next replies; 200 after them
    reply: Callable[[str], str] = field(default=_says)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    pytest.importorskip("openai")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("JUDGE_KEY", "a key")
    found = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            found.asked.append({**body, "path": self.path})
            found.keys.append(self.headers["Authorization"])
            status = found.status.pop(0) if found.status else 200
            message = {"role": "assistant", "content": found.reply(body["messages"][-1]["content"])}
            choice = {"index": 0, "finish_reason": "stop", "message": message}
            whole = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
            data = json.dumps(whole if status == 200 else {"error": {"message": "no such thing"}}).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.send_header("retry-after-ms", "1")
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{listening.server_port}/v1"
    thread = threading.Thread(target=listening.serve_forever)
    thread.start()
    yield found
    listening.shutdown()
    thread.join()
    listening.server_close()


def judge(server: Server) -> Judge:
    return Judge("judge-1", server.url, key="JUDGE_KEY")


def test_one_verdict_a_text(server: Server) -> None:
    texts = ["Lyon, of course.", "Paris.", " ", "In Lyon"]
    found = judge(server).verdicts([f"prompt {i}" for i in range(4)], ["Lyon"] * 4, texts)
    assert found == [1, 0, 0, 1]
    assert len(server.asked) == 3  # nothing written conveys nothing
    for request, key in zip(server.asked, server.keys, strict=True):
        assert (request["path"], request["model"], request["temperature"]) == ("/v1/chat/completions", "judge-1", 0)
        assert key == "Bearer a key"
        assert "expected" in request["messages"][0]["content"]
    questions = sorted(request["messages"][1]["content"] for request in server.asked)
    assert questions[0].splitlines() == [
        "Question or unfinished sentence: prompt 0", "Expected answer: Lyon", "Given answer: Lyon, of course.",
    ]  # fmt: skip


def test_a_failure_in_passing_is_tried_again(server: Server) -> None:
    server.status = [500, 429]
    judge(server).check()
    assert len(server.asked) == 3


@pytest.mark.parametrize(("said", "verdict"), [("YES", 1), ("**No**, it is Paris", 0), ("no", 0), ("Answer: yes", 1)])
def test_the_word_counts(server: Server, said: str, verdict: int) -> None:
    server.reply = lambda _: said
    assert judge(server).verdicts(["p"], ["t"], ["x"]) == [verdict]


def test_a_reply_that_is_no_verdict_is_refused(server: Server) -> None:
    server.reply = lambda _: "I do not know"
    with pytest.raises(JudgeError, match=r"judge-1 replied 'I do not know' instead of yes or no: take a model"):
        judge(server).check()


def test_a_refusal_says_what_to_check(server: Server) -> None:
    server.status = [404]
    with pytest.raises(JudgeError, match=r"judge-1 at http.* refused \(404: .*\): check the model's name.*JUDGE_KEY\."):
        judge(server).check()


def test_a_server_that_is_not_there(server: Server) -> None:
    with pytest.raises(JudgeError, match=r"address http://127.0.0.1:9/v1 cannot be reached \(.*\): check base_url"):
        Judge("judge-1", "http://127.0.0.1:9/v1", key="JUDGE_KEY").check()


def test_no_key(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUDGE_KEY")
    with pytest.raises(JudgeError, match=r"JUDGE_KEY is not set: put the judge's API key into"):
        judge(server).check()
    assert server.asked == []


def test_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(JudgeError, match=r"needs the package openai: install it with `pip install openai`\."):
        Judge("judge-1").check()
