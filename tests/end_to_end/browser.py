"""A real browser for a test: Chromium without a window, driven by the DevTools protocol over tornado's websocket."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from tests.waiting import LIMIT_S
from tornado.websocket import WebSocketClientConnection, websocket_connect

__all__ = ["TEXT", "Browser", "browser"]

FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"),
    *("--no-first-run", "--disable-background-networking", "--disable-extensions", "--force-device-scale-factor=1"),
    *("--remote-debugging-port=0", "--remote-allow-origins=*"),
)

# Bokeh draws inside of shadow roots, which ``document.body.innerText`` leaves out.
TEXT = """
(() => {
  const texts = [];
  const walk = node => {
    if (node.nodeType === Node.TEXT_NODE) texts.push(node.data);
    if (node.shadowRoot) walk(node.shadowRoot);
    if (!["SCRIPT", "STYLE"].includes(node.nodeName)) node.childNodes.forEach(walk);
  };
  walk(document.body);
  return texts.join(" ").replace(/\\s+/g, " ");
})()
"""
"""What a reader of the page sees, as text."""


class Browser:
    """One open tab."""

    def __init__(self, connection: WebSocketClientConnection) -> None:
        self._connection, self._numbers = connection, itertools.count(1)

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        await self._connection.write_message(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = await asyncio.wait_for(self._connection.read_message(), LIMIT_S)
            assert message is not None, "the browser has gone"
            answer = json.loads(message)
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return dict(answer["result"])

    async def open(self, url: str) -> None:
        await self.call("Page.navigate", url=url)

    async def evaluate(self, script: str) -> Any:
        answer = await self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def until(self, *wanted: str) -> str:
        """The text of the page as soon as all of this is in it."""
        deadline, seen = time.monotonic() + LIMIT_S, ""
        while not all(each in seen for each in wanted):
            assert time.monotonic() < deadline, f"not seen: {[each for each in wanted if each not in seen]} in: {seen}"
            await asyncio.sleep(0.1)
            with suppress(AssertionError):  # between two pages there is no body
                seen = await self.evaluate(TEXT) or ""
        return seen

    async def screenshot(self, path: Path, *, width: int = 1200, height: int = 900) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        await self.call("Emulation.setDeviceMetricsOverride", **size)
        await asyncio.sleep(1.0)  # the figures take the new size
        picture = await self.call("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(picture["data"]))


@asynccontextmanager
async def browser(folder: Path) -> AsyncIterator[Browser]:
    """A browser with a profile of its own in this folder; gone at the end."""
    command = ["chromium", *FLAGS, f"--user-data-dir={folder}", "about:blank"]
    with (folder / "browser.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)  # noqa: ASYNC220  it takes no time
    try:
        deadline, file = time.monotonic() + LIMIT_S, folder / "DevToolsActivePort"
        while not file.exists() or "\n" not in file.read_text():
            assert process.poll() is None, (folder / "browser.log").read_text()
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        port = file.read_text().splitlines()[0]
        tabs = json.loads(await asyncio.to_thread(lambda: urlopen(f"http://127.0.0.1:{port}/json/list").read()))
        target = next(tab for tab in tabs if tab["type"] == "page")
        connection = await websocket_connect(target["webSocketDebuggerUrl"], max_message_size=2**27)
        try:
            yield Browser(connection)
        finally:
            connection.close()
            with suppress(asyncio.TimeoutError):
                while await asyncio.wait_for(connection.read_message(), 10) is not None:
                    pass  # until the browser has closed it too
    finally:
        process.terminate()
        try:
            await asyncio.to_thread(process.wait, 10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
