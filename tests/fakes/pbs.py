"""qsub, qstat and qdel of OpenPBS 23.06, and what is the same in Torque."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.fakes.core import ENDED, HELD, PENDING, RUNNING, FakeJob, Front, State, user

Attributes = dict[str, Any]


class Pbs(Front):
    """A server ``pbshost`` with the queues ``workq`` and ``batch``; setting ``history``: job_history_enable."""

    manager = "openpbs"
    programs: Mapping[str, str] = {"qsub": "submit", "qstat": "query", "qdel": "cancel"}
    host = "pbshost"
    queues = ("workq", "batch")
    flags = "fhIVXz"
    """Options of qsub without a value."""
    array, index_variable = "J", "PBS_ARRAY_INDEX"
    grace_s = 9.0

    # --- qsub ---

    def qsub(self, arguments: list[str]) -> int:
        if arguments == ["--version"]:
            return self.replay("version-qsub")
        options, words = self.options(arguments)
        script = Path(words[0]).read_text() if words else sys.stdin.read()
        options = {**self.options(self.directives(script))[0], **options}
        refused = self.faults["reject"] or self.refused(options)
        if refused:
            return self.replay(f"submit-{refused}")
        with self.state() as state:
            number = state.number
            path = self.directory / f"{number}.sh"
            path.write_text(script)
            path.chmod(0o700)
            span = options.get(self.array, "")
            jobs = state.add(1, indices(span) if span else [None], **self.described(options, script=str(path)))
            for job in jobs:
                job.count, job.output = len(jobs), self.output(job, options)
                job.extra["arguments"] = " ".join(arguments)
        print(f"{number}{'[]' if span else ''}.{self.host}")
        return 0

    def options(self, arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
        """Options by letter (of ``-l`` all, separated by blanks), and the words that are none."""
        options: dict[str, str] = {}
        waiting = list(arguments)
        while waiting and waiting[0].startswith("-") and waiting[0] != "-":
            letter, value = waiting.pop(0)[1], ""
            if letter not in self.flags:
                value = waiting.pop(0)
            options[letter] = f"{options[letter]} {value}" if letter == "l" and "l" in options else value
        return options, waiting

    @staticmethod
    def directives(script: str) -> list[str]:
        """The words of the #PBS lines before the first command."""
        words: list[str] = []
        for line in script.splitlines():
            if line.startswith("#PBS"):
                option, _, value = line[4:].strip().partition(" ")
                words += [option, value.strip()] if value else [option]
            elif line and not line.startswith("#"):
                break
        return words

    def refused(self, options: Mapping[str, str]) -> str:
        """The recorded case of a refusal, or nothing."""
        if options.get("q", self.queues[0]) not in self.queues:
            return "unknown-queue"
        if " " in options.get("N", ""):
            return "name-with-space"
        span = indices(options.get("J", "0-1"))
        if len(span) < 2:
            return "array-one"
        return "array-too-large" if len(span) > self.settings.get("max_array_size", 10_000) else ""

    def described(self, options: Mapping[str, str], script: str) -> dict[str, Any]:
        wanted = self.resources(options.get("l", ""))
        chunks, *each = wanted.get("select", "1:ncpus=1").split(":")
        cores = next((int(part[6:]) for part in each if part.startswith("ncpus=")), 1)
        return self.common(options, wanted, script, slots=int(chunks) * cores)

    @staticmethod
    def resources(text: str) -> dict[str, str]:
        return dict(part.split("=", 1) for part in re.split(r"[ ,]", text) if part)

    def common(self, options: Mapping[str, str], wanted: Mapping[str, str], script: str, slots: int) -> dict[str, Any]:
        hours, minutes, seconds = map(int, wanted.get("walltime", "0:0:0").split(":"))
        variables = dict(os.environ) if "V" in options else {}
        for each in filter(None, options.get("v", "").split(",")):
            name, _, value = each.partition("=")
            variables[name] = value if "=" in each else os.environ.get(name, "")
        return {
            "name": options.get("N", "STDIN"),
            "script": script,
            "slots": slots,
            "state": HELD if "h" in options else PENDING,
            "limit_s": float(hours * 3600 + minutes * 60 + seconds),
            "extra": {"options": dict(options), "wanted": dict(wanted), "variables": variables, "cwd": str(Path.cwd())},
        }

    def output(self, job: FakeJob, options: Mapping[str, str]) -> str:
        """Where standard output goes: an index in the path is filled in, a directory gets a file name."""
        path = options.get("o", "").replace("^array_index^", "" if job.index is None else str(job.index))
        path = re.sub(rf"^{self.host}:", "", path)
        name = f"{self.id(job)}.OU"
        if not path:
            return str(self.directory / name)
        return str(Path(path) / name) if path.endswith("/") else path

    # --- a running job ---

    def variables(self, job: FakeJob) -> Mapping[str, str]:
        made = {
            **job.extra["variables"],
            "PBS_JOBID": self.id(job),
            "PBS_JOBNAME": job.name,
            "PBS_ENVIRONMENT": "PBS_BATCH",
            "PBS_O_WORKDIR": job.extra["cwd"],
            "NCPUS": str(job.slots),
            "OMP_NUM_THREADS": str(job.slots),
        }
        if job.index is not None:
            made |= {self.index_variable: str(job.index), "PBS_ARRAY_ID": f"{job.number}[].{self.host}"}
        return made

    # --- qdel ---

    def qdel(self, arguments: list[str]) -> int:
        code = 0
        with self.state() as state:
            for word in arguments:
                code = self.delete(state, word) or code
        return code

    def delete(self, state: State, word: str) -> int:
        """Delete what one word names; prints what is wrong and returns the exit code."""
        parts = re.fullmatch(r"(\d+)(?:\[([-\d]*)(?::\d+)?\])?(?:\.\w+)?", word)
        if not parts:
            print(f"qdel: illegally formed job identifier: {word}", file=sys.stderr)
            return 1
        jobs = [job for job in self.listed(state) if job.number == int(parts[1])]
        if not jobs:
            return self.complain("Unknown Job Id", word, 153)
        if parts[2]:
            wanted = indices(parts[2])
            if not set(wanted) & {job.index for job in jobs}:
                return self.complain("Invalid request", word, 156)
            jobs = [job for job in jobs if job.index in wanted]
        elif all(job.state == ENDED for job in jobs):
            known = self.settings.get("history")
            return self.complain(*("Job has finished", word, 35) if known else ("Unknown Job Id", word, 153))
        for job in jobs:
            self.cancel(self.real(state, job), signal.SIGTERM, self.settings.get("grace_s", self.grace_s))
        return 0

    @staticmethod
    def real(state: State, job: FakeJob) -> FakeJob:
        return next(each for each in state.jobs if (each.number, each.index) == (job.number, job.index))

    def complain(self, what: str, word: str, code: int) -> int:
        print(f"qdel: {what} {word}", file=sys.stderr)
        return code

    # --- qstat ---

    def qstat(self, arguments: list[str]) -> int:
        if arguments == ["--version"]:
            return self.replay("version")
        if arguments == ["-B", "-f"]:
            return self.server()
        options = [word for word in arguments if word.startswith("-")]
        ids = [word for word in arguments if not word.startswith("-") and word != "json"]
        if "-F" in options and "-f" not in options:
            return self.replay("status-running-json-no-f")
        with self.state() as state:
            rows = list(self.rows(self.listed(state), "-t" in options or any("[" in each for each in ids)))
        code, chosen = self.chosen(rows, ids, "-x" in options)
        if "-F" in options:
            chosen = chosen[:1] if len(ids) > 1 and "-t" not in options else chosen  # as recorded: only the first
            self.print_json(chosen)
        elif "-f" in options:
            sys.stdout.write("".join(text(*row) + "\n" for row in chosen))
        elif chosen:
            self.print_table(chosen)
        return code

    def server(self) -> int:
        case = json.loads((Path(__file__).parents[1] / "recorded/openpbs/history-duration.json").read_text())
        history = "    job_history_enable = True\n"
        sys.stdout.write(case["stdout"] if self.settings.get("history") else case["stdout"].replace(history, ""))
        return 0

    def chosen(
        self, rows: list[tuple[str, Attributes]], ids: Sequence[str], past: bool
    ) -> tuple[int, list[tuple[str, Attributes]]]:
        """The rows asked for, and the exit code; complaints are printed."""
        history = self.settings.get("history")
        if past and not history:
            for each in ids or ["(null)"]:
                print(f"qstat: PBS is not configured to maintain job history {each}", file=sys.stderr)
            return 0, []
        if not ids:
            return 0, [(id, row) for id, row in rows if past or row["job_state"] != "F"]
        code, found = 0, []
        for each in ids:
            stem = re.escape(each.partition(".")[0]).replace(r"\[\]", r"\[\d*\]")
            mine = [(id, row) for id, row in rows if re.fullmatch(stem, id.partition(".")[0])]
            if not mine or (not history and all(row["job_state"] == "F" for _, row in mine)):
                print(f"qstat: Unknown Job Id {each}", file=sys.stderr)
                code = 153
            elif not past and all(row["job_state"] == "F" for _, row in mine):
                print(
                    f"qstat: {each} Job has finished, use -x or -H to obtain historical job information",
                    file=sys.stderr,
                )
                code = 35
            else:
                found += mine
        return code, found

    def rows(self, jobs: list[FakeJob], elements: bool) -> Iterator[tuple[str, Attributes]]:
        """What is listed: an array as one row, with its elements behind where these are wanted."""
        numbers = dict.fromkeys(job.number for job in jobs)
        for number in numbers:
            mine = [job for job in jobs if job.number == number]
            if mine[0].index is None:
                yield self.id(mine[0]), self.attributes(mine[0])
                continue
            over = all(job.state == ENDED for job in mine)
            began = min((job.started_s for job in mine if job.started_s), default=0.0)
            mine = [replace(job, extra={**job.extra, "began": began}) for job in mine]
            yield f"{number}[].{self.host}", self.parent(mine)
            if elements:
                for job in mine:
                    row = self.attributes(job)
                    row["job_state"] = "X" if row["job_state"] == "F" and not over else row["job_state"]
                    yield self.id(job), row

    def id(self, job: FakeJob) -> str:
        return f"{job.number}.{self.host}" if job.index is None else f"{job.number}[{job.index}].{self.host}"

    def exit_status(self, job: FakeJob) -> int:
        if job.overran:
            return -29
        assert job.exit is not None
        return job.exit if job.exit >= 0 else 256 - job.exit

    def comment(self, job: FakeJob) -> str:
        where = f"({self.host}:{job.extra['wanted'].get('select', '1:ncpus=1').partition(':')[2]})"
        capacity = self.settings["capacity"]
        if began := job.extra.get("began", 0.0) if not job.started_s else 0.0:
            return f"Job Array Began at {moment(began)}"
        if not job.started_s:
            total = f"(R: {job.slots} A: {capacity} T: {capacity})"
            never = f"Can Never Run: Insufficient amount of resource: ncpus {total}"
            waits = "Not Running: Not enough free nodes available"
            return "" if job.state == HELD else never if 0 < capacity < job.slots else waits
        said = f"Job run at {moment(job.started_s)} on {where}"
        if job.cancelled:
            return f"{said} and terminated by {user()}@{self.host}"
        if job.overran:
            return f"{said} and exceeded resource walltime"
        if job.state == ENDED:
            return f"{said} and {'failed' if job.exit else 'finished'}"
        return said

    def attributes(self, job: FakeJob) -> Attributes:
        """Every attribute in the order in which qstat prints them."""
        started, ended, element = job.started_s > 0, job.state == ENDED, job.index is not None
        wanted, options = job.extra["wanted"], job.extra["options"]
        changed = job.ended_s or job.started_s or job.submitted_s
        zero = {"cpupercent": 0, "cput": "00:00:00", "mem": "0kb", "ncpus": job.slots, "vmem": "0kb"}
        path = f"{self.host}:{options.get('o', job.extra['cwd'] + '/')}"
        inherits = not (element and started)
        made: list[tuple[str, Any, bool]] = [
            ("Job_Name", job.name, True),
            ("Job_Owner", f"{user()}@{self.host}", True),
            ("resources_used", {**zero, "walltime": "00:00:00"}, started),
            ("job_state", {PENDING: "Q", HELD: "H", RUNNING: "R", ENDED: "F"}[job.state], True),
            ("queue", options.get("q", self.queues[0]), True),
            ("server", self.host, True),
            ("Checkpoint", "u", inherits),
            ("ctime", date(job.submitted_s), True),
            ("Error_Path", f"{self.host}:{options.get('e', job.extra['cwd'] + '/')}", True),
            ("exec_host", f"{self.host}/0" + (f"*{job.slots}" if job.slots > 1 else ""), started),
            ("exec_vnode", f"({self.host}:ncpus={job.slots})", started),
            ("Hold_Types", "u" if job.state == HELD else "n", inherits),
            ("Join_Path", options.get("j", "n"), True),
            ("Keep_Files", "n", True),
            ("Mail_Points", "a", True),
            ("mtime", date(changed), True),
            ("Output_Path", path, True),
            ("Priority", 0, True),
            ("qtime", date(job.submitted_s), True),
            ("Rerunable", "True", True),
            ("Resource_List", self.resource_list(job, wanted), True),
            ("stime", date(job.started_s or job.extra.get("began", 0.0)), started or job.extra.get("began", 0.0) > 0),
            ("obittime", date(job.ended_s), started and ended),
            ("session_id", job.pid, started and not ended),
            ("jobdir", "/home/tester", started),
            ("substate", self.substate(job), True),
            ("Variable_List", self.variable_list(job), True),
            ("comment", self.comment(job), bool(self.comment(job))),
            ("etime", date(job.submitted_s), job.state != HELD),
            ("run_count", job.attempt + 1, started),
            ("Stageout_status", 1, started and ended),
            ("Exit_status", self.exit_status(job) if started and ended else 0, started and ended),
            ("array_id", f"{job.number}[].{self.host}", element and started),
            ("array_index", job.index, element and started),
            ("Submit_arguments", job.extra["arguments"], inherits and bool(job.extra["arguments"])),
            ("history_timestamp", int(job.ended_s), ended and bool(self.settings.get("history"))),
            ("project", "_pbs_project_default", not element or started),
            ("Submit_Host", self.host, not element or started),
        ]
        return {name: value for name, value, shown in made if shown}

    @staticmethod
    def substate(job: FakeJob) -> int:
        if job.state == ENDED:
            return 91 if job.cancelled else 93 if job.exit else 92
        return {PENDING: 10, HELD: 20, RUNNING: 42}[job.state]

    @staticmethod
    def resource_list(job: FakeJob, wanted: Mapping[str, str]) -> dict[str, Any]:
        listed = {"ncpus": job.slots, "nodect": 1, "place": "free" if "select" in wanted else "pack"}
        listed["select"] = wanted.get("select", f"1:ncpus={job.slots}")
        memory = re.search(r":mem=(\w+)", listed["select"])
        listed |= {"mem": memory[1]} if memory else {}
        listed |= {"walltime": wanted["walltime"]} if "walltime" in wanted else {}
        return dict(sorted(listed.items()))

    def variable_list(self, job: FakeJob) -> dict[str, Any]:
        return {
            "PBS_O_HOME": "/home/tester",
            "PBS_O_LANG": "C.UTF-8",
            "PBS_O_LOGNAME": user(),
            "PBS_O_PATH": "/opt/openpbs/bin:/usr/bin:/bin",
            "PBS_O_SHELL": "/bin/bash",
            "PBS_O_INTERACTIVE_AUTH_METHOD": "resvport",
            "PBS_O_INTERACTIVE_ENCRYPT_METHOD": "",
            "PBS_O_WORKDIR": job.extra["cwd"],
            "PBS_O_SYSTEM": "Linux",
            **{k: int(v) if v.isdigit() else v for k, v in job.extra["variables"].items()},
            "PBS_O_QUEUE": job.extra["options"].get("q", self.queues[0]),
            "PBS_O_HOST": self.host,
        }

    def parent(self, jobs: list[FakeJob]) -> Attributes:
        """The row of an array."""
        first = jobs[0]
        count = {state: sum(job.state == state for job in jobs) for state in (PENDING, HELD, RUNNING, ENDED)}
        row = self.attributes(FakeJob(**{**vars(first), "index": None, "started_s": 0.0, "state": PENDING, "pid": 0}))
        row["job_state"] = "F" if count[ENDED] == len(jobs) else "B" if any(j.started_s for j in jobs) else "Q"
        row["substate"] = {"F": 91, "B": 70, "Q": 10}[row["job_state"]]
        states = f"Queued:{count[PENDING]} Running:{count[RUNNING]} Exiting:0 Expired:{count[ENDED]}"
        span = first.extra["options"][self.array].partition("%")[0]
        array = {"array": "True", "array_state_count": states, "array_indices_submitted": span}
        tail = {name: row.pop(name) for name in ("project", "Submit_Host")}
        waiting = [job.index for job in jobs if job.state == PENDING]
        remaining = f"{waiting[0]}-{waiting[-1]}" if len(waiting) > 1 else str(waiting[0]) if waiting else "-"
        return {**row, **array, "array_indices_remaining": remaining, **tail}

    def print_json(self, rows: Sequence[tuple[str, Attributes]]) -> None:
        print(f'{{\n\t"timestamp":\t{int(time.time())},\n\t"pbs_version":\t"23.06.06",', end="")
        print(f'\n\t"pbs_server":\t"{self.host}"', end="")
        if rows:
            print(f',\n\t"Jobs":\t{as_json(dict(rows), 1)}', end="")
        print("\n}")

    @staticmethod
    def print_table(rows: Sequence[tuple[str, Attributes]]) -> None:
        print("Job id            Name             User              Time Use S Queue")
        print("----------------  ---------------- ----------------  -------- - -----")
        for id, row in rows:
            used = "00:00:00" if "exec_host" in row else "0"
            owner = row["Job_Owner"].partition("@")[0]
            print(f"{id:<16.16}  {row['Job_Name']:<16.16} {owner:<16} {used:>9} {row['job_state']} {row['queue']:<16}")


