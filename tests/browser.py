"""Headless Chromium, driven by the Chrome DevTools Protocol over a pipe, to load, use and inspect pages."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, Self

CHROMIUM = shutil.which("chromium")


class Browser:
    """One tab. folder: for the browser's own files; scripts: whether pages may run theirs."""

    def __init__(self, folder: Path, width: int = 1000, scripts: bool = True) -> None:
        self.events: list[dict[str, Any]] = []
        self._number, self._session, self._rest = 0, dict[str, str](), b""
        reads, self._to = os.pipe()
        self._from, writes = os.pipe()
        options = f"--headless --no-sandbox --remote-debugging-pipe --window-size={width},900 --user-data-dir={folder}"
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$0" "$@" 3<&{reads} 4>&{writes}', str(CHROMIUM), *options.split()],
            pass_fds=(reads, writes),
            stderr=subprocess.DEVNULL,
        )
        os.close(reads)
        os.close(writes)
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = {"sessionId": self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.send(f"{domain}.enable")
        self.send("Emulation.setScriptExecutionDisabled", value=not scripts)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._to)
        os.close(self._from)

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command, and what the browser answers; events in the meantime go to `events`."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters, **self._session}
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            self.events.append(answer)
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def load(self, page: Path) -> None:
        """Returns when the page is loaded."""
        self.events.clear()
        self.send("Page.navigate", url=page.as_uri())
        while not self.named("Page.loadEventFired"):
            self.events.append(self._next())

    def named(self, *methods: str) -> list[dict[str, Any]]:
        """The parameters of these events since the page was loaded."""
        return [event["params"] for event in self.events if event["method"] in methods]

    def value(self, expression: str) -> Any:
        """What JavaScript says, as JSON has it."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def settle(self) -> None:
        """Returns when the events that the page has in hand are handled, such as `hashchange` after a click."""
        wait = "new Promise((done) => requestAnimationFrame(() => setTimeout(done)))"
        self.send("Runtime.evaluate", expression=wait, awaitPromise=True)

    def press(self, key: str, code: int, text: str = "") -> None:
        """A key, by its name and Windows code. text: that it writes."""
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, text=text)

    def type(self, text: str) -> None:
        """Key by key, where the focus is."""
        for letter in text:
            self.press(letter, ord(letter.upper()), letter)

    def prefer(self, scheme: str) -> None:
        """`light` or `dark`."""
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def screenshot(self, file: Path) -> None:
        """All of the page, as PNG."""
        shot = self.send("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(shot["data"]))

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            more = os.read(self._from, 1 << 16)
            assert more, "the browser has ended"
            self._rest += more
        message, _, self._rest = self._rest.partition(b"\0")
        read: dict[str, Any] = json.loads(message)
        return read
