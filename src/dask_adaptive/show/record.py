"""``dask adaptive record``: what a scheduler runs, written down for the simulator."""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dask_adaptive.waiting import within

if TYPE_CHECKING:
    from dask_adaptive.recording import Recording

__all__ = ["record"]

SAVE_S = 30.0
"""How often the file is written while recording: so much is lost at most if the scheduler goes."""


_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command(
    epilog="""\b
Examples:
  dask adaptive record tcp://10.0.0.1:8786 --output monday.json
  dask adaptive record analysis --output monday.json --for 8h
  dask adaptive simulate monday.json --backend cloud --policy cost-aware --policy dask
"""
)
@click.argument("scheduler")
@click.option("-o", "--output", type=_FILE, default=Path("run.json"), show_default=True, help="The file to write.")
@click.option("--for", "length", metavar="TIME", help='How long, such as "8h".  [default: until ctrl-C]')
def record(scheduler: str, output: Path, length: str | None) -> None:
    """Write down what SCHEDULER, an address or the name of a cluster, runs from now on.

    That is how many tasks of each kind, what they took, and what they wait for; nothing of what they compute.
    """
    from distributed.security import Security

    from dask_adaptive.config import seconds_of
    from dask_adaptive.head.attach import reach
    from dask_adaptive.recording import Recording

    for_s = None if length is None else seconds_of("--for", length, positive=True)
    where = None if "://" in scheduler else reach(scheduler)
    try:
        security = Security() if where is None else where.security
        address = scheduler if where is None else where.address
        recording = Recording(output, address, security.get_connection_args("client"))
        tasks = asyncio.run(_record(recording, for_s))
    finally:
        if where is not None and where.let_go is not None:
            where.let_go()
    click.echo(f"{tasks} tasks recorded: {output}\nnext: dask adaptive simulate {output}")


async def _record(recording: Recording, for_s: float | None) -> int:
    """Until the time is over, or somebody presses ctrl-C."""
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, over.set)
    await recording.start()
    try:
        click.echo(f"recording what runs on {recording.address}; ctrl-C ends it", err=True)
        if for_s is not None:
            loop.call_later(for_s, over.set)
        while not over.is_set():
            await recording.save()
            with suppress(asyncio.TimeoutError):
                await within(SAVE_S, over.wait())
        return await recording.save()
    finally:
        await recording.end()
