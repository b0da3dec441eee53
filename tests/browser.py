"""Drives Chromium over a pipe, by the Chrome DevTools Protocol."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
PATIENCE_SECONDS = 120
OPTIONS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
    # A frame in a sandbox would be in a process of its own, which a page could not look into.
    *("--disable-features=IsolateSandboxedIframes", "--remote-debugging-pipe", "about:blank"),
)


class Browser:
    """A browser. Messages are JSON that ends with a NUL byte."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to_browser, self._from_browser = to_browser, from_browser
        self._received = b""
        self._number = 0

    def call(self, method: str, session: str | None = None, **parameters: Any) -> Any:
        """Send a command and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        message |= {"sessionId": session} if session else {}
        os.write(self._to_browser, json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != self._number:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def pages(self) -> list[str]:
        """Return the ids of the open tabs."""
        found = self.call("Target.getTargets")["targetInfos"]
        return [one["targetId"] for one in found if one["type"] == "page"]

    def open_page(self, url: str) -> "Page":
        return self.page(self.call("Target.createTarget", url=url)["targetId"])

    def page(self, target: str) -> "Page":
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        return Page(self, attached["sessionId"])

    def _receive(self) -> Any:
        while b"\0" not in self._received:
            data = os.read(self._from_browser, 65_536)
            assert data, "the browser has ended"
            self._received += data
        message, _, self._received = self._received.partition(b"\0")
        return json.loads(message)


class Page:
    """A tab."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression in the page."""
        result = self._call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait_for(self, expression: str) -> Any:
        """Return the value of an expression as soon as it is true."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            if value := self.evaluate(expression):
                return value
            time.sleep(0.05)
        raise AssertionError(f"{expression} is false on {self.evaluate('document.body.innerText')}")

    def click_link(self, text: str) -> "Page":
        """Click a link in the page or in one of its frames. Return the tab that it opens."""
        before = set(self._browser.pages())
        self._call("DOM.enable")
        root = self._call("DOM.getDocument", depth=-1, pierce=True)["root"]
        link = next(node for node in _nodes(root) if node["nodeName"] == "A" and text in str(node))
        self._call("DOM.scrollIntoViewIfNeeded", nodeId=link["nodeId"])
        quad = self._call("DOM.getContentQuads", nodeId=link["nodeId"])["quads"][0]
        self._click((quad[0] + quad[4]) / 2, (quad[1] + quad[5]) / 2)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            for target in set(self._browser.pages()) - before:
                return self._browser.page(target)
            time.sleep(0.05)
        raise AssertionError("the link has opened no tab")

    def _call(self, method: str, **parameters: Any) -> Any:
        return self._browser.call(method, self._session, **parameters)

    def _click(self, x: float, y: float) -> None:
        for kind in ("mousePressed", "mouseReleased"):
            button = {"button": "left", "clickCount": 1}
            self._call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **button)


def _nodes(node: Any) -> Iterator[Any]:
    """Yield all nodes of a document and of those in its frames."""
    yield node
    for child in (*node.get("children", ()), *filter(None, [node.get("contentDocument")])):
        yield from _nodes(child)


@contextmanager
def chromium(profile: Path) -> Iterator[Browser]:
    """Start Chromium. It reads commands from descriptor 3, and writes answers to 4."""
    assert CHROMIUM is not None
    (read_here, write_there), (read_there, write_here) = os.pipe(), os.pipe()

    def arrange() -> None:
        # First to high numbers, because one of them may be 3 or 4.
        commands, answers = os.dup2(read_there, 203), os.dup2(write_there, 204)
        os.dup2(commands, 3)
        os.dup2(answers, 4)

    process = subprocess.Popen(
        [CHROMIUM, *OPTIONS, f"--user-data-dir={profile}"],
        pass_fds=(3, 4),
        preexec_fn=arrange,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "HOME": str(profile)},
    )
    os.close(write_there)
    os.close(read_there)
    try:
        yield Browser(write_here, read_here)
    finally:
        process.kill()
        process.wait()
        os.close(read_here)
        os.close(write_here)
