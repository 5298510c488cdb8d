"""A real Grid Engine, whole on this machine: qmaster, execd and one queue, all in a temporary folder.

It lives in namespaces of its own. Grid Engine wants a host whose name is not that of the loopback: the UTS and mount
namespaces give it one. The PID namespace makes sure of the end: its first process ends when this one does, and the
kernel ends everything else in it, jobs too. The network is shared, so that workers reach schedulers outside.
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
from tests.ports import free_ports
from tests.waiting import soon

LIBRARY = Path("/usr/lib/gridengine")
DATA = Path("/usr/share/gridengine")
HOST = "sgehost"
PROGRAMS = ("qsub", "qstat", "qdel", "qacct", "qconf", "qmod", "qhost", "qalter")

FIRST = """
set -e
exec 3<&0
hostname {host}
mount --bind {root}/hosts /etc/hosts
spool="{root}/sge/default/common;{root}/spool/qmaster"
{library}/spoolinit classic libspoolc "$spool" init
{library}/spooldefaults configuration {root}/configuration
{library}/spooldefaults complexes {data}/util/resources/centry
{library}/spooldefaults usersets {data}/util/resources/usersets
{library}/spooldefaults managers root
{library}/sge_qmaster
echo ready
cat <&3 >/dev/null &
wait $!
"""
"""The first process of the namespaces. When whoever holds its standard input is gone, it ends, and all with it.
Waiting, it also takes the orphans that end, so that none stays a zombie.
"""

BOOTSTRAP = """
admin_user none
default_domain none
ignore_fqdn true
spooling_method classic
spooling_lib libspoolc
spooling_params {root}/sge/default/common;{root}/spool/qmaster
binary_path {library}
qmaster_spool_dir {root}/spool/qmaster
security_mode none
listener_threads 2
worker_threads 2
scheduler_threads 1
"""

WRAPPER = """#!/bin/sh
{exports}
exec nsenter --target {pid} --uts --mount --pid --wd="$PWD" -- {program} "$@"
"""

PARALLEL_ENVIRONMENT = """
pe_name smp
slots 999
user_lists NONE
xuser_lists NONE
start_proc_args NONE
stop_proc_args NONE
allocation_rule $pe_slots
control_slaves FALSE
job_is_first_task TRUE
urgency_slots min
accounting_summary FALSE
qsort_args NONE
"""


class Site:
    """One Grid Engine; ``bin`` is to be put on PATH."""

    def __init__(self, slots: int = 40) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="sge-"))
        self.bin = self.root / "bin"
        master, execution = free_ports(2)
        self.variables = {
            "SGE_ROOT": str(self.root / "sge"),
            "SGE_CELL": "default",
            "SGE_ARCH": "lx-amd64",
            "SGE_QMASTER_PORT": str(master),
            "SGE_EXECD_PORT": str(execution),
        }
        self._files()
        self._first = self._unshare()
        atexit.register(self.close)
        (self.pid,) = _children(self._first.pid)
        self._wrappers()
        self._configure(slots)

    # --- what a test does with it ---

    @contextmanager
    def on_path(self) -> Iterator[None]:
        """Its programs come first on PATH."""
        before = os.environ["PATH"]
        os.environ["PATH"] = f"{self.bin}{os.pathsep}{before}"
        try:
            yield
        finally:
            os.environ["PATH"] = before

    def run(self, *command: str, stdin: str = "") -> str:
        """What one of its programs says; fails with what it said where it fails."""
        done = subprocess.run([self.bin / command[0], *command[1:]], input=stdin, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}: {done.stdout} {done.stderr}"
        return done.stdout

    def listed(self) -> list[str]:
        """Every job that the manager knows of, a line for each."""
        return [line for line in self.run("qstat", "-u", "*", "-g", "d").splitlines()[2:] if line.strip()]

    def states(self, key: str) -> Counter[str]:
        """How many jobs, whose names begin with this, are in each of Grid Engine's states."""
        rows = [line.split() for line in self.listed()]
        return Counter(row[4] for row in rows if row[2].startswith(key))

    def left(self, key: str) -> int:
        """How many jobs with such a name it knows of."""
        return sum(self.states(key).values())

    def arrays(self, key: str) -> set[str]:
        """Its numbers for the submits that there were, of jobs that it still knows of."""
        rows = [line.split() for line in self.listed()]
        return {row[0] for row in rows if row[2].startswith(key)}

    def clear(self) -> None:
        """End every job, and wait until the manager has none."""
        if self.listed():
            subprocess.run([self.bin / "qdel", "-u", "*"], capture_output=True)
            soon(lambda: not self.listed(), "jobs are left")

    def stop(self) -> None:
        """End qmaster; jobs go on."""
        self._inside("kill", "-KILL", self._pid("qmaster/qmaster.pid"))
        soon(lambda: not self.answers(), "qmaster lives")

    def start(self) -> None:
        """Start qmaster again."""
        assert self._inside(str(LIBRARY / "sge_qmaster")) == 0
        soon(self.answers, "qmaster does not answer")

    def answers(self) -> bool:
        """Whether qmaster does."""
        return self._inside(str(LIBRARY / "qstat")) == 0

    def freeze(self, yes: bool) -> None:
        """Stop qmaster from answering, or let it go on."""
        self._inside("kill", "-STOP" if yes else "-CONT", self._pid("qmaster/qmaster.pid"))

    def close(self) -> None:
        """End all of it, and remove its folder."""
        atexit.unregister(self.close)
        if self._first.stdin is not None:
            self._first.stdin.close()
        try:
            self._first.wait(30)
        except subprocess.TimeoutExpired:
            self._first.kill()  # takes the namespace along
            self._first.wait()
        shutil.rmtree(self.root, ignore_errors=True)

    # --- how it is made ---

    def _files(self) -> None:
        for folder in ("bin", "sge/default/common", "spool/qmaster/job_scripts", "spool/execd"):
            (self.root / folder).mkdir(parents=True)
        for name in ("bin", "lib", "util", "utilbin"):
            (self.root / "sge" / name).symlink_to(f"/var/lib/gridengine/{name}")
        common = self.root / "sge" / "default" / "common"
        (common / "bootstrap").write_text(BOOTSTRAP.format(root=self.root, library=LIBRARY).lstrip())
        (common / "act_qmaster").write_text(f"{HOST}\n")
        (self.root / "hosts").write_text(f"127.0.0.1 {HOST} localhost\n")
        changes = {
            "conf_version": None,
            "execd_spool_dir": str(self.root / "spool" / "execd"),
            "mailer": "/bin/true",
            "login_shells": "none",  # the profile of whoever runs the tests is none of their business
            "load_report_time": "00:00:02",
            "min_uid": "0",
            "min_gid": "0",
            "reporting_params": "accounting=true reporting=false flush_time=00:00:01 joblog=false sharelog=00:00:00",
        }
        (self.root / "configuration").write_text(_changed((DATA / "default-configuration").read_text(), changes))

    def _unshare(self) -> subprocess.Popen[str]:
        script = FIRST.format(host=HOST, root=self.root, library=LIBRARY, data=DATA)
        namespaces = ("--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
        log = self.root / "first.log"
        with log.open("w") as errors:
            first = subprocess.Popen(
                ["unshare", *namespaces, "sh", "-c", script],
                env={"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", **self.variables},  # the daemons hand theirs to the jobs
                cwd=self.root,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )
        assert first.stdout is not None
        with first.stdout as words:
            if "ready" not in words.readline():
                raise RuntimeError(f"Grid Engine does not start: {log.read_text()}")
        return first

    def _wrappers(self) -> None:
        exports = "\n".join(f"export {name}={value}" for name, value in self.variables.items())
        for name in PROGRAMS:
            path = self.bin / name
            path.write_text(WRAPPER.format(exports=exports, pid=self.pid, program=LIBRARY / name))
            path.chmod(0o755)

    def _configure(self, slots: int) -> None:
        soon(self.answers, "qmaster does not answer")
        self._say("-as", HOST)
        self._say("-Ap", text=PARALLEL_ENVIRONMENT)
        self._say("-Ahgrp", text="group_name @allhosts\nhostlist NONE\n")
        queue = {
            "qname": "all.q",
            "hostlist": "@allhosts",
            "pe_list": "smp",
            "slots": str(slots),
            "shell": "/bin/csh",  # as sites have it
            "shell_start_mode": "posix_compliant",
            "notify": "00:00:10",
            "load_thresholds": "NONE",
        }
        self._say("-Aq", text=_changed(self.run("qconf", "-sq"), queue))
        fast = {
            "schedule_interval": "0:0:1",
            "flush_submit_sec": "1",
            "flush_finish_sec": "1",
            "schedd_job_info": "true",
        }
        self._say("-Msconf", text=_changed(self.run("qconf", "-ssconf"), fast))
        assert self._inside(str(LIBRARY / "sge_execd")) == 0
        soon(self._has_host, "the host does not come")
        self._say("-aattr", "hostgroup", "hostlist", HOST, "@allhosts")
        soon(lambda: re.search(rf"^{HOST} +lx-", self.run("qhost"), re.MULTILINE), "the host reports no load")

    def _has_host(self) -> bool:
        """Without any host qconf fails, so its exit code is not looked at."""
        listed = subprocess.run([self.bin / "qconf", "-sel"], capture_output=True, text=True, check=False)
        return HOST in listed.stdout

    def _say(self, *words: str, text: str = "") -> None:
        """Tell qconf; ``text`` is for the options that read a file."""
        if text:
            path = self.root / "said"
            path.write_text(text.lstrip())
            words = (*words, str(path))
        self.run("qconf", *words)

    def _inside(self, *command: str) -> int:
        nsenter = ["nsenter", "--target", str(self.pid), "--uts", "--mount", "--pid", "--"]
        environment = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", **self.variables}
        return subprocess.run([*nsenter, *command], env=environment, cwd="/", capture_output=True).returncode

    def _pid(self, path: str) -> str:
        return (self.root / "spool" / path).read_text().strip()


@cache
def sge() -> Site:
    """The one of this process: it takes seconds to start. It ends with the process."""
    if os.geteuid() != 0:
        pytest.skip("a Grid Engine in namespaces of its own needs root")
    return Site()


def _changed(text: str, changes: dict[str, str | None]) -> str:
    """Lines of ``key value`` with other values; None: without the line. Comments go."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    kept = [line for line in lines if changes.get(line.split()[0], "") is not None]
    return "".join(f"{line.split()[0]} {changes.get(line.split()[0]) or line.split(None, 1)[1]}\n" for line in kept)


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]
