"""Real OpenSSH servers on loopback that stand for several hosts; nobody's ``~/.ssh`` is touched.

Each has a port, a host key, a state directory and an environment of its own, so that one machine looks like many to
whoever comes by SSH. Every process of a host carries its mark in the environment, and so can be found and killed.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from tests.ports import free_ports

MARK = "DASK_ADAPTIVE_TEST_MARK"
PATIENCE_S = 60.0


def make_key(path: Path) -> Path:
    """A key without a passphrase."""
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", path.name, "-f", str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return path


@dataclass
class Sshd:
    """One host: a server with its own folder."""

    folder: Path
    user_key: Path
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    environment: Mapping[str, str] = field(default_factory=dict)
    port: int = 0
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        make_key(self.folder / "host_key")
        shutil.copy(self.user_key.with_suffix(".pub"), self.folder / "authorized_keys")
        (self.port,) = free_ports(1)

    @property
    def label(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def jobs(self) -> Path:
        """Where it keeps what is known of jobs."""
        return self.folder / "state" / "dask-adaptive" / "jobs" / socket.gethostname()

    def start(self) -> None:
        """Run it; returns when it answers."""
        home = {"HOME": str(self.folder), "XDG_STATE_HOME": str(self.folder / "state")}  # no .bashrc of anybody
        values = {MARK: self.mark, **home, **self.environment}
        variables = " ".join(f'"{name}={value}"' for name, value in values.items())
        lines = (
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {self.folder}/host_key\n"
            f"AuthorizedKeysFile {self.folder}/authorized_keys\nPidFile none\nUsePAM no\nStrictModes no\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\nMaxStartups 100\n"
            f"AllowTcpForwarding yes\nSetEnv {variables}\n"
        )
        (self.folder / "sshd_config").write_text(lines)
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        program = shutil.which("sshd")
        assert program is not None
        with (self.folder / "sshd.log").open("ab") as log:
            command = [program, "-D", "-e", "-f", str(self.folder / "sshd_config")]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + PATIENCE_S
        while not self._answers():
            assert self.process.poll() is None, (self.folder / "sshd.log").read_text()
            assert time.monotonic() < deadline, "sshd does not answer"
            time.sleep(0.02)

    def _answers(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            return connection.recv(4) == b"SSH-"
        return False

    def left(self) -> list[psutil.Process]:
        """Every process that was started through it and lives."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def agents(self) -> list[psutil.Process]:
        """What runs at the ends of its connections."""
        sessions = psutil.Process(self.process.pid).children(recursive=True) if self.process is not None else []
        found = []
        for session in sessions:
            with suppress(psutil.Error):
                found += session.children() if session.name().startswith("sshd") else []
        return found

    def cut(self) -> None:
        """Cut every connection; the server, and what was started through it, go on."""
        assert self.process is not None
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.Error):
                if child.name().startswith("sshd"):
                    child.kill()

    def stop(self) -> None:
        """No more connections; what was started through it goes on."""
        if self.process is not None:
            children = psutil.Process(self.process.pid).children(recursive=True)
            self.process.kill()
            self.process.wait()
            for child in children:
                with suppress(psutil.Error):
                    if child.name().startswith("sshd"):
                        child.kill()
            self.process = None

    def lose(self) -> None:
        """The host is gone, with all that ran on it."""
        self.stop()
        for process in self.left():
            with suppress(psutil.Error):
                process.send_signal(signal.SIGKILL)


@dataclass
class Hosts:
    """Some hosts, the key that opens them, and what a user knows of them."""

    folder: Path
    sshds: list[Sshd]
    key: Path
    known_hosts: Path

    @property
    def options(self) -> dict[str, Any]:
        """For the backend; nothing of the user's own SSH is looked at."""
        words = {"config": str(self.folder / "config"), "known_hosts": str(self.known_hosts), "keys": [str(self.key)]}
        return {**words, "connect_options": {"agent_path": None}}

    def words(self, slots: int = 2) -> list[str]:
        return [f"{sshd.label}*{slots}" for sshd in self.sshds]

    def left(self) -> list[psutil.Process]:
        """Every process that was started through these hosts and lives."""
        return [process for sshd in self.sshds for process in sshd.left()]

    def jobs_left(self) -> list[psutil.Process]:
        """The same without what only lives as long as a connection: the children of sshd."""
        agents = [child.pid for sshd in self.sshds for child in sshd.agents()]
        return [process for process in self.left() if process.pid not in agents]

    def knows(self, *sshds: Sshd) -> None:
        """Write the user's known_hosts."""
        lines = (f"[127.0.0.1]:{each.port} {(each.folder / 'host_key.pub').read_text()}" for each in sshds)
        self.known_hosts.write_text("".join(lines))


@contextmanager
def running_hosts(folder: Path, count: int = 2, **environment: str) -> Iterator[Hosts]:
    """Some hosts that run, until they are killed with all that is left on them."""
    folder.mkdir(parents=True, exist_ok=True)
    key = make_key(folder / "user_key")
    (folder / "config").write_text("")
    sshds = [Sshd(folder / f"host{i}", key, environment=environment) for i in range(count)]
    hosts = Hosts(folder, sshds, key, folder / "known_hosts")
    hosts.knows(*sshds)
    try:
        for sshd in sshds:
            sshd.start()
        yield hosts
    finally:
        for sshd in sshds:
            sshd.lose()
