"""Runs the commands of a batch system on a login node, over the ``ssh`` program.

The program and not a library: it knows the user's agent, jump hosts and second factor, and keeps one connection open
for all commands (``ControlMaster`` of ssh_config(5)), so that a site asks its user once. Host keys are checked.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shlex
import shutil
import signal
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from dask_adaptive.backend.dialect import Answer, Call
from dask_adaptive.errors import Ambiguous, ConfigError, Rejected, Unavailable
from dask_adaptive.waiting import within

__all__ = ["Login"]

CONNECT_S = 20
"""After how many seconds of silence a host counts as away."""

PERSIST_S = 120
"""How long the shared connection outlives its last command, should nobody close it."""

_NEVER_RUN = (
    "Host key verification failed",
    "REMOTE HOST IDENTIFICATION HAS CHANGED",
    "Permission denied",
    "Could not resolve hostname",
    "Connection refused",
    "Connection timed out",
    "No route to host",
    "Network is unreachable",
    "Too many authentication failures",
    "kex_exchange_identification",
    "Connection closed by",
    "Control socket connect",
)
"""What ssh says when it got nowhere, so that the command surely was not run."""


class Login:
    """A login node, as ``ssh`` reaches it; see ``Runner``.

    Parameters
    ----------
    host:
        ``user@host``, or any name of ``~/.ssh/config``.
    options:
        More arguments for ssh, such as ``("-J", "jump.site.org")``.

    Raises
    ------
    ConfigError
        For a host that is none, or where there is no ``ssh``.
    """

    def __init__(self, host: str, *, options: Sequence[str] = ()) -> None:
        if not isinstance(host, str) or not host or host.startswith("-") or any(c.isspace() for c in host):
            raise ConfigError(f"login must be user@host, not {host!r}")
        program = shutil.which("ssh")
        if program is None:
            raise ConfigError("login= needs the program ssh (of OpenSSH), and there is none on PATH")
        self.host = host
        self._program, self._options = program, tuple(options)
        self._folder = ""  # made with the connection: many are made only to see whether they could be
        self._connecting: tuple[asyncio.AbstractEventLoop | None, asyncio.Lock] = None, asyncio.Lock()
        self._user = ""

    @property
    def _ssh(self) -> list[str]:
        shared = ["-o", f"ControlPath={self._folder}/s", "-o", f"ConnectTimeout={CONNECT_S}"]
        return [self._program, *shared, "-o", "ServerAliveInterval=15", *self._options]

    # --- Runner ---

    async def user(self) -> str:
        """Who we are there."""
        if not self._user:
            answer = await self.run(Call(("id", "-un")), CONNECT_S * 2)
            if answer.exit_code or not answer.stdout.strip():
                raise Unavailable(f"{self.host} does not say who we are: {answer.said}", command=answer.argv)
            self._user = answer.stdout.strip()
        return self._user

    async def run(self, call: Call, timeout_s: float) -> Answer:
        """Run one command there; its words are quoted one by one."""
        taken = [word for name, value in call.environment.items() if value is None for word in ("-u", name)]
        given = [f"{name}={value}" for name, value in call.environment.items() if value is not None]
        command = shlex.join(["env", *taken, *given, *call.argv] if taken or given else call.argv)
        answer = await self._shell(command, call.stdin, timeout_s, call.argv)
        if answer.exit_code == 127:
            raise Rejected(f"there is no {call.argv[0]!r} on {self.host}", command=call.argv)
        return answer

    async def folder(self, path: str) -> str:
        """See ``Runner``."""
        place = _path(path)
        return await self._done(f"mkdir -p -m 700 -- {place} && cd -- {place} && pwd", path)

    async def place(self, path: str, text: str) -> str:
        """See ``Runner``."""
        place, draft = _path(path), _path(f"{path}.{secrets.token_hex(4)}")
        command = f"umask 077 && cat > {draft} && mv -f -- {draft} {place} && echo {place}"
        return await self._done(command, path, text)

    async def tail(self, path: str, limit_bytes: int) -> str:
        """See ``Runner``."""
        command = f"tail -c {int(limit_bytes)} -- {_path(path)} 2>/dev/null || true"
        return (await self._shell(command, "", CONNECT_S * 2, ("tail", path))).stdout

    async def remove(self, path: str) -> None:
        """See ``Runner``."""
        await self._shell(f"rm -rf -- {_path(path)}", "", CONNECT_S * 2, ("rm", path))

    async def aclose(self) -> None:
        """Close the shared connection."""
        if not self._folder:
            return
        with suppress(Unavailable, Ambiguous, OSError):
            await self._ssh_ends([*self._ssh, "-O", "exit", self.host], "", CONNECT_S, ("ssh", "-O", "exit"))
        folder, self._folder = self._folder, ""
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    # --- by ssh ---

    async def _done(self, command: str, path: str, text: str = "") -> str:
        answer = await self._shell(command, text, CONNECT_S * 2, ("sh", "-c", command))
        if answer.exit_code:
            raise Rejected(f"{path} on {self.host} cannot be written: {answer.said}")
        return answer.stdout.strip()

    async def _shell(self, command: str, stdin: str, timeout_s: float, argv: Sequence[str]) -> Answer:
        """Run a line of shell there. What a login shell prints on its own is told from the answer by two marks."""
        await self._connect()
        mark = secrets.token_hex(8)
        line = f"printf '%s\\n' {mark}; {command}; printf '\\n%s %d\\n' {mark} $?"
        ssh = [*self._ssh, "-T", "-o", "BatchMode=yes", "-o", "ControlMaster=no", self.host, "--"]
        code, out, err = await self._ssh_ends([*ssh, f"exec /bin/sh -lc {shlex.quote(line)}"], stdin, timeout_s, argv)
        _, began, rest = out.partition(f"{mark}\n")
        stdout, ended, status = rest.rpartition(f"\n{mark} ")
        if ended:
            return Answer(tuple(argv), int(status), stdout, err)
        if "Control socket connect" in err:  # nobody listens there any more: the next command connects anew
            await asyncio.to_thread(Path(self._folder, "s").unlink, missing_ok=True)
        said = " ".join(err.split())[:300] or f"ssh ended with {code}"
        if not began and any(sentence in err for sentence in _NEVER_RUN):
            raise _away(self.host, err, argv)
        raise Ambiguous(f"the connection to {self.host} was cut: {said}", command=argv)

    async def _connect(self) -> None:
        """Open the shared connection, where it is not open; ssh may ask for a password or a second factor on the
        terminal, if there is one.
        """
        async with self._alone():
            if not self._folder:
                self._folder = tempfile.mkdtemp(
                    prefix="dask-adaptive-ssh-"
                )  # short: a socket's path has 100 characters
            if await asyncio.to_thread(os.path.exists, f"{self._folder}/s"):
                return
            batch = [] if await asyncio.to_thread(_has_terminal) else ["-o", "BatchMode=yes"]
            master = ["-f", "-N", "-M", "-o", f"ControlPersist={PERSIST_S}", *batch]
            notes = Path(self._folder) / "notes"
            with notes.open("w") as said:  # not a pipe: the connection, which goes on, would hold it open
                nothing = asyncio.subprocess.DEVNULL
                process = await asyncio.create_subprocess_exec(
                    *self._ssh, *master, self.host, stdin=nothing if batch else None, stdout=nothing, stderr=said
                )
            try:
                failed = await process.wait()
            finally:
                if process.returncode is None:  # nobody waits any more for what it asks on the terminal
                    process.kill()
                    await process.wait()
            if failed:
                err = await asyncio.to_thread(notes.read_text, errors="replace")
                raise _away(self.host, err, ("ssh",))

    def _alone(self) -> asyncio.Lock:
        """What one waits for that connects; it belongs to a loop, and a closed cluster is asked on others."""
        loop = asyncio.get_running_loop()
        if self._connecting[0] is not loop:
            self._connecting = loop, asyncio.Lock()
        return self._connecting[1]

    async def _ssh_ends(
        self, command: Sequence[str], stdin: str, timeout_s: float, argv: Sequence[str]
    ) -> tuple[int, str, str]:
        drafts = [Path(self._folder) / f"{secrets.token_hex(8)}.{name}" for name in ("in", "out", "err")]
        drafts[0].write_text(stdin)
        # Not pipes: the shared connection holds those of a command that was given up, until that ends there.
        with ExitStack() as open_files:
            files = [open_files.enter_context(path.open(mode)) for path, mode in zip(drafts, "rww", strict=True)]
            process = await asyncio.create_subprocess_exec(
                *command, stdin=files[0], stdout=files[1], stderr=files[2], start_new_session=True
            )
        try:
            code = await within(timeout_s, process.wait())
            return code, drafts[1].read_text(errors="replace"), drafts[2].read_text(errors="replace")
        except asyncio.TimeoutError:
            raise Ambiguous(f"{argv[0]} on {self.host} has not answered for {timeout_s:g} s", command=argv) from None
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
            for path in drafts:
                path.unlink(missing_ok=True)


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR))
    except OSError:
        return False
    return True


def _path(path: str) -> str:
    """A path as one word of shell; ``~`` is the home there."""
    if path == "~" or path.startswith("~/"):
        return f'"$HOME"{shlex.quote(path[1:])}' if len(path) > 1 else '"$HOME"'
    return shlex.quote(path)


def _away(host: str, said: str, argv: Sequence[str]) -> Unavailable:
    return Unavailable(f"{host} cannot be reached: {' '.join(said.split())[:300]}{_advice(host, said)}", command=argv)


def _advice(host: str, said: str) -> str:
    if "Host key verification failed" in said or "REMOTE HOST IDENTIFICATION" in said:
        return f"; `ssh {host}` shows its key and, once accepted, keeps it"
    if "Permission denied" in said:
        return f"; `ssh {host}` has to work first"
    return ""
