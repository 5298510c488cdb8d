"""bsub, bjobs, bkill and bparams: of OpenLava 4.0 as recorded, and with the setting ``json`` of LSF 10.1.

The form of LSF's JSON is that of its manual ("bjobs", options -json and -o); it could not be recorded.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.fakes.core import ENDED, HELD, PENDING, RUNNING, FakeJob, Front, user
from tests.fakes.pbs import indices

STAT = {PENDING: "PEND", HELD: "PSUSP", RUNNING: "RUN"}


class Lsf(Front):
    """One host ``lavahost`` with the queues ``normal`` and ``short``."""

    manager = "lsf"
    programs: Mapping[str, str] = {"bsub": "submit", "bjobs": "query", "bkill": "cancel", "bparams": "configuration"}
    first = 101
    host = "lavahost"

    def down(self, program: str) -> int:
        """With LSB_NTRIES=2, as recorded; without it they would try for ever."""
        assert os.environ.get("LSB_NTRIES") == "2"
        return self.replay(f"daemon-down-{'submit' if program == 'bsub' else 'status'}-LSB_NTRIES-2")

    # --- bsub ---

    def bsub(self, arguments: list[str]) -> int:
        script = sys.stdin.read()
        options = {**directives(script), **dict(zip(arguments[::2], arguments[1::2], strict=True))}
        queue = options.get("-q", "normal")
        if self.faults["reject"] or queue not in ("normal", "short"):
            return self.replay(f"submit-{self.faults['reject'] or 'unknown-queue'}", nope=queue)
        name, span = re.fullmatch(r"([^\[]*)(?:\[(.*)\](?:%\d+)?)?", options.get("-J", "")).groups()  # type: ignore[union-attr]
        wanted = indices(span) if span else [None]
        if len(wanted) > self.settings.get("max_array_size", 1000):
            return self.replay("submit-array-too-large")
        hours, _, minutes = options.get("-W", "0:0").rpartition(":")
        with self.state() as state:
            path = self.directory / f"{state.number}.sh"
            path.write_text(script)
            path.chmod(0o700)
            made = state.add(
                len(wanted),
                wanted,
                name=name,
                script=str(path),
                slots=int(options.get("-n", "1")),
                state=HELD if "-H" in options else PENDING,
                limit_s=float(int(hours or 0) * 3600 + int(minutes) * 60),
                cwd=str(Path.cwd()),
                extra={"queue": queue, "variables": dict(os.environ), "script": script},
            )
            for job in made:
                output = options.get("-o", os.devnull).replace("%J", str(job.number))
                job.output = output.replace("%I", str(job.index or 0))
        print(f"Job <{made[0].number}> is submitted to {'' if '-q' in options else 'default '}queue <{queue}>.")
        return 0

    def environment(self, job: FakeJob) -> Mapping[str, str]:
        """That of whoever submitted it."""
        return {**job.extra["variables"], **self.variables(job)}

    def variables(self, job: FakeJob) -> Mapping[str, str]:
        return {"LSB_JOBID": str(job.number), "LSB_JOBINDEX": str(job.index or 0), "LSB_JOBNAME": job.name}

    # --- bkill ---

    def bkill(self, arguments: list[str]) -> int:
        code = 0
        with self.state() as state:
            for word in arguments:
                found = re.fullmatch(r"(\d+)(?:\[([-\d,]+)\])?", word)
                if not found:
                    print(f"{word}: Illegal job ID.", file=sys.stderr)
                    code = 255
                    continue
                mine = [job for job in state.jobs if job.number == int(found[1])]
                for index in indices(found[2]) if found[2] else [None]:
                    chosen = [job for job in mine if index is None or job.index == index]
                    code = self._kill(word if index is None else f"{found[1]}[{index}]", chosen) or code
        return code

    def _kill(self, word: str, jobs: list[FakeJob]) -> int:
        wrong = ""
        if not jobs:
            wrong = "No matching job found"
        elif all(job.state == ENDED for job in jobs):
            wrong = "Job has already finished"
        elif len(jobs) > 1 and any(job.state == RUNNING for job in jobs):
            wrong = "Operation is in progress"
        for job in jobs:
            self.cancel(job, signal.SIGINT, self.settings.get("grace_s", 20.0))
        if wrong:
            print(f"Job <{word}>: {wrong}", file=sys.stderr)
            return 255
        print(f"Job <{word}> is being terminated")
        return 0

    # --- bjobs and bparams ---

    def bparams(self, arguments: list[str]) -> int:
        return self.replay("params") if arguments == ["-l"] else 255

    def bjobs(self, arguments: list[str]) -> int:
        asks_json = "-json" in arguments
        if asks_json and not self.settings.get("json"):
            return self.replay("status-json-unsupported")
        ids = [word for word in arguments if re.fullmatch(r"\d+(\[\d+\])?", word)]
        with self.state() as state:
            jobs = self.listed(state)
        missing = [word for word in ids if not any(word in (self.id(job), str(job.number)) for job in jobs)]
        if ids:
            jobs = [job for job in jobs if self.id(job) in ids or str(job.number) in ids]
        elif "-a" not in arguments:
            jobs = [job for job in jobs if job.state != ENDED]
        for word in missing:
            print(f"Job <{word}> is not found", file=sys.stderr)
        if not jobs and not ids:
            print("No unfinished job found", file=sys.stderr)
        if asks_json and jobs:
            print(json.dumps({"COMMAND": "bjobs", "JOBS": len(jobs), "RECORDS": [self.record(job) for job in jobs]}))
        elif jobs:
            print("\n".join(self.rows(jobs, arguments)))
        return 255 if missing or not jobs else 0

    def rows(self, jobs: list[FakeJob], arguments: list[str]) -> Iterator[str]:
        if "-l" in arguments:
            yield "\n\n".join(self.long(job) for job in jobs)
            return
        if "-noheader" not in arguments:
            yield "JOBID   USER    STAT  QUEUE      FROM_HOST   EXEC_HOST   JOB_NAME   SUBMIT_TIME"
        for job in jobs:
            host = ":".join([self.host] * job.slots) if job.started_s else "   -    "
            about = (
                f"{job.number:<7} {user():<7} {self.stat(job):<5} {job.extra['queue']:<10} {self.host:<11} {host:<11}"
            )
            yield f"{about} {self.name(job):<10} {moment(job.submitted_s)}"

    def long(self, job: FakeJob) -> str:
        """As ``bjobs -l``: broken at 79 columns."""
        script = job.extra["script"].strip().replace("\n", ";")
        said = f"Job Id <{self.id(job)}>, Job Name <{self.name(job)}>, User <{user()}>, Project <default>, "
        said += f"Status <{self.stat(job)}>, Queue <{job.extra['queue']}>, Command <{script}>"
        lines = [folded(said), folded(f"{date(job.submitted_s)}: Submitted from host <{self.host}>, CWD <{job.cwd}>;")]
        if job.started_s:
            lines.append(folded(f"{date(job.started_s)}: Started on <{self.host}>, Execution CWD <{job.cwd}>;"))
        if job.state == ENDED:
            code = self.code(job)
            end = "Exited" if code is None else f"Exited with exit code {code}. The CPU time used is 0.0 seconds."
            end = "Done successfully. The CPU time used is 0.0 seconds." if code == 0 else end
            lines.append(folded(f"{date(job.ended_s)}: {end}"))
        return "\n".join(["", *lines, ""])

    def record(self, job: FakeJob) -> dict[str, Any]:
        code = self.code(job) if job.state == ENDED else None
        return {
            "JOBID": str(job.number),
            "JOBINDEX": str(job.index or 0),
            "STAT": self.stat(job),
            "JOB_NAME": self.name(job),
            "EXIT_CODE": "" if code in (None, 0) else str(code),
            "EXIT_REASON": "TERM_OWNER: job killed by owner" if job.cancelled and job.state == ENDED else "",
            "PEND_REASON": "New job is waiting for scheduling;" if job.state == PENDING else "",
        }

    def id(self, job: FakeJob) -> str:
        return str(job.number) if job.index is None else f"{job.number}[{job.index}]"

    def name(self, job: FakeJob) -> str:
        return job.name if job.index is None else f"{job.name}[{job.index}]"

    def stat(self, job: FakeJob) -> str:
        return STAT.get(job.state) or ("DONE" if self.code(job) == 0 else "EXIT")

    @staticmethod
    def code(job: FakeJob) -> int | None:
        """Of a job that never ran there is none."""
        if not job.started_s or job.exit is None:
            return None
        return job.exit if job.exit >= 0 else 128 - job.exit


def directives(script: str) -> dict[str, str]:
    """The options in the #BSUB lines."""
    lines = [line[5:].strip().partition(" ") for line in script.splitlines() if line.startswith("#BSUB")]
    return {option: value.strip().strip('"') for option, _, value in lines}


def folded(text: str) -> str:
    """At most 79 columns; what follows stands behind 21 blanks."""
    parts = [text[:79], *(text[at : at + 58] for at in range(79, len(text), 58))]
    return f"\n{' ' * 21}".join(parts)


def moment(at_s: float) -> str:
    return time.strftime("%b %d %H:%M", time.localtime(at_s))


def date(at_s: float) -> str:
    return time.strftime("%a %b %d %H:%M:%S", time.localtime(at_s))
