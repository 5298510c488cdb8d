"""Words to everybody who listens, the moment something happens."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from distributed.batched import BatchedSend
from distributed.core import CommClosedError, Status
from distributed.metrics import time

__all__ = ["Pushes", "described"]

PUSH_S = 0.01


class Pushes:
    """Those who listen, and what they were not told yet."""

    def __init__(self) -> None:
        self._listeners: list[tuple[BatchedSend, bool]] = []
        self._words: dict[str, None] = {}
        self._news: list[list[Any]] = []
        self._flush_at: asyncio.TimerHandle | None = None
        self._flushed = 0.0

    async def watch(self, comm: Any, workers: Mapping[str, Any], details: bool) -> Any:
        """Push words, and with ``details`` what workers do, over this connection from now on; ``workers`` first."""
        stream = BatchedSend(interval="2ms")
        listener = stream, details
        self._listeners.append(listener)
        workers = {address: described(ws) for address, ws in workers.items()} if details else {}
        try:
            await comm.write({"workers": workers})  # before the stream starts: two writers must not meet
        except BaseException:
            with suppress(ValueError):  # ``end`` may have been faster
                self._listeners.remove(listener)
            raise
        stream.start(comm)
        return Status.dont_reply

    def tell(self, word: str, news: list[Any] | None = None) -> None:
        """Push a word (and what a worker did) to everybody who listens, many in one message."""
        if not self._listeners:
            return
        self._words[word] = None
        if news is not None:
            self._news.append(news)
        if self._flush_at is None:
            delay = min(PUSH_S, max(0.0, self._flushed + PUSH_S - time()))  # whatever somebody does to the clock
            self._flush_at = asyncio.get_running_loop().call_later(delay, self._flush)

    def _flush(self) -> None:
        self._flush_at, self._flushed = None, time()
        words, news = list(self._words), self._news
        self._words, self._news = {}, []
        for listener in list(self._listeners):
            stream, details = listener
            try:
                stream.send({"words": words, "workers": news if details else []})
            except CommClosedError:
                self._listeners.remove(listener)

    def end(self) -> None:
        """Tell nobody any more."""
        if self._flush_at is not None:
            self._flush_at.cancel()
        for stream, _ in self._listeners:
            stream.abort()
        self._listeners = []


def described(ws: Any) -> dict[str, Any]:
    """What a cluster object shows of a worker, without what changes all the time."""
    identity: dict[str, Any] = ws.identity()
    return {name: value for name, value in identity.items() if name not in ("metrics", "last_seen")}
