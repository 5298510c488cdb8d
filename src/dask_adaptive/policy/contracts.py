"""The contract between the controller and a policy."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from dask_adaptive.model import Past, Target, View

__all__ = ["FRESH", "Policy"]

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