def indices(span: str) -> list[int]:
    """The numbers of ``2-5``, ``2-5%2``, ``1,5,7`` or ``3``."""
    found: list[int] = []
    for part in re.sub(r"[%:].*", "", span).split(","):
        low, _, high = part.partition("-")
        found += range(int(low), int(high or low) + 1)
    return found


def moment(at_s: float) -> str:
    return time.strftime("%a %b %d at %H:%M", time.localtime(at_s))


def date(at_s: float) -> str:
    return time.strftime("%a %b %d %H:%M:%S %Y", time.localtime(at_s))


def as_json(value: Any, depth: int) -> str:
    """JSON as cJSON prints it: tabs, also between name and value."""
    if not isinstance(value, dict):
        return json.dumps(value)
    tabs = "\t" * (depth + 1)
    lines = ",\n".join(f"{tabs}{json.dumps(name)}:\t{as_json(each, depth + 1)}" for name, each in value.items())
    return f"{{\n{lines}\n{tabs[:-1]}}}"


def text(id: str, attributes: Attributes) -> str:
    """The lines of ``qstat -f``; long ones are folded."""
    lines = [f"Job Id: {id}"]
    for name, value in attributes.items():
        if name == "Variable_List":
            lines.append(fold(name, ",".join(f"{k}={v}" for k, v in value.items())))
        elif isinstance(value, dict):
            lines += [fold(f"{name}.{k}", str(v)) for k, v in value.items()]
        else:
            lines.append(fold(name, str(value)))
    return "\n".join(lines) + "\n"


def fold(name: str, value: str) -> str:
    """At most 79 columns: broken behind a comma where there is one, anywhere else otherwise."""
    made = line = f"    {name} = "
    for part in re.findall(r"[^,]*,|[^,]+", value):
        if len(line) + len(part) > 78 and "," in value and not line.endswith("= "):
            made, line = f"{made}\n\t", " " * 8
        for letter in part:
            made, line = made + letter, line + letter
            if len(line) > 77:
                made, line = f"{made}\n\t", " " * 8
    return made
