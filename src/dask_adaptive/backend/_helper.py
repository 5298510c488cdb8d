"""The owner's end of the helper process of the local backend; ``_nursery.py`` is the other end and has the protocol."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import psutil

from dask_adaptive.errors import Ambiguous, Unavailable

__all__ = ["Helper", "Message", "end_groups"]

Message = dict[str, Any]
PROGRAM = Path(__file__).with_name("_nursery.py")


class Helper:
    """A running helper process.

    Parameters
    ----------
    directory:
        Where its own messages go (``helper.log``).
    options:
        What the program is told at its start; see its ``main``.
    environment:
        Its environment, in which it imports Dask.
    on_message:
        Called with everything that it says without being asked.
    on_lost:
        Called once, when it is gone.

    Raises
    ------
    OSError
        If the system has no room for another process, or no place for its messages.
    """

    def __init__(
        self,
        directory: Path,
        options: Mapping[str, Any],
        environment: Mapping[str, str],
        on_message: Callable[[Message], None],
        on_lost: Callable[[Helper], None],
    ) -> None:
        self.directory = directory
        self._complaints = directory / "helper.log"
        self._on_message = on_message
        self._on_lost = on_lost
        self._calls: dict[int, asyncio.Future[Message]] = {}
        self._numbers = itertools.count(1)
        self.alive = True
        with self._complaints.open("ab") as complaints:
            self._socket, its = socket.socketpair()
            with its:
                self._process = self._run(its.fileno(), options, environment, complaints)
        self._ready = asyncio.ensure_future(self._connect())
        self._reading = asyncio.ensure_future(self._read())

    def _run(
        self, control: int, options: Mapping[str, Any], environment: Mapping[str, str], output: IO[bytes]
    ) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(PROGRAM), str(control), json.dumps({**options, "owner": os.getpid()})]
        try:
            return subprocess.Popen(  # noqa: S603 - our own program, no shell
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=dict(environment),
                pass_fds=[control],
                start_new_session=True,  # ctrl-C in the terminal is for the owner only
            )
        except OSError:
            self._socket.close()
            raise

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def call(self, message: Message, timeout_s: float) -> Message:
        """Say something and wait for the answer.

        Raises ``Ambiguous`` after ``timeout_s`` seconds, ``Unavailable`` when the helper ended meanwhile: whatever it
        had started has ended with it.
        """
        number = next(self._numbers)
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._calls[number] = future
        await self.say({**message, "call": number})
        try:
            return await asyncio.wait_for(asyncio.shield(future), timeout_s)
        except asyncio.TimeoutError:
            raise Ambiguous(f"the helper process {self.pid} did not answer within {timeout_s:g} s") from None
        finally:
            future.cancel()

    async def say(self, message: Message) -> None:
        """Say something that has no answer. Raises ``Unavailable`` when the helper is gone."""
        _, writer = await asyncio.shield(self._ready)
        if not self.alive:
            raise Unavailable("the helper process has ended", stderr=self._said())
        writer.write(json.dumps(message).encode() + b"\n")

    async def aclose(self, timeout_s: float) -> None:
        """Let it end every job and then itself; kill it when that takes longer than ``timeout_s`` seconds."""
        _, writer = await asyncio.shield(self._ready)
        with contextlib.suppress(OSError):
            writer.write_eof()
        await asyncio.wait([self._reading], timeout=timeout_s)
        if not self._reading.done():
            self._process.kill()
        await self._reading

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_unix_connection(sock=self._socket, limit=1 << 26)

    async def _read(self) -> None:
        reader, writer = await self._ready
        with contextlib.suppress(OSError):
            async for line in reader:
                self._hear(json.loads(line))
        await asyncio.to_thread(self._end)
        self.alive = False
        for future in self._calls.values():
            if not future.done():
                future.set_exception(Unavailable("the helper process has ended", stderr=self._said()))
        self._calls.clear()
        writer.close()
        self._on_lost(self)

    def _hear(self, message: Message) -> None:
        self._on_message(message)
        future = self._calls.pop(message.get("call", 0), None)
        if future is not None and not future.done():
            future.set_result(message)

    def _end(self) -> None:
        """Its socket is closed, so it is ending; wait for that, and do not wait for ever."""
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _said(self) -> str:
        with contextlib.suppress(OSError):
            return self._complaints.read_text(errors="replace")
        return ""


def end_groups(groups: Iterable[int], timeout_s: float = 5.0) -> None:
    """Kill process groups whose helper is gone, and wait until they are; blocks, at most ``timeout_s`` seconds."""
    left = set(groups)
    deadline = time.monotonic() + timeout_s
    while left and time.monotonic() < deadline:
        for group in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)
        left &= _living_groups()
        if left:
            time.sleep(0.02)


def _living_groups() -> set[int]:
    """Groups of every process that is not a zombie: orphans are reaped by init, sooner or later."""
    groups = set()
    for process in psutil.process_iter(["pid", "status"]):
        if process.info["status"] != psutil.STATUS_ZOMBIE:
            with contextlib.suppress(OSError):
                groups.add(os.getpgid(process.info["pid"]))
    return groups
