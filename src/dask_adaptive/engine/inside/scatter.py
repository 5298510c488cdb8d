"""Data on its way from clients to workers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["Scatter"]


class Scatter:
    """Dask's scatter call, counted: what is under way to workers, and the clients that wait in it for a first one."""

    __name__ = "scatter"

    def __init__(self, scheduler: Any, tell: Callable[[str], None]) -> None:
        self.scheduler = scheduler
        self.under_way = 0
        self.waiting = 0
        self._tell = tell
        self.original: Any = None

    def wrap(self) -> None:
        """Take the place of the call."""
        handlers = self.scheduler.handlers
        self.original, handlers["scatter"] = handlers["scatter"], self

    def unwrap(self) -> None:
        """Give it back, also from below the wrapper of another engine."""
        handlers = self.scheduler.handlers
        if handlers["scatter"] is self:
            handlers["scatter"] = self.original
            return
        above = handlers["scatter"]
        while above is not None and getattr(above, "original", None) is not self:
            above = getattr(above, "original", None)
        if above is not None:
            above.original = self.original

    async def __call__(self, **arguments: Any) -> Any:
        waits = not self.scheduler.running
        self.under_way += 1
        self.waiting += waits
        if waits:
            self._tell("client waits")
        try:
            return await self.original(**arguments)
        finally:
            self.under_way -= 1
            self.waiting -= waits
