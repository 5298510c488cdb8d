"""A connection to one host, with the agent (``_remote.py``) that runs at its other end for as long as it lasts."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import shlex
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import asyncssh

from dask_adaptive.backend._connect import CLOSING_S, aborted, connect, in_words
from dask_adaptive.backend.hosts import Host
from dask_adaptive.errors import Ambiguous, Unavailable
from dask_adaptive.waiting import within

__all__ = ["Link", "Message"]

Message = dict[str, Any]

OLDEST_PYTHON = (3, 10)
MARK = "dask-adaptive-agent"
BOOT = (
    f'import sys,json;print("\\n{MARK}",*sys.version_info[:3]);sys.stdout.flush();'
    "exec(json.loads(sys.stdin.readline()))"
)
LOADER = """
import sys, types
for name, text in {modules!r}:
    sys.modules[name] = types.ModuleType(name)
    exec(compile(text, name, "exec"), sys.modules[name].__dict__)
sys.modules[name].main({options!r})
"""
MODULES = ("_nursery", "_keeper", "_remote")
GREETING_S = 40.0  # the shell of the user comes first, and what it reads at its start


class Link:
    """A living connection to a host.

    Parameters
    ----------
    host:
        The host.
    connection, process:
        The connection, and the agent on it.
    on_message:
        Called with what the agent says without being asked.
    on_lost:
        Called once, when the connection is gone, with the reason.

    Attributes
    ----------
    hello:
        What the agent said first: ``python``, ``version``, ``distributed``, ``cores``, ``load``, ``place``.
    """

    def __init__(
        self,
        host: Host,
        connection: asyncssh.SSHClientConnection,
        process: asyncssh.SSHClientProcess[bytes],
        on_message: Callable[[Message], None],
        on_lost: Callable[[Link, str], None],
    ) -> None:
        self.host, self.hello = host, Message()
        self._connection, self._process = connection, process
        self._on_message, self._on_lost = on_message, on_lost
        self._lines = _Lines(process)
        self._calls: dict[int, asyncio.Future[Message]] = {}
        self._numbers = itertools.count(1)
        self._reading: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls,
        host: Host,
        python: str,
        options: Mapping[str, Any],
        ssh: Mapping[str, Any],
        accept_new: bool,
        on_message: Callable[[Message], None],
        on_lost: Callable[[Link, str], None],
    ) -> Link:
        """Connect, check the host's key, start the agent and hear its hello.

        ``options`` are for the agent (``host``, ``directory``, ``grace_s``, ``log_bytes``), ``ssh`` for asyncssh.
        Raises ``Unavailable`` with a sentence that names the host and says what to do.
        """
        connection = await connect(host, ssh, accept_new)
        try:
            command = f"exec {shlex.quote(python)} -c {shlex.quote(BOOT)}"
            process = await connection.create_process(command, encoding=None)
            link = cls(host, connection, process, on_message, on_lost)
            await within(GREETING_S, link._greet(python, options))
        except asyncio.TimeoutError as error:
            await aborted(connection)
            raise Unavailable(
                f"{host.label}: {python} did not start within {GREETING_S:g} s; what does its shell do at its start?"
            ) from error
        except (asyncssh.Error, OSError) as error:
            await aborted(connection)
            raise Unavailable(f"{host.label}: {in_words(error)}") from error
        except BaseException:
            await aborted(connection)
            raise
        link._reading = asyncio.ensure_future(link._read())
        return link

    async def _greet(self, python: str, options: Mapping[str, Any]) -> None:
        line = b""
        while not line.startswith(MARK.encode()):  # the shell of the user may have its word first
            try:
                line = await self._lines.next()
            except EOFError:  # noqa: PERF203
                raise Unavailable(await self._why_no_python(python)) from None
        version = tuple(int(word) for word in line.split()[1:])
        said = ".".join(map(str, version))
        if version < OLDEST_PYTHON:
            least = ".".join(map(str, OLDEST_PYTHON))
            raise Unavailable(f"{self.host.label}: {python} is Python {said}; {least} or later is needed (python=)")
        self._process.stdin.write(_program(options))
        try:
            self.hello = {**json.loads(await self._lines.next()), "version": said}
        except (EOFError, ValueError) as error:
            stderr = (await self._process.stderr.read(4000)).decode(errors="replace")
            raise Unavailable(f"{self.host.label}: the agent did not start", stderr=stderr) from error
        if self.hello["error"]:
            raise Unavailable(f"{self.host.label}: {self.hello['error']}")
        if not self.hello["distributed"]:
            raise Unavailable(
                f"{self.host.label}: {self.hello['python']} has no 'distributed'; install it there, or name an "
                "environment that has it with python="
            )

    async def _why_no_python(self, python: str) -> str:
        stderr = (await self._process.stderr.read(4000)).decode(errors="replace").strip()
        done = await self._process.wait()
        if done.exit_status in (126, 127):
            return f"{self.host.label}: there is no Python {python!r} on it; python= names the one to use"
        return f"{self.host.label}: {python} ended with exit code {done.exit_status}: {stderr or 'it said nothing'}"

    # --- speaking ---

    async def call(self, message: Message, timeout_s: float) -> Message:
        """Ask the agent.

        Raises ``Unavailable`` where the question was surely not sent, ``Ambiguous`` where the connection ended before
        the answer, or there was none within ``timeout_s`` seconds; the connection is given up then.
        """
        if self._reading is None or self._reading.done():
            raise Unavailable(f"{self.host.label}: the connection is cut")
        number = next(self._numbers)
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._calls[number] = future
        try:
            self._process.stdin.write(json.dumps({**message, "call": number}).encode() + b"\n")
            await asyncio.wait([future], timeout=timeout_s)
            if not future.done():
                self._connection.abort()
                raise Ambiguous(f"{self.host.label}: no answer within {timeout_s:g} s")
            return future.result()
        except (asyncssh.Error, OSError) as error:
            raise Ambiguous(f"{self.host.label}: {in_words(error)}") from error
        finally:
            self._calls.pop(number, None)
            future.cancel()

    async def aclose(self) -> None:
        """End the agent and the connection; what the agent started goes on."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])
        self._give_up("the connection was closed")
        with contextlib.suppress(asyncio.TimeoutError, asyncssh.Error, OSError):
            self._process.stdin.write_eof()
            await within(CLOSING_S, self._process.wait_closed())
            self._connection.close()
            await within(CLOSING_S, self._connection.wait_closed())
        await aborted(self._connection)

    async def _read(self) -> None:
        why = "the connection was closed by the host"
        try:
            while True:
                self._hear(json.loads(await self._lines.next()))
        except EOFError:
            with contextlib.suppress(asyncio.TimeoutError, asyncssh.Error, OSError):
                stderr = (await within(1.0, self._process.stderr.read(4000))).decode(errors="replace").strip()
                why = f"the agent ended: {stderr.splitlines()[-1]}" if stderr else why
        except Exception as error:  # noqa: BLE001  nobody would notice that a connection is no longer read
            why = in_words(error)
        self._connection.abort()
        self._give_up(why)
        self._on_lost(self, why)
        await aborted(self._connection)

    def _give_up(self, why: str) -> None:
        for future in self._calls.values():
            if not future.done():
                future.set_exception(Ambiguous(f"{self.host.label}: {why}"))

    def _hear(self, message: Message) -> None:
        if "call" not in message:
            self._on_message(message)
            return
        future = self._calls.get(message["call"])
        if future is not None and not future.done():  # else nobody waits for this answer any more
            future.set_result(message)


class _Lines:
    """Lines of any length from what a process prints."""

    def __init__(self, process: asyncssh.SSHClientProcess[bytes]) -> None:
        self._stdout, self._buffer = process.stdout, b""

    async def next(self) -> bytes:
        """The next one. Raises ``EOFError`` at the end."""
        while b"\n" not in self._buffer:
            data = await self._stdout.read(1 << 16)
            if not data:
                raise EOFError
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line


def _program(options: Mapping[str, Any]) -> bytes:
    """The line that makes the waiting Python our agent."""
    return json.dumps(LOADER.format(modules=_modules(), options=dict(options))).encode() + b"\n"


@cache
def _modules() -> list[tuple[str, str]]:
    folder = Path(__file__).parent
    return [(f"{__package__}.{name}", (folder / f"{name}.py").read_text("utf-8")) for name in MODULES]
