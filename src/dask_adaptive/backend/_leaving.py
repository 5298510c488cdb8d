"""A worker that is told to end asks to be drained first. Its file is given to ``dask worker --preload``.

SIGTERM is how a resource manager says that a job will be killed soon: preempted, over its walltime, cancelled; SGE
(``-notify``) and LSF (at the end of a walltime) say it by SIGUSR2, and SGE by SIGUSR1 that a job will be suspended.
Without this, ``dask worker`` ends at once, with what it runs and holds. This file imports nothing of ours: it is read
by the Python of the workers.
"""

from __future__ import annotations

import asyncio
import signal
from typing import Any

__all__ = ["dask_setup"]

TOPIC = "dask-adaptive-leaving"
"""The event that the plug-in in the scheduler listens to."""

ANSWER_S = 3.0
"""How long somebody may take to begin the drain. Nobody does when the whole cluster is being closed."""

_tasks: set[asyncio.Task[None]] = set()


async def dask_setup(worker: Any) -> None:
    """Dask calls this when the worker starts."""
    loop = asyncio.get_running_loop()
    before = signal.getsignal(signal.SIGTERM)
    if not callable(before):  # nobody waits for it: then it ends the process, as it should
        return

    def end() -> None:
        before(signal.SIGTERM, None)

    def begin() -> None:
        if not _tasks:
            _tasks.add(loop.create_task(_leave(worker, end)))

    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(begin))
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)


async def _leave(worker: Any, end: Any) -> None:
    """Ask to be drained. Whoever drains closes the worker in the end; if nobody begins, end now."""
    if worker.status.name != "running" or not worker.batched_stream:
        end()
        return
    worker.log_event(TOPIC, {"name": str(worker.name)})
    for _ in range(int(ANSWER_S / 0.1)):
        await asyncio.sleep(0.1)
        if worker.status.name != "running":
            return
    end()
