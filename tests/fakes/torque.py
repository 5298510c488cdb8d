"""qsub, qstat and qdel of Torque 6.1."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

from tests.fakes.core import ENDED, HELD, PENDING, RUNNING, FakeJob, State, user
from tests.fakes.pbs import Attributes, Pbs, date, indices


class Torque(Pbs):
    """A server ``torquehost`` with the queues ``batch`` and ``short``; a setting ``max_array_size``."""

    manager = "torque"
    host = "torquehost"
    queues = ("batch", "short")
    flags = "fhIVxXzw"
    array, index_variable = "t", "PBS_ARRAYID"
    first = 0
    grace_s = 0.2
    """The outer shell dies at once, and with it the job."""

    def down(self, program: str) -> int:
        return self.replay({"qstat": "daemon-down-status-xml"}.get(program, f"daemon-down-{self.programs[program]}"))

    def refused(self, options: Mapping[str, str]) -> str:
        if options.get("q", self.queues[0]) not in self.queues:
            return "unknown-queue"
        if " " in options.get("N", ""):
            return "name-with-space"
        size = len(indices(options.get("t", "0")))
        return "array-too-large" if size > self.settings.get("max_array_size", 1_000_000) else ""

    def described(self, options: Mapping[str, str], script: str) -> dict[str, Any]:
        wanted = self.resources(options.get("l", ""))
        nodes, *each = wanted.get("nodes", "1").split(":")
        cores = next((int(part[4:]) for part in each if part.startswith("ppn=")), 1)
        return self.common(options, wanted, script, slots=int(nodes) * cores)

    def output(self, job: FakeJob, options: Mapping[str, str]) -> str:
        """A directory gets a file name; an element's number is put behind any name."""
        path = re.sub(rf"^{self.host}:", "", options.get("o", job.extra["cwd"] + "/"))
        suffix = "" if job.index is None else f"-{job.index}"
        return f"{path}{job.name}.o{job.number}{suffix}" if path.endswith("/") else path + suffix

    def limited(self, job: FakeJob) -> None:
        from tests.fakes.core import end

        end(job.pid, signal.SIGTERM, self.grace_s)

    def variables(self, job: FakeJob) -> Mapping[str, str]:
        made = {
            name: value for name, value in super().variables(job).items() if name not in ("NCPUS", "OMP_NUM_THREADS")
        }
        made.pop("PBS_ARRAY_ID", None)
        return {**made, "PBS_JOBNAME": self.listed_name(job), "PBS_NP": str(job.slots), "PBS_O_SERVER": self.host}

    @staticmethod
    def listed_name(job: FakeJob) -> str:
        return job.name if job.index is None else f"{job.name}-{job.index}"

    # --- qdel ---

    def delete(self, state: State, word: str) -> int:
        parts = re.fullmatch(r"(\d+)(?:\[(\d*)\])?(?:\.\w+)?", word)
        if not parts:
            print(f"qdel: illegally formed job identifier: {word}", file=sys.stderr)
            return 1
        jobs = [job for job in self.listed(state) if job.number == int(parts[1])]
        if parts[2]:
            jobs = [job for job in jobs if job.index == int(parts[2])]
        if not jobs:
            return self.complain("nonexistent job id:", word, 153)
        if all(job.state == ENDED for job in jobs):
            return self.complain("Request invalid for state of job MSG=invalid state for job - COMPLETE", word, 170)
        for job in jobs:
            self.cancel(self.real(state, job), signal.SIGTERM, self.grace_s)
        return 0

    # --- qstat ---

    def qstat(self, arguments: list[str]) -> int:
        if arguments == ["--version"]:
            return self.replay("version")
        options = [word for word in arguments if word.startswith("-")]
        ids = [word for word in arguments if not word.startswith("-")]
        with self.state() as state:
            jobs = self.listed(state)
        if "-t" not in options and any("[]" in each for each in ids):
            ids = []  # as recorded: then every job is listed
        code, chosen = 0, jobs
        if ids:
            chosen = []
            for each in ids:
                stem = re.escape(each.partition(".")[0]).replace(r"\[\]", r"\[\d*\]")
                mine = [job for job in jobs if re.fullmatch(stem, self.id(job).partition(".")[0])]
                chosen += mine
                if not mine:
                    print(f"qstat: Unknown Job Id Error {each}", file=sys.stderr)
                    code = 153
        self.print_xml(chosen) if "-x" in options else self.print_rows(chosen)
        return code

    def print_xml(self, jobs: Sequence[FakeJob]) -> None:
        if jobs:
            rows = "".join(f"<Job>{xml({'Job_Id': self.id(job), **self.attributes(job)})}</Job>" for job in jobs)
            print(f'<?xml version="1.0"?>\n<Data>{rows}</Data>')

    def print_rows(self, jobs: Sequence[FakeJob]) -> None:
        if jobs:
            print("Job ID                    Name             User            Time Use S Queue")
            print("------------------------- ---------------- --------------- -------- - -----")
        for job in jobs:
            used, letter = ("00:00:00" if job.started_s else "0"), LETTERS[job.state]
            name, queue = self.listed_name(job), self.queues[0]
            print(f"{self.id(job):<25.25}  {name:<16.16} {user():<15} {used:>8} {letter} {queue:<15}")

    def exit_status(self, job: FakeJob) -> int:
        return -11 if job.overran else super().exit_status(job)

    def attributes(self, job: FakeJob) -> Attributes:
        started, ended, wanted, options = (
            job.started_s > 0,
            job.state == ENDED,
            job.extra["wanted"],
            job.extra["options"],
        )
        suffix = "" if job.index is None else f"-{job.index}"
        waits = "Not Running: Not enough of the right type of nodes are available"
        at = date(job.started_s)
        comment = f"Job started on {at[:10]} at {at[11:16]}" if started else waits
        error = options.get("e", job.extra["cwd"] + "/")
        error += f"{job.name}.e{job.number}{suffix}" if error.endswith("/") else suffix
        known = {"nodes": "1", "walltime": "24:00:00", "nodect": 1}
        resources = {**{name: known[name] for name in (("nodes", "nodect", "walltime") if wanted else known)}, **wanted}
        made: list[tuple[str, Any, bool]] = [
            ("Job_Name", self.listed_name(job), True),
            ("Job_Owner", f"{user()}@{self.host}", True),
            ("job_state", LETTERS[job.state], True),
            ("queue", options.get("q", self.queues[0]), True),
            ("server", self.host, True),
            ("Checkpoint", "u", True),
            ("ctime", int(job.submitted_s), True),
            ("Error_Path", f"{self.host}:{error}", True),
            ("exec_host", f"{self.host}/0" + (f"-{job.slots - 1}" if job.slots > 1 else ""), started),
            ("Hold_Types", "u" if job.state == HELD else "n", not suffix),
            ("Join_Path", options.get("j", "n"), True),
            ("Keep_Files", "n", True),
            ("Mail_Points", "a", True),
            ("mtime", int(job.ended_s or job.started_s or job.submitted_s), True),
            ("Output_Path", f"{self.host}:{job.output}", True),
            ("Priority", 0, True),
            ("qtime", int(job.submitted_s), True),
            ("Rerunable", "True", True),
            ("Resource_List", resources, True),
            ("session_id", job.pid, started),
            ("Variable_List", ",".join(f"{k}={v}" for k, v in self.variables(job).items()), True),
            ("euser", user(), True),
            ("egroup", user(), True),
            ("queue_type", "E", True),
            ("comment", comment, started or job.state == PENDING),
            ("etime", int(job.submitted_s), job.state != HELD),
            ("exit_status", self.exit_status(job) if started and ended else 0, started and ended),
            ("submit_args", job.extra["arguments"], bool(job.extra["arguments"])),
            ("job_array_id", job.index, bool(suffix)),
            ("start_time", int(job.started_s), started),
            ("Walltime", {"Remaining": 86000}, started and not ended),
            ("start_count", job.attempt + 1, started),
            ("fault_tolerant", "False", True),
            ("comp_time", int(job.ended_s), started and ended),
            ("job_radix", 0, True),
            ("total_runtime", f"{job.ended_s - job.started_s:.6f}", started and ended),
            ("submit_host", self.host, True),
            ("init_work_dir", job.extra["cwd"], True),
            ("request_version", 1, True),
        ]
        return {name: value for name, value, shown in made if shown}


LETTERS = {PENDING: "Q", HELD: "H", RUNNING: "R", ENDED: "C"}


def xml(attributes: Attributes) -> str:
    inner = {name: xml(each) if isinstance(each, dict) else escape(str(each)) for name, each in attributes.items()}
    return "".join(f"<{name}>{each}</{name}>" for name, each in inner.items())
