"""The job script: what a job asks for, and how it starts its workers. Pure.

The names of the workers are made when the job runs, from the number of its array element and of its start, so that one
script serves a whole array, and a job that is started again does not meet its own old names. What must not be read by
others (variables, configuration) is not in it, but in a private file that it reads.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import dask.config

from dask_adaptive.backend.command import MODULE, worker_arguments, worker_environment
from dask_adaptive.backend.dialect import Dialect
from dask_adaptive.errors import Rejected
from dask_adaptive.model import Spec, worker_name

__all__ = ["COMMAND", "environment_file", "job_script"]

COMMAND = "{command}"
"""Where a user's own job script has the workers started."""

_JOB = "job"
_RANKS = ("SLURM_PROCID", "PMIX_RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "PALS_RANKID")
"""Where launchers tell a process which of them it is."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_VARIABLE = re.compile(r"(\$\{?[A-Za-z_][A-Za-z0-9_]*\}?)")


def job_script(dialect: Dialect, tag: str, spec: Spec, *, log: str, environment: str = "") -> str:
    """The script that every job of a batch runs.

    Parameters
    ----------
    dialect:
        The language of the batch system.
    tag:
        The batch: jobs are named ``<tag>.<i>``.
    spec:
        What the jobs have to run and ask for.
    log:
        Path of the output, with ``%`` where the element's number goes.
    environment:
        Path of the private file made from ``environment_file``; empty where there is none.

    Returns
    -------
    str
        The text; it ends with a newline.

    Raises
    ------
    Rejected
        For a value that cannot be said in one line of shell.
    """
    request = spec.request
    body = _body(dialect, tag, spec, environment)
    if request.template:
        return _filled(request.template, body, dialect, log)
    redirect = [] if dialect.prefix else [f"exec >>{_output(dialect, log)} 2>&1"]  # no head that could name a file
    lines = [_line(request.shebang), *_head(dialect, spec, log), *redirect, "", *request.prologue, *body]
    return "\n".join(lines) + "\n"


def environment_file(config: Mapping[str, Any], spec: Spec) -> str:
    """What a job reads before its workers start: variables and Dask's configuration, as lines of shell.

    What Dask sets for its workers (one thread for OpenMP) gives way to what the job has already, as with Dask's nanny.
    """
    defaults = {"PYTHONUNBUFFERED": "1", **worker_environment({}, config, replace(spec, environment={}))}
    lines = [f'[ -n "${{{_name(name)}+x}}" ] || export {name}={shlex.quote(value)}' for name, value in defaults.items()]
    if config:
        lines.append(f"export DASK_INTERNAL_INHERIT_CONFIG={shlex.quote(dask.config.serialize(config))}")
    lines += [f"export {_name(name)}={shlex.quote(value)}" for name, value in spec.environment.items()]
    return "".join(f"{line}\n" for line in lines)


# --- the head ------------------------------------------------------------------------------------------------------


def _head(dialect: Dialect, spec: Spec, log: str) -> Iterable[str]:
    """Our directives without those that the user leaves out or brings, then the user's."""
    if not dialect.prefix:
        return []
    own = [_line(text) for text in spec.request.directives]
    dropped = {*spec.request.skip, *(_key(text) for text in own)}
    ours = [_line(str(each)) for each in dialect.directives(spec, log) if each.key not in dropped]
    return [f"{dialect.prefix} {text}" for text in (*ours, *own)]


def _key(directive: str) -> str:
    """``--mem`` of ``--mem=4G``, ``-l walltime`` of ``-l walltime=1:00:00``, ``-p`` of ``-p normal``."""
    words = directive.split("=", 1)[0].split()
    return " ".join(words) if "=" in directive and len(words) == 2 else words[0] if words else ""


# --- the body ------------------------------------------------------------------------------------------------------


def _body(dialect: Dialect, tag: str, spec: Spec, environment: str) -> list[str]:
    lines = [
        f"{_JOB}={_line(tag)}.$(({dialect.index} - {dialect.first}))",
        f"attempt={dialect.attempt}",
        f"export {_JOB} attempt",
    ]
    if environment:
        lines.append(f". {_quoted(environment)} || exit 71  # private: variables and Dask's configuration")
    if spec.command:
        return [*lines, "exec " + " ".join(map(_quoted, spec.command))]
    if spec.local_directory:
        lines += [f"scratch={_path(spec.local_directory)}/${_JOB}-$attempt", "export scratch"]
    if spec.request.launcher:
        return [*lines, *_launched(spec)]
    lines += ["worker() {", *(f"    {line}" for line in _worker(spec)), "}"]
    return [*lines, *(_supervised(spec) if _needs_shell(spec) else ["worker 0"])]


def _needs_shell(spec: Spec) -> bool:
    return spec.shape.workers > 1 or bool(spec.local_directory)


def _worker(spec: Spec) -> list[str]:
    """Lines that become worker ``$1`` of this job."""
    python = spec.request.python or sys.executable
    lines = []
    if spec.gpus and spec.shape.workers > 1:
        first, last = f"$(($1 * {spec.gpus} + 1))", f"$((($1 + 1) * {spec.gpus}))"
        lines.append('if [ -n "$CUDA_VISIBLE_DEVICES" ]; then')
        lines.append(f'    CUDA_VISIBLE_DEVICES=$(echo "$CUDA_VISIBLE_DEVICES" | cut -d, -f"{first}-{last}")')
        lines += ["    export CUDA_VISIBLE_DEVICES", "fi"]
    if spec.local_directory:
        spec = replace(spec, local_directory=_SCRATCH)
    words = {worker_name(_JOB, 0): f'"${_JOB}-$1-$attempt"', _SCRATCH: '"$scratch"'}
    arguments = [words.get(word) or _quoted(word) for word in worker_arguments(spec, _JOB, 0)]
    return [*lines, " ".join(["exec", _path(python), "-m", MODULE, *arguments])]


_SCRATCH = "\0scratch"


def _supervised(spec: Spec) -> list[str]:
    """Start all workers, pass signals on (some systems signal only the first process of a job), and end as they did:
    with the first code that is not 0.
    """
    workers = " ".join(str(index) for index in range(spec.shape.workers))
    clean = ['rm -rf -- "$scratch"'] if spec.local_directory else []
    return [
        "pids=",
        "trap 'kill -TERM $pids 2>/dev/null' TERM INT",
        "trap : USR1 USR2  # warnings of SGE and LSF, which the workers get as well",
        f'for index in {workers}; do worker "$index" & pids="$pids $!"; done',
        "status=0",
        "for pid in $pids; do",
        '    wait "$pid"; code=$?',
        '    while kill -0 "$pid" 2>/dev/null; do wait "$pid"; code=$?; done  # a signal ends a wait',
        '    wait "$pid" 2>/dev/null; again=$?',
        '    [ "$again" -eq 127 ] || code=$again  # known still: it ended while the signal came',
        '    [ "$status" -ne 0 ] || status=$code',
        "done",
        *clean,
        'exit "$status"',
    ]


def _launched(spec: Spec) -> list[str]:
    """One worker for each process of a launcher, which says to each which one it is."""
    rank = "0"
    for name in reversed(_RANKS):
        rank = f"${{{name}:-{rank}}}"
    text = "\n".join([f"set -- {rank}", *_worker(spec)])
    launcher = " ".join(map(_quoted, shlex.split(_line(spec.request.launcher))))
    return [f"exec {launcher} /bin/sh -c {shlex.quote(text)}"]


def _filled(template: str, body: Iterable[str], dialect: Dialect, log: str) -> str:
    """The user's own script, with our command in it: one command that a launcher may stand before."""
    if COMMAND not in template:
        raise Rejected(f"the template has no {COMMAND}: the workers would never start")
    command = f"/bin/sh -c {shlex.quote(chr(10).join(body))} >>{_output(dialect, log)} 2>&1"
    text = template.replace(COMMAND, command)
    return text if text.endswith("\n") else text + "\n"


def _output(dialect: Dialect, log: str) -> str:
    """The path of the element's own output, in shell."""
    element = f'"$(({dialect.index}))"'
    return element.join(_quoted(part) if part else "" for part in log.split("%"))


# --- saying values -------------------------------------------------------------------------------------------------


def _line(text: str) -> str:
    if _CONTROL.search(text):
        raise Rejected(f"control characters and line ends cannot be in a job script: {text!r}")
    return text


def _quoted(text: str) -> str:
    return shlex.quote(_line(text))


def _path(text: str) -> str:
    """A path in which variables of the job (``$TMPDIR``) stand for what they are there; nothing else is expanded."""
    parts = _VARIABLE.split(_line(text))
    return "".join(f'"{part}"' if i % 2 else shlex.quote(part) if part else "" for i, part in enumerate(parts))


def _name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise Rejected(f"{name!r} cannot be the name of a variable")
    return name
