"""The keeper of one job on a host that is reached by SSH: it outlives the connection that started it.

It travels as source text with ``_remote.py``, whose agent forks it. It is the leader of a session of its own, starts
the workers, reads what they print, watches their memory, ends them as a group, and writes all that is to be known into
the job's folder (``_remote.py`` has its contents).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

from dask_adaptive.backend._nursery import PR_SET_CHILD_SUBREAPER, Born, Nursery, control_process, send_signal

Record = dict[str, Any]
Message = dict[str, Any]


# --- files ---------------------------------------------------------------------------------------------------------


def write_private(path: Path, text: str) -> None:
    """Write a file for this user's eyes only, whole or not at all."""
    fresh = path.with_name(path.name + ".new")
    with contextlib.suppress(FileNotFoundError):
        fresh.unlink()
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    fresh.replace(path)


def read_record(folder: Path) -> Record | None:
    """What a job's folder says; None where there is nothing to be read."""
    try:
        record = json.loads((folder / "job.json").read_text())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def remove_secrets(folder: Path, record: Record) -> None:
    """The credentials go when the job is over."""
    for name in record["secrets"]:
        with contextlib.suppress(OSError):
            (folder / name).unlink()


# --- processes -----------------------------------------------------------------------------------------------------


def boot() -> str:
    """A word that is another one after a restart of the machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def born(pid: int) -> str:
    """When a process was started, in ticks since the boot; "" when it is gone, "?" where this cannot be told."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        if Path("/proc/self/stat").exists():
            return ""
        return "?" if send_signal(os.getpgid(pid), 0) else ""
    return "" if fields[0] == "Z" else fields[19]


def is_kept(record: Record) -> bool:
    """Whether the keeper of a job lives."""
    with contextlib.suppress(OSError):
        return bool(record["boot"] == boot() and record["born"] == born(record["keeper"]))
    return False


def kill_rest(record: Record) -> None:
    """Kill what is left of a job whose keeper is dead: processes of its group that are still in its session."""
    group = record["group"]
    if not group or record["boot"] != boot():
        return
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if (int(fields[2]), int(fields[3])) == (group, record["keeper"]):
                os.kill(int(entry.name), signal.SIGKILL)


# --- the keeper of one job -----------------------------------------------------------------------------------------


class Keeper(Nursery):
    """Keeps one job: reads what it prints, watches its memory, ends it, and writes down how it ended.

    It is the leader of a session of its own, so that no end of a connection reaches it.
    """

    def __init__(self, folder: Path, record: Record, options: Message) -> None:
        ours, self.unused = socket.socketpair()
        super().__init__(ours, os.open(os.devnull, os.O_WRONLY), options)
        self.folder = folder
        self.record = record
        self.closing = True  # nobody speaks to it: it is over when its job is

    def say(self, **message: Any) -> None:
        """What the nursery would tell its owner is written down."""
        state = {"changed": "running"}.get(message["op"], message["op"])
        self.record.update(state=state, reason=message["reason"], exit_code=message["exit_code"])
        if state == "ended":
            self.record["ended_s"] = time.time()
            remove_secrets(self.folder, self.record)
        with contextlib.suppress(OSError):  # a full disk loses the reason, never a worker
            self.write()

    def write(self) -> None:
        """Raises ``OSError`` where the disk is full."""
        write_private(self.folder / "job.json", json.dumps(self.record))

    def orphaned(self) -> bool:
        """Its owner comes and goes."""
        return False

    def close(self) -> None:
        """It was told to end (SIGTERM)."""
        for number in list(self.jobs):
            self.end(number, "cancelled")


def keep(folder: Path, record: Record, wanted: Message, message: Message, options: Message) -> None:
    """Be the keeper of a job until it is over; ``options["ready"]`` is told ``ok`` or what is wrong."""
    control_process(PR_SET_CHILD_SUBREAPER, 1)  # orphans of workers come to us, so that their groups do vanish
    record.update(keeper=os.getpid(), born=born(os.getpid()), boot=boot())
    keeper = Keeper(folder, record, {**options, "owner": 0})
    try:
        keeper.write()
        record["group"] = keeper.start_job(wanted, message)
        keeper.write()
        os.write(options["ready"], b"ok")
    except OSError as error:
        os.write(options["ready"], str(error).encode())
        keeper.close()
    os.close(options["ready"])
    keeper.run()


def become_keeper(*job: Any) -> NoReturn:
    """In a new child of the agent: leave the connection, be the keeper, or, forked once more, a worker."""
    code = 1
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        complaints = os.open(job[0] / "keeper.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for source, target in ((null, 0), (null, 1), (complaints, 2)):
            os.dup2(source, target)
        work = None
        try:
            keep(*job)
        except Born as child:
            work = child.work
        if work is not None:
            work()
        code = 0
    except BaseException:  # noqa: BLE001 - it must not come back to the agent's loop
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)
