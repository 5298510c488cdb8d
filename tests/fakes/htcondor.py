"""condor_submit, condor_q, condor_history and condor_rm of HTCondor 25."""

from __future__ import annotations

import json
import re
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.fakes.core import ENDED, HELD, PENDING, RUNNING, FakeJob, Front, State, user

Ad = dict[str, Any]


class HTCondor(Front):
    """A schedd. Jobs that ended leave the queue at once, and are in the history."""

    manager = "htcondor"
    programs: Mapping[str, str] = {
        "condor_submit": "submit",
        "condor_q": "query",
        "condor_history": "history",
        "condor_rm": "cancel",
    }

    def down(self, program: str) -> int:
        return self.replay(
            {"condor_q": "daemon-down-status-json"}.get(program, f"daemon-down-{self.programs[program]}")
        )

    # --- condor_submit ---

    def condor_submit(self, arguments: list[str]) -> int:
        if arguments:
            return self.replay("submit-unknown-option")
        if self.faults["reject"]:
            return self.replay(f"submit-{self.faults['reject']}")
        said, count = described(sys.stdin.read())
        if "executable" not in said:
            return self.replay("submit-no-executable")
        if not Path(said["executable"]).exists():
            return self.replay("submit-missing-executable", **{"/tmp/nosuchfile": said["executable"]})
        with self.state() as state:
            number = state.number
            extra = {"said": said, "cwd": str(Path.cwd()), "reason": ""}
            slots = int(said.get("request_cpus", "1"))
            limit_s = float(said.get("allowed_execute_duration", 0))
            jobs = state.add(
                count,
                range(count),
                name=said.get("batch_name", ""),
                script="",
                slots=slots,
                limit_s=limit_s,
                extra=extra,
            )
            for job in jobs:
                job.output, job.cwd = self.expanded(said.get("output", ""), job), extra["cwd"]
        print(f"Submitting job(s){'.' * count}\n{count} job(s) submitted to cluster {number}.")
        print(f"To monitor your job(s), run: condor_watch_q -clusters {number}", file=sys.stderr)
        return 0

    @staticmethod
    def expanded(text: str, job: FakeJob) -> str:
        macros = {"Process": job.index, "ProcId": job.index, "Cluster": job.number, "ClusterId": job.number}
        for name, value in macros.items():
            text = text.replace(f"$({name})", str(value))
        return text

    # --- a running job ---

    def command(self, job: FakeJob) -> list[str]:
        said = job.extra["said"]
        words = re.findall(r"'((?:[^']|'')*)'|(\S+)", said.get("arguments", "").strip().strip('"'))
        return [said["executable"], *(quoted or plain for quoted, plain in words)]

    def variables(self, job: FakeJob) -> Mapping[str, str]:
        text = self.expanded(job.extra["said"].get("environment", "").strip('"'), job)
        own = dict(part.split("=", 1) for part in text.split())
        return {"BATCH_SYSTEM": "HTCondor", "OMP_NUM_THREADS": str(job.slots), **own}

    def limited(self, job: FakeJob) -> None:
        self.terminate(job)

    def terminate(self, job: FakeJob) -> None:
        from tests.fakes.core import end

        grace_s = float(job.extra["said"].get("job_max_vacate_time", 600))
        end(job.pid, signal.SIGTERM, self.settings.get("grace_s", grace_s), top_only=True)

    # --- condor_q and condor_history ---

    def condor_q(self, arguments: list[str]) -> int:
        with self.state() as state:
            jobs = [job for job in self.listed(state) if job.state != ENDED or self.held(job)]
        return self.printed([job for job in jobs if asked(job, arguments)], arguments, empty="")

    def condor_history(self, arguments: list[str]) -> int:
        with self.state() as state:
            jobs = [job for job in self.listed(state) if job.state == ENDED and not self.held(job)]
        return self.printed([job for job in reversed(jobs) if asked(job, arguments)], arguments, empty="[\n]\n")

    def held(self, job: FakeJob) -> bool:
        """On hold, also for being over its time: ``hold_s`` seconds later ``periodic_remove`` removes such a one."""
        lasts_s = self.settings.get("hold_s", 1e9)
        return job.state == HELD or (job.state == ENDED and job.overran and time.time() < job.ended_s + lasts_s)

    @staticmethod
    def reason(job: FakeJob) -> str:
        if job.state == ENDED and job.overran:
            minutes, seconds = divmod(int(job.limit_s), 60)
            return f"The job exceeded allowed execute duration of {minutes:02}:{seconds:02}"
        return "submitted on hold at user's request" if job.state == HELD else ""

    def ad(self, job: FakeJob) -> Ad:
        """The attributes, in the order of the alphabet."""
        over = job.state == ENDED
        signalled = over and (job.exit or 0) < 0
        removed = job.cancelled or job.overran
        status = {PENDING: 1, RUNNING: 3 if job.cancelled else 2, HELD: 5, ENDED: 3 if removed else 4}[job.state]
        periodic = "The job attribute PeriodicRemove expression 'JobStatus == 5' evaluated to TRUE"
        made: list[tuple[str, Any, bool]] = [
            ("ClusterId", job.number, True),
            ("ExitBySignal", signalled, True),
            ("ExitCode", job.exit, over and not removed and not signalled),
            ("ExitSignal", -(job.exit or 0), signalled),
            ("HoldReason", self.reason(job), self.held(job)),
            ("HoldReasonCode", 15 if job.state == HELD else 47, self.held(job)),
            ("JobBatchName", job.name, bool(job.name)),
            ("JobStatus", 5 if self.held(job) else status, True),
            ("LastHoldReason", self.reason(job), over and job.overran),
            ("LastRejMatchReason", "no match found", job.state == PENDING),
            ("ProcId", job.index, True),
            ("RemoveReason", periodic if job.overran else f"via condor_rm (by user {user()})", removed),
        ]
        return {name: value for name, value, shown in made if shown}

    def printed(self, jobs: Sequence[FakeJob], arguments: Sequence[str], *, empty: str) -> int:
        wanted = arguments[arguments.index("-attributes") + 1].split(",") if "-attributes" in arguments else []
        if "-limit" in arguments:
            jobs = jobs[: int(arguments[arguments.index("-limit") + 1])]
        ads = [{k: v for k, v in self.ad(job).items() if not wanted or k in wanted} for job in jobs]
        listed = ",\n".join(pretty(ad) for ad in ads)
        print(f"[\n{listed}]" if ads else empty, end="\n" if ads else "")
        return 0

    # --- condor_rm ---

    def condor_rm(self, arguments: list[str]) -> int:
        """By job (``17.5``) or by cluster (``17``)."""
        with self.state() as state:
            alive = [job for job in state.jobs if job.state != ENDED and not job.cancelled]
            if not alive and not all("." in word for word in arguments):
                print("condor_rm:0:There are no jobs in the queue", file=sys.stderr)
                return 0
            return max(self.remove(state, alive, word) for word in arguments)

    def remove(self, state: State, alive: Sequence[FakeJob], word: str) -> int:
        mine = [job for job in alive if word in (str(job.number), f"{job.number}.{job.index}")]
        if not mine:
            single = f"\nJob {word} not found"
            print(single if "." in word else f"\nCouldn't find/remove all jobs in cluster {word}", file=sys.stderr)
            return 1
        for job in mine:
            if job.state == RUNNING:
                job.cancelled = True
                self.terminate(job)
            else:
                self.cancel(job, signal.SIGTERM, 0.0)
        whole = f"All jobs in cluster {word} have been marked for removal"
        print(f"Job {word} marked for removal" if "." in word else whole)
        return 0


def described(text: str) -> tuple[dict[str, str], int]:
    """The lines of a submit description, and how many jobs are queued: 1 for ``queue 0`` and without a ``queue``."""
    said, count = {}, 1
    for line in text.splitlines():
        if re.match(r"queue\b", line):
            count = max(1, int(line.split()[1] if len(line.split()) > 1 else 1))
        elif "=" in line:
            name, _, value = line.partition("=")
            said[name.strip().lower()] = value.strip()
    return said, count


def asked(job: FakeJob, arguments: Sequence[str]) -> bool:
    """Whether one of the words names this job; without any, all are meant."""
    options = {"-attributes", "-limit", "-constraint"}
    behind = {arguments[i + 1] for i, word in enumerate(arguments[:-1]) if word in options}
    words = [word for word in arguments if not word.startswith("-") and word not in behind]
    return not words or any(word in (str(job.number), f"{job.number}.{job.index}", user()) for word in words)


def pretty(ad: Ad) -> str:
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in ad.items())
    return f"{{\n{lines}\n}}\n"
