"""What runs on a host that is reached by SSH: an agent per connection, and a keeper per job that outlives it.

It travels as source text, with ``_keeper.py`` and ``_nursery.py``, and is run by the host's own Python; nothing of
ours is installed there. Protocol: JSON lines on standard input and output. The agent says hello, and then answers:

    {"op": "start", "call": 1, "low": {...}, "high": {...}, "secrets": {"FILE": "TEXT"}, "memory_bytes": 0,
     "limit_bytes": 0, "gpus": 0, "jobs": [JOB, ...]}
        where JOB is {"name": "...", "id": "...", "cluster": "...", "workers": [ARGV, ...]}. An ARGV that starts with
        null is run by this Python; the host's environment overrides ``low``, and ``high`` overrides it
    {"op": "jobs", "call": 2}
    {"op": "cancel", "call": 3, "names": [...]}
    {"op": "log", "call": 4, "name": "..."}

Unasked it says ``{"op": "changed", "name": "...", "state": "...", "reason": "..."}``. It ends with its connection.

Each job has a private folder below the user's state directory: ``job.json`` (what is known of it, written by its
keeper), ``log`` and ``log.old`` (the newest of what it printed), and its credentials for as long as it lives. So a
later connection, of this owner or of one that was started anew, finds every job again.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from dask_adaptive.backend._keeper import (
    Message,
    Record,
    become_keeper,
    boot,
    is_kept,
    kill_rest,
    read_record,
    remove_secrets,
    write_private,
)
from dask_adaptive.backend._nursery import reaped

LOOK_S = 0.25
LIST_ENDED_S = 3600.0
KEEP_ENDED_S = 86400.0
KEEP_ENDED = 200


def find_devices() -> list[str]:
    """The GPUs of this machine, as ``CUDA_VISIBLE_DEVICES`` names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [device.strip() for device in visible.split(",") if device.strip() not in ("", "-1")]
    try:
        command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return []
    return answer.stdout.split()


