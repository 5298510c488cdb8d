"""How long to wait before the next try, longer after each failure in a row. Pure."""

from __future__ import annotations

__all__ = ["backoff_s"]


def backoff_s(times: int, longest_s: float) -> float:
    """1, 2, 4, ... seconds; a power beyond all floats is never computed, however often it failed."""
    return min(longest_s, 2.0 ** min(times - 1, 16))
