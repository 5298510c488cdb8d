"""The contract between the controller and a resource manager."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol, runtime_checkable

from dask_adaptive.model import Batch, Job, JobId

__all__ = ["Backend", "Keeping", "Pushing", "Telling", "Wake"]

Wake = Callable[[str], None]
"""Told, with a word about what happened, that a new look is worth it. Called on the cluster's event loop."""


@runtime_checkable
class Backend(Protocol):
    """*How*: submits, lists and cancels jobs of one resource manager.

    Only ``BackendError`` and its kin leave these methods. Every method returns within ``timeout_s`` seconds or raises.
    One that runs jobs on other machines says ``elsewhere = True``: then traffic is encrypted where nothing else is
    said. A backend whose jobs end with the process that holds it also says so: ``ends_with_owner = True``. One that
    knows how often its list is worth a look has ``poll_s``, in seconds, and one that may have to wait for its manager
    ``trouble``: a sentence about what keeps it waiting now, else an empty text. Both may change at any time. One that
    has files which jobs read removes them in ``aclose()``, and keeps them in ``leave()``, for jobs that go on.
    """

    name: str
    """The word under which it is registered."""

    lag_s: float
    """How far, in seconds, its job list may run behind what was submitted or cancelled; 0 for an exact one."""

    timeout_s: float
    """After how many seconds a call is given up."""

    async def submit(self, batch: Batch) -> Sequence[JobId]:
        """Start ``batch.count`` jobs in one call; ids in the order of ``batch.names``.

        Not idempotent. Raises ``Rejected`` or ``NoCapacity`` when nothing was started, ``Ambiguous`` when that is not
        known, ``Unavailable`` when the manager was surely not reached. Fewer ids than ``count``: the rest was refused.
        """
        ...

    async def jobs(self, cluster: str) -> Sequence[Job]:
        """Every job of the cluster that the manager can see, in one bulk query; ended ones for as long as it knows.

        Raises instead of returning a part: "could not look" is never "there are none".
        """
        ...

    async def cancel(self, ids: Collection[JobId]) -> None:
        """End these jobs. Idempotent: a job already gone is no error. A cancel that failed raises."""
        ...

    async def log(self, id: JobId) -> str:
        """The end of what the job printed; also after its death. Empty where there is none."""
        ...

    async def aclose(self) -> None:
        """Give back what the backend itself holds (connections, helper processes).

        Jobs were cancelled before, or are left on purpose: they go on, unless the backend ``ends_with_owner``.
        """
        ...


@runtime_checkable
class Pushing(Protocol):
    """A backend that can tell at once when a job changed, instead of at the next query."""

    def watch(self, wake: Wake) -> None:
        """From now on call ``wake`` whenever the job list changed."""
        ...


@runtime_checkable
class Telling(Protocol):
    """A backend that has something to say which no single job says: hosts set aside, quotas."""

    def notes(self) -> Sequence[str]:
        """What is to be known now, a sentence each; shown below the table of jobs and in ``explain()``."""
        ...


@runtime_checkable
class Keeping(Protocol):
    """A backend that has folders of its own, which an owner that is killed leaves behind."""

    async def folders(self, cluster: str) -> Sequence[str]:
        """What ``aclose`` will remove, whether it is there yet or not. Raises ``BackendError``."""
        ...

    def take_over(self, folders: Sequence[str]) -> None:
        """Remove these in ``aclose`` as well: an earlier owner of the same jobs left them."""
        ...
