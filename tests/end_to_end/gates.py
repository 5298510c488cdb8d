"""Tasks that a test holds and lets go, counted at every start."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

RUNS: Counter[Any] = Counter()
"""How often each task began."""
GATES: dict[str, threading.Event] = {}


def fresh() -> None:
    """Forget what an earlier test left, and let its tasks end."""
    for each in GATES.values():
        each.set()
    RUNS.clear()
    GATES.clear()


def gate(name: str) -> threading.Event:
    return GATES.setdefault(name, threading.Event())
