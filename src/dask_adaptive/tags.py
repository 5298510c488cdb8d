"""Names for batches: eight characters ``[a-z][a-z0-9]{7}``, the first four the cluster's, the others made up.

In a cluster of several pools the fifth is the pool's, so that who comes back to jobs knows which pool they are of.
"""

from __future__ import annotations

import hashlib
import secrets
import string
from collections.abc import Callable

__all__ = ["key_of", "new_key", "of_pool", "pool_number", "tags"]

POOL_AT = 4


def key_of(cluster: str, scheduler: str) -> str:
    """The key of a cluster of this name on the scheduler with this id: the same again after a restart.

    Whoever comes back to a living scheduler under the same name finds its jobs by it; a namesake elsewhere does not.
    """
    number = int.from_bytes(hashlib.sha256(f"{cluster}\0{scheduler}".encode()).digest()[:8], "big")
    letters = string.ascii_lowercase + string.digits
    number, first = divmod(number, 26)
    key = letters[first]
    for _ in range(3):
        number, rest = divmod(number, len(letters))
        key += letters[rest]
    return key


def new_key() -> str:
    """Four characters ``[a-z][a-z0-9]{3}``, made up."""
    letters = string.ascii_lowercase
    return secrets.choice(letters) + "".join(secrets.choice(letters + string.digits) for _ in range(3))


def of_pool(tag: str, number: int) -> str:
    """The same tag, saying that it is of the ``number``-th pool (from 0; beyond 25 it says nothing)."""
    return tag[:POOL_AT] + string.ascii_lowercase[number] + tag[POOL_AT + 1 :] if number < 26 else tag


def pool_number(tag: str) -> int:
    """Of which pool a tag says that it is."""
    return string.ascii_lowercase.find(tag[POOL_AT : POOL_AT + 1])


def tags(key: str) -> Callable[[], str]:
    """Makes names for batches, each one once, that all begin with the cluster's key."""
    made: set[str] = set()

    def tag() -> str:
        while (new := key + new_key()) in made:
            pass
        made.add(new)
        return new

    return tag
