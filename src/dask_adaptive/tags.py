"""Names for batches: eight characters ``[a-z][a-z0-9]{7}``, the first four the cluster's, the others made up."""

from __future__ import annotations

import secrets
import string
from collections.abc import Callable

__all__ = ["new_key", "tags"]


def new_key() -> str:
    """Four characters ``[a-z][a-z0-9]{3}``, made up."""
    letters = string.ascii_lowercase
    return secrets.choice(letters) + "".join(secrets.choice(letters + string.digits) for _ in range(3))


def tags(key: str) -> Callable[[], str]:
    """Makes names for batches, each one once, that all begin with the cluster's key."""
    made: set[str] = set()

    def tag() -> str:
        while (new := key + new_key()) in made:
            pass
        made.add(new)
        return new

    return tag
