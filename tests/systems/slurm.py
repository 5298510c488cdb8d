"""A real Slurm in a temporary folder: munged, slurmctld and four nodes of this machine, one slurmd for each.

Started once, when a test asks for it first, and ended with the interpreter, however that ends.
"""

from __future__ import annotations

import atexit
import functools
import getpass
import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import psutil
from tests.ports import free_ports
from tests.waiting import soon

NODES = 4
CORES = 16
"""Of each node: Slurm is told so, whatever this machine has."""

CONFIGURATION = """
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmctldPort={port}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdSpoolDir={folder}/spool/%n
StateSaveLocation={folder}/state
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_min_interval=100000,bf_interval=2
MpiDefault=none
ReturnToService=2
KillWait=5
MessageTimeout=3
SlurmctldTimeout=300
SlurmdTimeout=300
MaxArraySize=1001
JobRequeue=1
GresTypes=gpu
NodeName=DEFAULT CPUs={cores} RealMemory=64000 Gres=gpu:2 State=UNKNOWN
NodeName=n[1-{nodes}] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{ports}]
PartitionName=main Nodes=ALL Default=YES State=UP
PartitionName=closed Nodes=ALL State=DOWN
PartitionName=others Nodes=ALL AllowGroups=nogroup State=UP
"""


class SlurmSystem:
    """The daemons, and what a test asks of the manager itself."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-"))
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self.configuration = self.folder / "slurm.conf"

    # --- starting and stopping ---

    def start(self) -> None:
        (self.folder / "spool").mkdir()
        (self.folder / "state").mkdir()
        for number in range(2):  # two more of /dev/null, which Slurm takes for GPUs
            os.mknod(self.folder / f"gpu{number}", stat.S_IFCHR | 0o600, os.makedev(1, 3))
        (self.folder / "gres.conf").write_text(f"Name=gpu Flags=nvidia_gpu_env File={self.folder}/gpu[0-1]\n")
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        first, *_ = ports = free_ports(NODES + 1)
        self.configuration.write_text(
            CONFIGURATION.format(
                user=getpass.getuser(),
                folder=self.folder,
                port=first,
                ports=",".join(map(str, ports[1:])),
                host=socket.gethostname().split(".")[0],
                nodes=NODES,
                cores=CORES,
            )
        )
        os.environ["SLURM_CONF"] = str(self.configuration)
        munge = {name: f"--{name}-file={self.folder}/munge.{name}" for name in ("key", "pid", "log", "seed")}
        self._run(
            "munged", "munged", "--foreground", "--force", f"--socket={self.folder}/munge.socket", *munge.values()
        )
        soon(lambda: (self.folder / "munge.socket").exists(), "Slurm does not start")
        self.start_controller()
        for node in range(1, NODES + 1):
            self._run(f"n{node}", "slurmd", "-D", "-f", str(self.configuration), "-N", f"n{node}")
        soon(lambda: self._idle() == NODES, "Slurm does not start")

    def start_controller(self) -> None:
        """Start slurmctld, with what it remembers of before."""
        self._run("slurmctld", "slurmctld", "-D", "-f", str(self.configuration))
        soon(lambda: b"UP" in self.ask("scontrol", "ping").stdout, "Slurm does not start")

    def stop_controller(self) -> None:
        """End slurmctld; jobs go on."""
        self._end("slurmctld")

    def stop(self) -> None:
        """End everything, jobs too."""
        if "slurmctld" in self._daemons:
            self.ask("scancel", "-u", getpass.getuser())
            deadline = time.monotonic() + 120
            while self.ask("squeue", "-h").stdout.strip() and time.monotonic() < deadline:
                time.sleep(0.2)
        for name in reversed(list(self._daemons)):
            self._end(name)
        for process in self._jobs():
            with suppress(psutil.Error):
                process.kill()
        os.environ.pop("SLURM_CONF", None)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _jobs(self) -> list[psutil.Process]:
        """What is left of jobs: slurmstepd, which hides its environment, and what it started."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if process.name() == "slurmstepd":
                    mine = any(each.path.startswith(f"{self.folder}/") for each in process.open_files())
                else:
                    environment = process.environ()
                    mine = "SLURM_JOB_ID" in environment and environment.get("SLURM_CONF") == str(self.configuration)
                if mine:
                    found.append(process)
        return found

    def signal(self, daemon: str, number: signal.Signals) -> None:
        """Send a signal to one of the daemons."""
        self._daemons[daemon].send_signal(number)

    def _run(self, name: str, *command: str) -> None:
        output = (self.folder / f"{name}.output").open("ab")
        with output:  # it ends with us, even if we are killed
            self._daemons[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command], stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    def _end(self, name: str) -> None:
        daemon = self._daemons.pop(name)
        daemon.send_signal(signal.SIGCONT)
        daemon.terminate()
        try:
            daemon.wait(20)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    # --- asking ---

    def ask(self, *command: str) -> subprocess.CompletedProcess[bytes]:
        """What one of its commands says."""
        return subprocess.run(command, capture_output=True, timeout=120, check=False)

    def _idle(self) -> int:
        return self.ask("sinfo", "-h", "-N", "-p", "main", "-o", "%T").stdout.split().count(b"idle")

    def states(self, key: str = "") -> Counter[str]:
        """How many of the jobs that live are in which state, in Slurm's words; those whose name begins with ``key``."""
        listing = self.ask("squeue", "-h", "-r", "-o", "%j %T").stdout.decode().split("\n")
        return Counter(line.split()[1] for line in listing if line.startswith(key) and line)

    def left(self, key: str) -> int:
        """How many jobs live whose name begins with ``key``."""
        return sum(self.states(key).values())


@functools.cache
def slurm() -> SlurmSystem:
    """The one that all tests share."""
    system = SlurmSystem()
    atexit.register(system.stop)
    system.start()
    return system
