"""Connecting to a host, with its key checked; what went wrong is a sentence that says what to do."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import asyncssh

from dask_adaptive.backend.hosts import Host
from dask_adaptive.errors import Unavailable
from dask_adaptive.waiting import within

__all__ = ["CLOSING_S", "aborted", "connect", "in_words"]

CONNECTING_S = 15.0
CLOSING_S = 5.0


class _Gate(asyncssh.SSHClient):
    """Asked by asyncssh about a host key that is not in known_hosts."""

    def __init__(self, accept_new: bool) -> None:
        self.accept_new = accept_new
        self.connection: asyncssh.SSHClientConnection | None = None
        self.complaint = ""
        self.new: tuple[str, asyncssh.SSHKey] | None = None

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        self.connection = conn

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:  # noqa: ARG002
        name = host if port == 22 else f"[{host}]:{port}"
        known = getattr(self.connection, "_trusted_host_keys", (key,))  # should asyncssh rename it: nobody is new
        fingerprint = f"{key.get_algorithm()} {key.get_fingerprint()}"
        if known:
            self.complaint = (
                f"its host key {fingerprint} is not the one in known_hosts: either the host was set up anew (then "
                f"ssh-keygen -R '{name}'), or somebody else answers in its place"
            )
            return False
        if self.accept_new:
            self.new = (name, key)
            return True
        self.complaint = (
            f"its host key {fingerprint} is not in known_hosts: connect once with ssh and compare, or trust every new "
            "host with host_keys='accept-new'"
        )
        return False


async def _connected(host: Host, options: Mapping[str, Any]) -> asyncssh.SSHClientConnection:
    return await asyncssh.connect(host.address, **options)


async def connect(host: Host, ssh: Mapping[str, Any], accept_new: bool) -> asyncssh.SSHClientConnection:
    """A connection to a host. Raises ``Unavailable``.

    ``ssh`` are arguments of ``asyncssh.connect``; ``accept_new``: a host that is not in known_hosts is added to it.
    """
    gate = _Gate(accept_new)
    options: dict[str, Any] = {"keepalive_interval": 10, "keepalive_count_max": 3, "login_timeout": CONNECTING_S}
    options |= {"client_factory": lambda: gate, **ssh}
    given = options.get("known_hosts")
    if isinstance(given, str) and not await asyncio.to_thread(Path(given).exists):
        options["known_hosts"] = b""  # as with ssh: nobody is known yet
    if host.user is not None:
        options["username"] = host.user
    if host.port is not None:
        options["port"] = host.port
    try:
        connection = await within(CONNECTING_S, _connected(host, options))
    except asyncssh.HostKeyNotVerifiable as error:
        raise Unavailable(f"{host.label}: {gate.complaint or in_words(error)}") from error
    except asyncssh.PermissionDenied as error:
        raise Unavailable(
            f"{host.label}: it does not let us in ({in_words(error)}); 'ssh' to it has to work without a password"
        ) from error
    except asyncio.TimeoutError as error:
        raise Unavailable(f"{host.label}: no connection within {CONNECTING_S:g} s") from error
    except (asyncssh.Error, asyncssh.KeyImportError, OSError, ValueError) as error:
        raise Unavailable(f"{host.label}: {in_words(error)}") from error
    try:
        if "known_hosts" not in ssh and getattr(connection, "_known_hosts", None) is None:
            raise OSError(
                "its key cannot be checked, by UserKnownHostsFile of the configuration; known_hosts= names one"
            )
        if gate.new is not None:
            path = Path(given) if isinstance(given, str) else _known_hosts(connection)
            await asyncio.to_thread(_remember, path, *gate.new)
    except OSError as error:
        await aborted(connection)
        raise Unavailable(f"{host.label}: {in_words(error)}") from error
    return connection


def _known_hosts(connection: asyncssh.SSHClientConnection) -> Path:
    """The file that the key was looked for in, as it is configured."""
    given = getattr(connection, "_known_hosts", None) or "~/.ssh/known_hosts"
    return Path(given if isinstance(given, str | os.PathLike) else given[0]).expanduser()


def _remember(path: Path, name: str, key: asyncssh.SSHKey) -> None:
    """Add a new host key, as ``ssh -o StrictHostKeyChecking=accept-new`` does."""
    line = f"{name} {key.export_public_key('openssh').decode().strip()}\n"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "r+b", buffering=0) as file:
        begun = file.seek(0, os.SEEK_END) and file.seek(-1, os.SEEK_END) and file.read(1) != b"\n"
        file.write((b"\n" if begun else b"") + line.encode())


async def aborted(connection: asyncssh.SSHClientConnection) -> None:
    """Drop a connection, and its socket."""
    connection.abort()
    with contextlib.suppress(asyncio.TimeoutError, asyncssh.Error, OSError):
        await within(CLOSING_S, connection.wait_closed())


def in_words(error: BaseException) -> str:
    """An error of others in words."""
    said = getattr(error, "reason", "") or getattr(error, "strerror", "") or str(error) or type(error).__name__
    number, about = getattr(error, "errno", None), getattr(error, "filename", None)
    if isinstance(number, int) and number > 0:
        said = os.strerror(number)
    return f"{said}: {about}" if about else str(said)
