"""The contract between the controller and a policy."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

from dask_adaptive.model import Past, Target, View

__all__ = ["FRESH", "Policy", "not_plain"]

FRESH: Past = {}
"""The past of a policy that has not decided yet."""


@runtime_checkable
class Policy(Protocol):
    """*When and how many*: a pure function of what is and what was.

    ``decide`` reads no clock, does no I/O, draws no random number, and keeps nothing outside the past that it
    returns: asked twice with the same arguments it gives the same answer. It names every pool of the view in its
    target, with a reason. The past holds plain JSON values only and stays bounded in size.
    """

    def decide(self, view: View, past: Past) -> tuple[Target, Past]:
        """How many jobs each pool should have, and what to remember until the next round.

        Parameters
        ----------
        view:
            Load, pools and time as of this round.
        past:
            What the previous call returned; ``FRESH`` at first.

        Raises
        ------
        PolicyError
            If the policy cannot decide; the controller then keeps every pool as it is.
        """
        ...


def not_plain(value: object) -> object:
    """The first thing in a past that JSON cannot carry, or whose type it would not keep; None if there is none."""
    kind = type(value)
    if value is None or kind in (str, int, float, bool):
        return None
    if kind is dict:
        keys, inner = list(value), list(value.values())  # type: ignore[attr-defined, call-overload]
        return next((key for key in keys if type(key) is not str), _first_odd(inner))
    return _first_odd(value) if kind in (list, tuple) else value  # type: ignore[arg-type]


def _first_odd(values: Iterable[object]) -> object:
    return next((odd for each in values if (odd := not_plain(each)) is not None), None)
