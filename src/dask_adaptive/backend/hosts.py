"""Hosts as a user names them: ``user@host:port*slots``, in a list or a file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from dask_adaptive.config import check_keys, count_of
from dask_adaptive.errors import ConfigError

__all__ = ["Host", "hosts_of"]

_WORD = re.compile(
    r"(?:(?P<user>[^@\s*]+)@)?(?P<address>\[[0-9A-Fa-f:.%\w]+\]|[^@\s*:\[\]]+)(?::(?P<port>\d+))?(?:\*(?P<slots>\d+))?"
)


@dataclass(frozen=True)
class Host:
    """A machine that is reached by SSH.

    Parameters
    ----------
    address:
        Name or address, or the name of a section of ``~/.ssh/config``.
    user, port:
        None: as ``~/.ssh/config`` says, else your own name and port 22.
    slots:
        How many jobs it runs at the same time. None: as many as its cores can serve with the threads of a job.
    python:
        Its interpreter for workers; None: that of the backend.
    """

    address: str
    user: str | None = None
    port: int | None = None
    slots: int | None = None
    python: str | None = None

    @property
    def label(self) -> str:
        """How it is named to the user: ``user@address:port``, as far as these were said."""
        address = f"[{self.address}]" if ":" in self.address else self.address
        return (f"{self.user}@" if self.user else "") + address + (f":{self.port}" if self.port else "")


def hosts_of(given: Any) -> tuple[Host, ...]:
    """The hosts from what a user may give.

    Parameters
    ----------
    given:
        A list of hosts, each one as ``user@host:port*slots`` (all but the host may be left out; an IPv6 address stands
        in brackets), as a mapping of ``Host``'s fields, or as a ``Host``; or one such word; or the path of a file with
        one such word per line, in which ``#`` begins a comment.

    Raises
    ------
    ConfigError
        For a word that is none of these, a file that cannot be read, and a host that is named twice.
    """
    if given is None:
        return ()
    if isinstance(given, str | Path):
        given = _lines(Path(given)) if _is_path(given) else [given]
    if isinstance(given, Mapping) or not isinstance(given, Iterable):
        raise ConfigError(f"hosts must be a list, a file or 'user@host:port*slots', not {given!r}")
    hosts = tuple(_host(each) for each in given)
    labels = [host.label for host in hosts]
    for label in labels:
        if labels.count(label) > 1:
            raise ConfigError(f"hosts: {label!r} is named twice; '{label}*2' gives it two slots")
    return hosts


def _is_path(given: str | Path) -> bool:
    return isinstance(given, Path) or "/" in given or Path(given).is_file()


def _lines(path: Path) -> list[str]:
    try:
        lines = path.expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the file of hosts {str(path)!r} cannot be read: {error}") from error
    words = [line.partition("#")[0].strip() for line in lines]
    return [word for word in words if word]


def _host(given: Any) -> Host:
    if isinstance(given, Mapping):
        check_keys("field of a host", map(str, given), [each.name for each in fields(Host)])
        if not given.get("address"):
            raise ConfigError(f"a host needs an address: {dict(given)!r}")
        given = Host(**{str(key): value for key, value in given.items()})
    if isinstance(given, Host):
        return _checked(given)
    match = _WORD.fullmatch(given.strip()) if isinstance(given, str) else None
    if match is None:
        raise ConfigError(f"a host is written as 'user@host:port*slots', not {given!r}")
    user, address, port, slots = match.group("user", "address", "port", "slots")
    return _checked(Host(address.strip("[]"), user, int(port) if port else None, int(slots) if slots else None))


def _checked(host: Host) -> Host:
    for key in ("address", "user", "python"):
        said = getattr(host, key)
        if said is not None and not (isinstance(said, str) and said.strip()):
            raise ConfigError(f"the {key} of a host must be text, not {said!r}")
    if host.slots is not None:
        count_of(f"slots of host {host.label}", host.slots, least=1)
    if host.port is not None and not 0 < count_of(f"port of host {host.address}", host.port) < 65536:
        raise ConfigError(f"the port of host {host.address} must be from 1 to 65535, not {host.port}")
    return host
