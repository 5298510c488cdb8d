"""When there was work and when there was none: the pauses that users make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

__all__ = ["Rhythm"]

_KEPT = 16


@dataclass(frozen=True, slots=True)
class Rhythm:
    """How long the last times without work were, since when there is none now, and whether there ever was some."""

    pauses: tuple[float, ...] = ()
    quiet_s: float | None = None
    worked: bool = False

    @staticmethod
    def read(past: Mapping[str, Any]) -> Rhythm:
        """From plain JSON values."""
        return Rhythm(tuple(past.get("pauses", ())), past.get("quiet_s"), past.get("worked", False))

    def plain(self) -> dict[str, Any]:
        """As JSON knows it."""
        return {"pauses": list(self.pauses), "quiet_s": self.quiet_s, "worked": self.worked}

    def now(self, *, busy: bool, now_s: float) -> Rhythm:
        """The same after one more look.

        The time before the first work tells nothing: that a user comes soon is no sign that he comes back as soon.
        """
        if not busy:
            return replace(self, quiet_s=now_s if self.quiet_s is None else self.quiet_s)
        pauses = self.pauses
        if self.quiet_s is not None and self.worked:
            pauses = (*pauses, now_s - self.quiet_s)[-_KEPT:]
        return Rhythm(pauses, None, worked=True)
