"""Ports for servers that are told theirs beforehand, and that stop and come back on them."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator

BELOW = 32_768
"""Where Linux begins to give ports to whoever does not ask for one: meanwhile it may give away a free one there."""


def free_ports(count: int) -> list[int]:
    """So many ports that nobody listens on, others in each process that asks."""
    found = _free()
    return [next(found) for _ in range(count)]


def _free() -> Iterator[int]:
    for port in random.SystemRandom().sample(range(15_000, BELOW), BELOW - 15_000):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        yield port