class Agent:
    """One per connection: answers its owner, and knows nothing but what is in the folders of the jobs."""

    def __init__(self, options: Message) -> None:
        self.options = options
        self.host: str = options["host"]
        home = options["directory"] or os.environ.get("XDG_STATE_HOME") or "~/.local/state"
        self.place = Path(home).expanduser() / "dask-adaptive" / "jobs" / socket.gethostname()
        self.seen: dict[str, tuple[str, str]] = {}
        self.over: dict[str, Record] = {}
        self.devices: list[str] | None = None
        self.incoming = b""

    def run(self) -> None:
        """Until the connection ends."""
        self.say(**self.hello())
        while True:
            readable = select.select([0], [], [], LOOK_S if self.alive() else None)[0]
            if readable:
                data = os.read(0, 1 << 16)
                if not data:
                    return
                *lines, self.incoming = (self.incoming + data).split(b"\n")
                for line in lines:
                    self.answer(json.loads(line))
            list(reaped())
            self.look()

    def say(self, **message: Any) -> None:
        data = json.dumps(message).encode() + b"\n"
        while data:
            data = data[os.write(1, data) :]

    def hello(self) -> Message:
        error = version = ""
        try:
            self.place.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_private(self.place / f".probe-{os.getpid()}", "")
            (self.place / f".probe-{os.getpid()}").unlink()
            self.sweep()
        except OSError as problem:
            error = f"its state directory {self.place} cannot be written ({problem.strerror}); directory= names another"
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            version = importlib.metadata.version("distributed")
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return {
            "op": "hello",
            "error": error,
            "distributed": version,
            "python": sys.executable,
            "cores": cores,
            "load": os.getloadavg()[0],
            "place": str(self.place),
        }

    def answer(self, message: Message) -> None:
        answer = {"start": self.start, "jobs": self.jobs, "cancel": self.cancel, "log": self.log}[message["op"]]
        self.say(op="answer", call=message["call"], **answer(message))

    # --- looking ---

    def records(self, names: Iterable[str] | None = None) -> Iterator[tuple[Path, Record]]:
        """Every job that was started under this name of the host, or some of them, as they are now."""
        for folder in self.place.iterdir() if names is None else map(self.folder, names):
            record = self.over.get(folder.name) or read_record(folder)
            if record is None or record["host"] != self.host:
                continue
            if record["state"] != "ended" and not is_kept(record):
                record = read_record(folder) or record  # it may have ended in the moment between
                if record["state"] != "ended":
                    self.bury(folder, record)
            if record["state"] == "ended":
                self.over[folder.name] = record
            self.seen.setdefault(folder.name, (record["state"], record["reason"]))
            yield folder, record

    def bury(self, folder: Path, record: Record) -> None:
        """A job whose keeper did not live to write down its end."""
        reason = "its keeper was killed" if record["boot"] == boot() else "its host was restarted"
        with contextlib.suppress(OSError):
            said = (folder / "keeper.log").read_text(errors="replace").strip().splitlines()
            reason += f": {said[-1]}" if said else ""
        kill_rest(record)
        remove_secrets(folder, record)
        record.update(state="ended", reason=reason, exit_code=None, ended_s=time.time())
        with contextlib.suppress(OSError):
            write_private(folder / "job.json", json.dumps(record))

    def alive(self) -> bool:
        return any(state != "ended" for state, _ in self.seen.values())

    def look(self) -> None:
        """Tell of every job that changed since the last look."""
        for _, record in self.records([name for name, (state, _) in self.seen.items() if state != "ended"]):
            name, state, reason = record["name"], record["state"], record["reason"]
            if self.seen[name] != (state, reason):
                self.seen[name] = (state, reason)
                self.say(op="changed", name=name, state=state, reason=reason)

    def sweep(self) -> None:
        """Remove what ended long ago, and the oldest where there is much of it."""
        found = [(read_record(folder), folder) for folder in self.place.iterdir()]
        begun = [(folder.stat().st_mtime, str(folder)) for record, folder in found if record is None]  # and no more
        ended = sorted([*begun, *((each["ended_s"], str(at)) for each, at in found if each and each["ended_s"])])
        for place, (ended_s, folder) in enumerate(ended):
            if time.time() - ended_s > KEEP_ENDED_S or place < len(ended) - KEEP_ENDED:
                shutil.rmtree(folder, ignore_errors=True)

    # --- answers ---

    def jobs(self, _: Message) -> Message:
        words = ("id", "name", "cluster", "state", "reason", "exit_code")
        recent_s = time.time() - LIST_ENDED_S
        found = [record for _, record in self.records() if record["state"] != "ended" or record["ended_s"] > recent_s]
        return {"jobs": [{word: record[word] for word in words} for record in found], "load": os.getloadavg()[0]}

    def cancel(self, message: Message) -> Message:
        for folder, record in self.records():
            if folder.name in message["names"] and record["state"] != "ended":
                with contextlib.suppress(ProcessLookupError):
                    os.kill(record["keeper"], signal.SIGTERM)
        return {}

    def log(self, message: Message) -> Message:
        data = b""
        for name in ("log.old", "log"):
            with contextlib.suppress(OSError):
                data += (self.folder(message["name"]) / name).read_bytes()
        return {"text": data[-self.options["log_bytes"] :].decode(errors="replace")}

    def folder(self, name: str) -> Path:
        return self.place / name if re.fullmatch(r"[\w.-]*\w", name) else self.place / "none"

    # --- starting ---

    def start(self, message: Message) -> Message:
        refused = {}
        environment = {**message["low"], **os.environ, **message["high"]}
        for wanted in message["jobs"]:
            try:
                devices = self.free_devices(message["gpus"] * len(wanted["workers"]))
                started = {**message, "environment": environment, "directory": str(Path.home()), "devices": devices}
                self.start_job(wanted, started)
                self.seen[wanted["name"]] = ("running", "")
            except OSError as error:  # noqa: PERF203
                refused[wanted["name"]] = error.strerror or str(error)
        return {"refused": refused}

    def start_job(self, wanted: Message, message: Message) -> None:
        """Raises ``OSError`` when it was surely not started."""
        folder = self.folder(wanted["name"])
        record = {word: wanted[word] for word in ("id", "name", "cluster")}
        record |= {"host": self.host, "state": "running", "reason": "", "exit_code": None, "ended_s": 0.0, "group": 0}
        record |= {"secrets": list(message["secrets"]), "devices": message["devices"]}
        folder.mkdir(mode=0o700)
        try:
            for name, text in message["secrets"].items():
                write_private(folder / name, text)
            answer = self.fork(folder, record, _for_nursery(wanted, folder, message), message)
            if answer != b"ok":
                raise OSError(answer.decode(errors="replace") or "its keeper ended at once")
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def free_devices(self, count: int) -> list[str]:
        """So many GPUs that no other job has. Raises ``OSError`` where they are not there."""
        if not count:
            return []
        if self.devices is None:
            self.devices = find_devices()
        for _ in self.records():  # those whose keeper died are over
            pass
        found = filter(None, map(read_record, self.place.iterdir()))  # also of this host under another name
        living = [record for record in found if record["state"] != "ended" and is_kept(record)]
        taken = {device for record in living for device in record["devices"]}
        free = [device for device in self.devices if device not in taken]
        if len(free) < count:
            raise OSError(f"a job takes {count} GPUs, and {len(free)} of {len(self.devices)} are free")
        return free[:count]

    def fork(self, folder: Path, record: Record, wanted: Message, message: Message) -> bytes:
        reader, writer = os.pipe()
        try:
            if os.fork() == 0:
                os.close(reader)
                become_keeper(folder, record, wanted, message, {**self.options, "ready": writer})
            os.close(writer)
            return os.read(reader, 4096)
        finally:
            os.close(reader)


def _for_nursery(wanted: Message, folder: Path, message: Message) -> Message:
    """The job as the nursery takes it: programs by their full path, and where its log goes."""
    workers, gpus = [], message["gpus"]
    for i, (program, *arguments) in enumerate(wanted["workers"]):
        path = sys.executable if program is None else shutil.which(program) or program
        visible = {"CUDA_VISIBLE_DEVICES": ",".join(message["devices"][i * gpus : (i + 1) * gpus])} if gpus else {}
        workers.append({"argv": [path, *arguments], "environment": visible})
    limits = {"memory_bytes": message["memory_bytes"], "limit_bytes": message["limit_bytes"]}
    return {"number": 1, "log": str(folder / "log"), "workers": workers, **limits}


def main(options: Message) -> None:
    """Be the agent of one connection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(BrokenPipeError):
        Agent(options).run()
