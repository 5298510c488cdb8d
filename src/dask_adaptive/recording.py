"""Recording what really runs on a scheduler, to a file that the simulator replays."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from distributed.core import rpc

from dask_adaptive.engine.parcel import parcel
from dask_adaptive.errors import ConfigError, EngineError
from dask_adaptive.waiting import within

__all__ = ["FORMAT", "Recording"]

FORMAT = "dask-adaptive run 1"
TIMEOUT_S = 30.0


class Recording:
    """Records the graphs of a scheduler from ``start`` to ``stop``.

    Parameters
    ----------
    path:
        The file to write, as JSON.
    address:
        The scheduler.
    connection_args:
        ``security.get_connection_args("client")``.

    Raises
    ------
    ConfigError
        If the file cannot be written; before anything is started.
    """

    def __init__(self, path: str | Path, address: str, connection_args: Mapping[str, Any] | None = None) -> None:
        self.path = Path(path).expanduser()
        self.address = address
        self._connection_args = dict(connection_args or {})
        self._name = f"adaptive-recorder-{secrets.token_hex(4)}"
        folder = self.path.absolute().parent
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            raise ConfigError(f"{self.path} cannot be written: there is no folder {folder} that you may write to")
        if self.path.is_dir():
            raise ConfigError(f"{self.path} cannot be written: it is a folder")

    async def start(self) -> None:
        """Begin. Raises ``EngineError`` where the scheduler cannot be reached, ``ConfigError`` if it is no address."""
        plugin = parcel("Recorder", {"name": self._name})
        await self._call("register_scheduler_plugin", plugin=plugin, name=self._name, idempotent=False)

    async def save(self) -> int:
        """Write the file; returns how many tasks it has.

        Raises ``EngineError`` if the scheduler is gone, or the file cannot be written any more.
        """
        graphs = await self._call(f"{self._name}-recorded")
        if graphs is None:
            raise EngineError(f"the scheduler at {self.address} no longer knows of this recording")
        try:
            await asyncio.to_thread(self._write, graphs)
        except OSError as error:
            raise EngineError(f"{self.path} cannot be written: {error.strerror or error}") from error
        return sum(group["done"] for graph in graphs for group in graph["groups"].values())

    async def stop(self) -> int:
        """Write the file and end, also where the file cannot be written; see ``save``."""
        try:
            return await self.save()
        finally:
            await self.end()

    async def end(self) -> None:
        """Record no more; what was written stays."""
        with suppress(EngineError):
            await self._call(f"{self._name}-detach")

    def _write(self, graphs: Any) -> None:
        draft = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            draft.write_text(json.dumps({"format": FORMAT, "graphs": graphs}), encoding="utf-8")
            draft.replace(self.path)
        finally:
            draft.unlink(missing_ok=True)

    async def _call(self, op: str, **arguments: Any) -> Any:
        scheduler = rpc(self.address, connection_args=self._connection_args, timeout=TIMEOUT_S)
        try:
            return await within(TIMEOUT_S, getattr(scheduler, op)(**arguments))
        except (OSError, asyncio.TimeoutError) as error:
            raise EngineError(f"the scheduler at {self.address} cannot be asked ({error})") from error
        except ValueError as error:  # of the address, which is looked at when it is connected to
            raise ConfigError(f"{self.address!r} is no address of a scheduler: {error}") from error
        finally:
            await scheduler.close_rpc()
