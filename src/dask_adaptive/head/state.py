"""The registry of named heads: one private folder for each in the user's state directory.

    $XDG_STATE_HOME/dask-adaptive/heads/ 0700; ~/.local/state where the variable is not set
        NAME/                            0700; made by ``up``, removed by the head when it ends
            setup.json                   what was asked for, and by which process
            running.json                 what runs: process, address, pages
            ca.pem, cert.pem, key.pem    credentials of this cluster alone
            log                          what the head printed

Every file is 0600. A folder is made in one step, so a name is given to one of two who want it at the same time.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from distributed.security import Security

from dask_adaptive.config import state_home
from dask_adaptive.errors import ConfigError, nearest
from dask_adaptive.owners import Process, this_process

__all__ = [
    "CREDENTIALS",
    "NAME",
    "Entry",
    "Process",
    "Running",
    "Setup",
    "Standing",
    "claim",
    "entries",
    "entry_of",
    "home",
    "security_from",
    "this_process",
]

T = TypeVar("T")

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
CREDENTIALS = ("ca", "cert", "key")
BEGUN_S = 30.0
"""A folder without anything in it is being filled; later than that its maker was killed."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What was asked for: the description of the cluster, as plain values.

    ``job`` is the manager's id of the job that the head is, ``key`` what the name of that job begins with, and
    ``folders`` hold what it reads; all are empty for a head that runs where it was started.
    """

    starter: Process
    description: Mapping[str, Any]
    key: str = ""
    job: str = ""
    folders: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Running:
    """What runs.

    ``address`` is empty until clients can come; ``key`` is what the names of the cluster's jobs begin with; ``failed``
    is why it did not come up.
    """

    name: str
    process: Process
    since_s: float
    version: str
    address: str = ""
    dashboard: str = ""
    key: str = ""
    failed: str = ""


class Standing(str, Enum):
    """What becomes of a name, as far as can be told without asking the cluster or a resource manager."""

    STARTING = "starting"
    RUNNING = "running"
    LOST = "lost"
    """Its process is gone and did not clean up."""
    ELSEWHERE = "elsewhere"
    """Its process is on another machine, or a job in a queue still."""


class Entry:
    """The folder of one named head.

    Raises
    ------
    ConfigError
        From every method, if the folder cannot be read or written; one sentence.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = folder.name
        self.log = folder / "log"

    def setup(self) -> Setup | None:
        """What was asked for; None as long as that is not written."""
        return self._read("setup.json", Setup)

    def running(self) -> Running | None:
        """What runs; None as long as its process has not begun."""
        return self._read("running.json", Running)

    def write(self, what: Setup | Running) -> None:
        """Keep it, in one step."""
        self.write_text("setup.json" if isinstance(what, Setup) else "running.json", msgspec.json.encode(what))

    def write_text(self, name: str, text: bytes) -> None:
        """A private file of this folder, complete or not there."""
        made = self.folder / f".{name}.{os.getpid()}"
        with _said(f"the state of cluster {self.name!r} cannot be written to {str(self.folder)!r}"):
            try:
                descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
                with os.fdopen(descriptor, "wb") as file:
                    file.write(text)
                made.replace(self.folder / name)
            except OSError:
                with suppress(OSError):
                    made.unlink(missing_ok=True)
                raise

    def make_credentials(self) -> Security:
        """New credentials, good for this cluster and nothing else, in private files."""
        made = Security.temporary()
        for name, text in zip(CREDENTIALS, (made.tls_ca_file, made.tls_client_cert, made.tls_client_key), strict=True):
            self.write_text(f"{name}.pem", str(text).encode())
        return self.security()

    def security(self) -> Security:
        """The credentials, as files."""
        return security_from(*(str(self.folder / f"{name}.pem") for name in CREDENTIALS))

    def printed(self) -> str:
        """What the head printed here, the last 100,000 characters of it."""
        with _said(f"the log of cluster {self.name!r} cannot be read"):
            return self.log.read_text(encoding="utf-8", errors="replace")[-100_000:]

    def standing(self) -> Standing:
        """What has become of it."""
        running, setup = self.running(), self.setup()
        if running is not None:
            return _standing_of(running)
        if setup is not None and setup.key:
            return Standing.ELSEWHERE
        if setup is not None:
            return Standing.STARTING if not setup.starter.here or setup.starter.alive else Standing.LOST
        with suppress(OSError):
            return Standing.STARTING if time.time() - self.folder.stat().st_mtime < BEGUN_S else Standing.LOST
        return Standing.LOST

    def remove(self) -> None:
        """Forget it, credentials first, with what the job that it is reads."""
        setup = None
        with suppress(ConfigError):
            setup = self.setup()
        for folder in setup.folders if setup is not None else ():
            shutil.rmtree(folder, ignore_errors=True)
        for name in CREDENTIALS:
            with suppress(OSError):
                (self.folder / f"{name}.pem").unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _read(self, name: str, kind: type[T]) -> T | None:
        with _said(f"the state of cluster {self.name!r} cannot be read"):
            try:
                return msgspec.json.decode((self.folder / name).read_bytes(), type=kind)
            except (FileNotFoundError, NotADirectoryError):
                return None
            except msgspec.MsgspecError as error:
                raise ConfigError(f"{str(self.folder / name)!r} is not ours or of another version: {error}") from error


