"""Who owns the jobs of a cluster, in one small private file for each cluster: so what a killed owner left can be found.

    $XDG_STATE_HOME/dask-adaptive/owners/   0700; ~/.local/state where the variable is not set
        KEY.json                            0600; KEY is what the names of the cluster's jobs begin with

Written when a cluster starts whose jobs do not end with its process, removed when the cluster has closed and nothing of
it is left. ``dask adaptive reap`` reads them.
"""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import psutil

from dask_adaptive.config import state_home

__all__ = ["Owner", "Process", "Source", "forget", "home", "owner_of", "owners", "this_process", "write"]

SAME_START_S = 5.0
"""The kernel's idea of when a process started moves a little when the clock is set."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process of a machine; ``started_s`` tells it from a later one with the same number."""

    host: str
    pid: int
    started_s: float

    @property
    def here(self) -> bool:
        """Whether it is one of this machine."""
        return self.host == socket.gethostname()

    @property
    def alive(self) -> bool:
        """Whether it runs; only to be asked of one of this machine."""
        with suppress(psutil.Error):
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started_s) < SAME_START_S
            return same and process.status() != psutil.STATUS_ZOMBIE
        return False


def this_process() -> Process:
    """The process that asks."""
    return Process(socket.gethostname(), os.getpid(), psutil.Process().create_time())


@dataclass(frozen=True, slots=True)
class Source:
    """Where a cluster has jobs from: a backend by name, its arguments, and the folders of what its jobs read."""

    backend: str
    options: Mapping[str, Any]
    folders: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose jobs those are whose names begin with ``key``.

    ``scheduler`` is the address of a scheduler that is not the owner's own: it may live on, and so may its jobs, until
    an owner of the same name comes back. Empty: the scheduler ended with the owner.
    """

    name: str
    key: str
    process: Process
    sources: Sequence[Source]
    scheduler: str = ""


def home() -> Path:
    """The folder of these files."""
    return state_home() / "owners"


def write(owner: Owner) -> None:
    """Keep it, in one step. Raises ``OSError``."""
    home().mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, made = tempfile.mkstemp(dir=home(), prefix=".")  # it is 0600 from the beginning
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.encode(owner))
        Path(made).replace(home() / f"{owner.key}.json")
    finally:
        Path(made).unlink(missing_ok=True)


def owner_of(key: str) -> Owner | None:
    """The owner of the jobs with this key; None where nothing is written, or nothing that can be understood."""
    with suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode((home() / f"{key}.json").read_bytes(), type=Owner)
    return None


def owners() -> list[Owner]:
    """All of them, by the name of their cluster."""
    found = [owner_of(path.stem) for path in home().glob("*.json")]
    return sorted((owner for owner in found if owner is not None), key=lambda owner: (owner.name, owner.key))


def forget(key: str) -> None:
    """There is nothing left to be found. Never raises."""
    with suppress(OSError):
        (home() / f"{key}.json").unlink(missing_ok=True)
