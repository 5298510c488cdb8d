"""The contract between the controller and the Dask side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from dask_adaptive.model import Load

__all__ = ["Engine"]


class Engine(Protocol):
    """Asks the scheduler what there is to do, and takes workers out of service without losing anything.

    Only ``EngineError`` leaves these methods.
    """

    async def look(self) -> Load:
        """The load at this moment. Raises ``EngineError`` when the scheduler cannot be asked."""
        ...

    async def declare(self, tags: Mapping[str, str]) -> None:
        """Tell which pool the jobs of each tag belong to, before their workers arrive."""
        ...

    async def drain(self, jobs: Mapping[str, Sequence[str]], wait_s: float, *, busy: bool = False) -> Mapping[str, str]:
        """Take whole jobs (name -> worker addresses) out of service: no new tasks, data moved, workers closed.

        Waits at most ``wait_s`` seconds. ``busy=False`` refuses a job that has work; ``busy=True`` waits for what
        runs and moves what waits. Returns for each job why it was refused and is in service again; "" where it
        was drained.
        """
        ...

    def watch(self, wake: Callable[[str], None]) -> None:
        """From now on call ``wake`` with a word on: a new graph, a worker that came or left, the last task done."""
        ...

    async def aclose(self) -> None:
        """Take everything of ours out of the scheduler again."""
        ...