def _standing_of(running: Running) -> Standing:
    if running.failed:
        return Standing.LOST
    if not running.process.here:
        return Standing.ELSEWHERE
    if not running.process.alive:
        return Standing.LOST
    return Standing.RUNNING if running.address else Standing.STARTING


def security_from(ca: str, cert: str, key: str) -> Security:
    """TLS options from one set of credentials for every role: paths, or the texts themselves."""
    roles = ("client", "scheduler", "worker")
    pairs = {f"tls_{role}_{kind}": value for role in roles for kind, value in (("cert", cert), ("key", key))}
    return Security(require_encryption=True, tls_ca_file=ca, **pairs)


# --- the folder of folders ---------------------------------------------------------------------------------------


def home() -> Path:
    """The folder of these folders, in the state directory of the user."""
    return state_home() / "heads"


def claim(name: str, *, is_lost: Callable[[Entry], bool] = lambda _: False) -> Entry:
    """Take a name: its new, empty, private folder.

    Raises
    ------
    ConfigError
        For a name that cannot be or is taken, or a state directory that cannot be written or is open to others.
    """
    if not NAME.fullmatch(name):
        raise ConfigError(f"a cluster is named with letters, digits, '.', '_' and '-', not {name!r}")
    entry = Entry(_private_home() / name)
    if entry.standing() is Standing.LOST and entry.folder.exists() and is_lost(entry):
        entry.remove()
    with _said(f"the state directory {str(entry.folder.parent)!r} cannot be written"), suppress(FileExistsError):
        entry.folder.mkdir(mode=0o700)
        return entry
    standing = entry.standing()
    cure = f"`dask adaptive {'reap' if standing is Standing.LOST else 'down'} {name}` ends it"
    raise ConfigError(f"there is a cluster {name!r} already ({standing.value}); {cure}")


def entries() -> list[Entry]:
    """Every named head of this user, by name."""
    with _said(f"the state directory {str(home())!r} cannot be read"):
        if not home().is_dir():
            return []
        return [Entry(path) for path in sorted(home().iterdir()) if path.is_dir() and NAME.fullmatch(path.name)]


def entry_of(name: str) -> Entry:
    """The head of this name. Raises ``ConfigError`` that lists the known ones, the nearest first."""
    known = {entry.name: entry for entry in entries()}
    if name not in known:
        raise ConfigError(f"there is no cluster {name!r}; {nearest(name, known)}")
    return known[name]


def _private_home() -> Path:
    """The state directory, made if need be, and for its owner only."""
    folder = home()
    with _said(f"the state directory {str(folder)!r} cannot be written"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
        if found.st_uid != os.getuid():
            raise ConfigError(f"the state directory {str(folder)!r} belongs to another user; set XDG_STATE_HOME")
        if found.st_mode & 0o077:
            folder.chmod(0o700)
    return folder


class _said:  # noqa: N801 - reads as a word of the with statement
    """Turns what the file system refuses into one sentence; that something exists already passes."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError) and not isinstance(error, FileExistsError):
            hint = "; XDG_STATE_HOME names another place" if error.errno in _ELSEWHERE else ""
            raise ConfigError(f"{self.what}: {error.strerror}{hint}") from error


_ELSEWHERE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.ENOTDIR)
