"""Runs the commands of a batch system and keeps the files that its jobs read; ``Here``: on this machine."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol, runtime_checkable

from dask_adaptive.backend.dialect import Answer, Call
from dask_adaptive.errors import Ambiguous, Rejected, Unavailable
from dask_adaptive.waiting import within

__all__ = ["Here", "Runner"]


@runtime_checkable
class Runner(Protocol):
    """Where the commands of a batch system can be run, and files be put where its jobs see them.

    Only ``BackendError`` leaves these methods. A path may begin with ``~``; what is returned is absolute.
    """

    async def user(self) -> str:
        """The name that jobs are submitted under."""
        ...

    async def run(self, call: Call, timeout_s: float) -> Answer:
        """Run one command, without a shell.

        Raises ``Rejected`` where there is no such program, ``Unavailable`` when the command surely was not run, and
        ``Ambiguous`` when it did not come back within ``timeout_s`` and was ended.
        """
        ...

    async def folder(self, path: str) -> str:
        """Make this folder where it is missing, for its user alone (0700)."""
        ...

    async def place(self, path: str, text: str) -> str:
        """Write a file for its user alone (0600), whole or not at all."""
        ...

    async def tail(self, path: str, limit_bytes: int) -> str:
        """The end of a file; empty where there is none."""
        ...

    async def remove(self, path: str) -> None:
        """Remove a file, or a folder with all that is in it; not there is no error."""
        ...

    async def aclose(self) -> None:
        """Give back what the runner itself holds."""
        ...


class Here:
    """On this machine: a login node, or any other that has the commands of the batch system."""

    async def user(self) -> str:
        """Who runs this process, whatever the environment says: the list of somebody else's jobs would be empty."""
        try:
            return pwd.getpwuid(os.geteuid()).pw_name
        except KeyError:  # a user without an entry, as in some containers
            return str(os.geteuid())

    async def run(self, call: Call, timeout_s: float) -> Answer:
        """In a process group of its own, so that nothing is left of a command that hangs."""
        wanted = {**os.environ, **call.environment}
        environment = {name: value for name, value in wanted.items() if value is not None}
        program = shutil.which(call.argv[0], path=environment.get("PATH"))
        if program is None:
            raise Rejected(f"there is no {call.argv[0]!r} on this machine", command=call.argv)
        process = await _process(program, call, environment)
        try:
            out, err = await within(timeout_s, process.communicate(call.stdin.encode()))
        except asyncio.TimeoutError:
            word = f"{call.argv[0]} has not answered for {timeout_s:g} s"
            raise Ambiguous(word, command=call.argv) from None
        finally:
            if process.returncode is None:
                await _end(process)
        return Answer(call.argv, process.returncode or 0, out.decode(errors="replace"), err.decode(errors="replace"))

    async def folder(self, path: str) -> str:
        """See ``Runner``."""
        return str(await asyncio.to_thread(_checked, _folder, path))

    async def place(self, path: str, text: str) -> str:
        """See ``Runner``."""
        return str(await asyncio.to_thread(_checked, _place, path, text))

    async def tail(self, path: str, limit_bytes: int) -> str:
        """See ``Runner``."""
        return await asyncio.to_thread(_tail, path, limit_bytes)

    async def remove(self, path: str) -> None:
        """See ``Runner``."""
        await asyncio.to_thread(_remove, path)

    async def aclose(self) -> None:
        """Nothing is held."""


async def _process(program: str, call: Call, environment: Mapping[str, str]) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    try:
        return await asyncio.create_subprocess_exec(
            program, *call.argv[1:], stdin=pipe, stdout=pipe, stderr=pipe, env=environment, start_new_session=True
        )
    except (OSError, ValueError) as error:
        raise Unavailable(f"{call.argv[0]} could not be started: {error}", command=call.argv) from error


async def _end(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001  what left the group may hold its output open
    await process.wait()


def _checked(make: object, *arguments: str) -> Path:
    try:
        return make(*arguments)  # type: ignore[operator,no-any-return]
    except OSError as error:
        raise Rejected(f"{arguments[0]} cannot be written: {error.strerror or error}") from error


def _folder(path: str) -> Path:
    folder = Path(path).expanduser().absolute()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _place(path: str, text: str) -> Path:
    final = Path(path).expanduser().absolute()
    descriptor, made = tempfile.mkstemp(dir=final.parent, prefix=".")  # it is 0600 from the beginning
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    Path(made).replace(final)
    return final


def _remove(path: str) -> None:
    place = Path(path).expanduser()
    shutil.rmtree(place, ignore_errors=True)  # does nothing to a file
    with suppress(OSError):
        place.unlink()


def _tail(path: str, limit_bytes: int) -> str:
    try:
        with Path(path).expanduser().open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - limit_bytes))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
