"""Reaching a head on another machine: its state is read over SSH, its scheduler and dashboard through a forward.

The ``ssh`` program does it, so that keys, agents, jump hosts and ``~/.ssh/config`` are the user's own.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import IO
from urllib.parse import urlsplit

import msgspec

from dask_adaptive.errors import ConfigError, EngineError, nearest
from dask_adaptive.head.state import CREDENTIALS, NAME, Running

__all__ = ["Far", "Forward", "forward", "is_far", "look_up"]

FETCH_S = 120.0
FORWARD_S = 30.0
LONGEST_REST_S = 60.0

ALIVE = ("-o", "ExitOnForwardFailure=yes", "-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=3")
UNKNOWN = 44

TIED = """
exec 3<&0
"$@" </dev/null 3<&- & ssh=$!
{ cat <&3 >/dev/null; kill "$ssh"; } & reader=$!
wait "$ssh"; code=$?
kill "$reader"
exit "$code"
"""
"""Run by ``sh`` here: SSH ends as soon as the other end of our standard input is closed, however that came about."""

FETCH = """
cd "${{XDG_STATE_HOME:-$HOME/.local/state}}/dask-adaptive/heads" 2>/dev/null && ls
echo {mark}
cd ./{name} 2>/dev/null || exit {unknown}
for file in running.json ca.pem cert.pem key.pem; do cat "$file" || exit 45; echo; echo {mark}; done
"""
"""Run by ``sh`` there: the names of all heads, then the files of this one, each ended by a line that nobody guesses."""


@dataclass(frozen=True)
class Far:
    """A head elsewhere: ``destination`` is what ``ssh`` is told."""

    destination: str
    name: str


def is_far(word: str) -> bool:
    """Whether this names a head elsewhere: ``user@host:NAME``, ``host:NAME``."""
    if not isinstance(word, str):
        raise ConfigError(f"a cluster is named by a word, or as 'user@host:NAME', not {word!r}")
    return ":" in word


def far(word: str) -> Far:
    """Raises ``ConfigError`` for what cannot be."""
    destination, _, name = word.rpartition(":")
    if not destination or destination.startswith("-") or not NAME.fullmatch(name):
        raise ConfigError(f"a cluster elsewhere is named user@host:NAME, not {word!r}")
    return Far(destination, name)


def look_up(word: str, ssh: Sequence[str] = ("ssh",)) -> tuple[Running, tuple[str, ...]]:
    """What runs there under this name, and the texts of its credentials.

    Raises ``ConfigError`` for a name that is not known there, ``EngineError`` where SSH fails or the head is not up.
    """
    where, mark = far(word), secrets.token_hex(16)
    script = FETCH.format(mark=mark, name=where.name, unknown=UNKNOWN)
    command = [*ssh, "-T", where.destination, "exec sh -s"]
    try:
        done = subprocess.run(  # noqa: S603 - no shell here; over there a script of ours
            command, input=script, capture_output=True, text=True, timeout=FETCH_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineError(f"{where.destination} cannot be reached: {error}") from error
    names, *files = [part.strip() for part in done.stdout.split(mark)]
    if done.returncode == UNKNOWN:
        raise ConfigError(
            f"there is no cluster {where.name!r} on {where.destination}; {nearest(where.name, names.split())}"
        )
    if done.returncode or len(files) != len(CREDENTIALS) + 2:
        said = done.stderr.strip().splitlines()
        why = said[-1] if said else f"exit code {done.returncode}"
        raise EngineError(f"cluster {where.name!r} on {where.destination} cannot be looked up: {why}")
    try:
        running = msgspec.json.decode(files[0], type=Running)
    except msgspec.MsgspecError as error:
        raise EngineError(f"cluster {where.name!r} on {where.destination} is of another version: {error}") from error
    if not running.address:
        raise EngineError(f"cluster {where.name!r} on {where.destination} is not up")
    return running, tuple(f"{text}\n" for text in files[1:-1])


class Forward:
    """Ports of this machine that lead to places which another machine can reach, for as long as this process lives.

    When SSH ends, it is begun again on the same ports until ``close``: after a second, then, while it gets nowhere,
    after two, four and so on up to a minute.

    Parameters
    ----------
    destination:
        What ``ssh`` is told.
    places:
        ``host:port`` as seen from there.
    ssh:
        The program and its first arguments.

    Attributes
    ----------
    ports:
        For each place the port here, on loopback.

    Raises
    ------
    EngineError
        If the connection cannot be made at first.
    """

    def __init__(self, destination: str, places: Sequence[str], ssh: Sequence[str] = ("ssh",)) -> None:
        self.ports = _free_ports(len(places))
        self._ssh, self._destination = ssh, destination
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        pairs = zip(self.ports, places, strict=True)
        self._ways = [word for port, place in pairs for word in ("-L", f"127.0.0.1:{port}:{place}")]
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._process = self._begun()
        self._keeper = threading.Thread(target=self._keep, name=f"forward to {destination}", daemon=True)
        try:
            self._wait()
        except BaseException:
            self.close()
            raise
        self._keeper.start()

    def _begun(self) -> subprocess.Popen[bytes]:
        self._said.seek(0)
        self._said.truncate()
        command = [*self._ssh, "-N", "-T", *ALIVE, *self._ways, self._destination]
        return subprocess.Popen(  # noqa: S603 - the shell runs a text of ours; the rest are words
            ["/bin/sh", "-c", TIED, "sh", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._said,
            start_new_session=True,  # ctrl-C is for us only
        )

    def _wait(self) -> None:
        deadline = time.monotonic() + FORWARD_S
        while not all(_listens(port) for port in self.ports):
            if self._process.poll() is not None:
                self._said.seek(0)
                words = self._said.read().decode(errors="replace").strip().splitlines()
                raise EngineError(f"no way to {self._destination}: {words[-1] if words else 'ssh ended'}")
            if time.monotonic() > deadline:
                raise EngineError(f"no way to {self._destination} within {FORWARD_S:g} s")
            time.sleep(0.05)

    def _keep(self) -> None:
        """Begin again whenever SSH ended."""
        failures = 0
        while True:
            self._process.wait()
            if self._closed.wait(min(LONGEST_REST_S, 2.0**failures)):
                return
            failures += 1
            with suppress(OSError, ValueError, EngineError):  # ValueError: closed just now
                with self._lock:
                    if self._closed.is_set():
                        return
                    _close(self._process.stdin)
                    self._process = self._begun()
                self._wait()
                failures = 0

    def close(self) -> None:
        """Close the way. Safe to call twice."""
        with self._lock:
            self._closed.set()
        if any(_listens(port) for port in self.ports):  # a shared connection (ControlMaster) would keep it open
            with suppress(OSError, subprocess.TimeoutExpired):
                cancel = [*self._ssh, "-O", "cancel", *self._ways, self._destination]
                subprocess.run(cancel, capture_output=True, timeout=5, check=False)  # noqa: S603
        _close(self._process.stdin)
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        if self._keeper.ident is not None:
            self._keeper.join()
        _close(self._said)


def forward(word: str, ssh: Sequence[str] = ("ssh",)) -> tuple[Running, tuple[str, ...], Forward]:
    """The head of this name elsewhere, with addresses that lead there from here, and the forward they go through."""
    running, credentials = look_up(word, ssh)
    scheduler, page = urlsplit(running.address), urlsplit(running.dashboard)
    places = [part.netloc for part in (scheduler, page) if part.netloc]
    way = Forward(far(word).destination, places, ssh)
    address = f"{scheduler.scheme}://127.0.0.1:{way.ports[0]}"
    dashboard = page._replace(netloc=f"127.0.0.1:{way.ports[-1]}").geturl() if page.netloc else ""
    return replace(running, address=address, dashboard=dashboard), credentials, way


def _close(file: IO[bytes] | None) -> None:
    if file is not None:
        with suppress(OSError):
            file.close()


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
