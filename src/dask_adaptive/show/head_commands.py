"""``dask adaptive up, list, status, explain, events, logs, scale, adapt, dashboard, down, reap``: named clusters.

Everything slow is imported by the command that needs it.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import click

from dask_adaptive.errors import AdaptiveError, ConfigError, EngineError

__all__ = ["COMMANDS", "Finite", "settings_of"]

_FILE = click.Path(dir_okay=False, exists=True, path_type=Path)
_JSON = click.option("--json", "as_json", is_flag=True, help="For programs.")
_NAME = click.argument("name", required=False)


class Finite(click.FloatRange):
    """A number within bounds; NaN, which no comparison refuses, and infinity are none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number; one sentence where it is none."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


def _examples(*commands: str) -> str:
    return "\b\nExamples:\n" + "\n".join(f"  dask adaptive {command}" for command in commands)


# --- up ----------------------------------------------------------------------------------------------------------


@click.command(
    epilog=_examples(
        "up work --maximum 8",
        "up analysis --backend slurm --cores 8 --memory 32GB --walltime 4h --maximum 100 --idle-timeout 1h",
        "up analysis --config site.yaml --head job",
    )
)
@_NAME
@click.option("--config", type=_FILE, help="The cluster in a YAML file; the other options win over it.")
@click.option("--backend", metavar="NAME", help="See `dask adaptive backends`.  [default: local]")
@click.option("--cores", type=click.IntRange(1), help="Threads of one job.")
@click.option("--processes", type=click.IntRange(1), help="Workers of one job.")
@click.option("--memory", metavar="SIZE", help='Memory per worker, such as "4 GB".')
@click.option("--queue", metavar="NAME", help="Queue or partition of a batch system.")
@click.option("--account", metavar="NAME", help="Whom a batch system bills.")
@click.option("--walltime", metavar="TIME", help='How long a batch job may run, such as "4h".')
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any other key of a YAML file.")
@click.option("--minimum", type=click.IntRange(0), help="Never fewer workers.  [default: 0]")
@click.option("--maximum", type=click.IntRange(1), help="Never more workers.  [default: 10 jobs]")
@click.option("--policy", metavar="NAME", help="When and how many; see `dask adaptive policies`.")
@click.option("--target-duration", metavar="TIME", help='Work is to be done within, such as "5s".')
@click.option("--budget", type=Finite(0), metavar="HOURS", help="Worker-hours that may be spent.")
@click.option("--idle-timeout", metavar="TIME", help="End when nothing was done or held for so long.")
@click.option("--head", type=click.Choice(["here", "job"]), help="In the background, or as a job.  [default: here]")
@click.option("--dashboard/--no-dashboard", default=None, help="Whether Dask's dashboard is served.  [default: yes]")
@click.option("--wait", "wait_s", type=Finite(0), default=0.0, metavar="SECONDS", help="Give up after so long.")
@_JSON
def up(name: str | None, as_json: bool, wait_s: float, **flags: Any) -> None:
    """Start cluster NAME, which lives on when this shell is gone."""
    from dask_adaptive.head import start

    file = flags["config"]
    description = _description(flags)
    name = name or description.name
    if name is None:
        raise ConfigError("how is the cluster to be called? Give a NAME, or the key `name` in the file")
    running = asyncio.run(start.up(name, description, say=_note, wait_s=wait_s))
    if not as_json:
        _say_up(running)
    troubles = asyncio.run(start.troubles(name, description))
    if as_json:
        found = {"name": name, "address": running.address, "dashboard": running.dashboard}
        process = {"host": running.process.host, "pid": running.process.pid}
        _print({**found, **process, "troubles": troubles})
        return
    for pool, words in troubles.items():
        of = description.options[pool].backend if file is None else f"--config {file} --pool {pool}"
        whether = f"`dask adaptive status {name}` shows whether it does later, `dask adaptive doctor {of}` looks why"
        _note(f"pool {pool} gets no jobs now: {words}; {whether}")


def _say_up(running: Any) -> None:
    click.echo(f"cluster {running.name} is up: {running.address}")
    click.echo(f'in Python: dask_adaptive.connect("{running.name}")')
    if running.dashboard:
        click.echo(f"dashboard: {running.dashboard}")


def _description(flags: dict[str, Any]) -> Any:
    from dataclasses import replace

    from dask_adaptive.description import flagged, read

    path, where, dashboard = flags.pop("config"), flags.pop("head"), flags.pop("dashboard")
    said = {key: value for key, value in flags.items() if key != "settings"} | settings_of(flags["settings"])
    description = flagged(**said) if path is None else read(path, **said)
    head = {key: value for key, value in {"where": where, "dashboard": dashboard}.items() if value is not None}
    return replace(description, head={**description.head, **head})


def settings_of(settings: Sequence[str]) -> dict[str, Any]:
    """What ``--set KEY=VALUE`` says, with values in YAML."""
    import yaml

    found = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set takes KEY=VALUE, not {setting!r}")
        try:
            found[key.strip().replace("-", "_")] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {key}: {value!r} cannot be read: {error}") from None
    return found


# --- looking -----------------------------------------------------------------------------------------------------


@click.command("list", epilog=_examples("list", "list --json"))
@_JSON
def list_(as_json: bool) -> None:
    """List the named clusters of this user; forget those of which nothing is left."""
    from dask_adaptive.head import end, orphans
    from dask_adaptive.head.state import Standing, entries

    found = entries()
    for entry in list(found):
        if entry.standing() is Standing.LOST and end.nothing_can_be_left(entry):
            entry.remove()
            found.remove(entry)
            _note(f"cluster {entry.name} had ended without a word; nothing of it is left")
    for owner in orphans.orphans():
        _note(f"cluster {owner.name} lost its owner, process {owner.process.pid}; `dask adaptive reap` ends its jobs")
    rows = asyncio.run(end.overview(found))
    if as_json:
        _print(rows)
        return
    heads = ("name", "state", "workers", "jobs", "host", "age")
    table = [
        [*("-" if row[key] is None else str(row[key]) for key in heads[:-1]), _age(row["since_s"])] for row in rows
    ]
    _table(heads, table) if table else click.echo("no clusters; `dask adaptive up NAME` starts one")


@click.command(epilog=_examples("status work", "status work --watch", "status --json"))
@_NAME
@click.option("--watch", is_flag=True, help="Go on showing it until ctrl-C.")
@_JSON
def status(name: str | None, watch: bool, as_json: bool) -> None:
    """Show what cluster NAME is doing: pools with the reason of their size, jobs, tasks."""
    name = _one(name)
    if watch and not as_json:
        _watch(name)
        return
    with _until_ctrl_c(watch):
        while True:
            about = _ask(name, "status")
            _print(about, indent=None if watch else 2) if as_json else _show(about)
            if not watch:
                return
            time.sleep(1.0)


def _until_ctrl_c(goes_on: bool) -> AbstractContextManager[Any]:
    """What goes on until ctrl-C ends well with it."""
    return suppress(KeyboardInterrupt) if goes_on else nullcontext()


def _show(about: Mapping[str, Any]) -> None:
    from dask_adaptive.head.attach import job_table_of
    from dask_adaptive.phrases import count

    tasks = about["tasks"]
    click.echo(f"cluster {about['name']}, up for {_age(about['since_s'])}, process {about['pid']} on {about['host']}")
    sizes = f"{count(about['workers'], 'worker')}, {count(about['threads'], 'thread')}"
    click.echo(f"{sizes}; tasks: {_counts(tasks)}")
    for pool in about["pools"]:
        top = "without limit" if pool["maximum"] is None else f"to {pool['maximum']}"
        size = f"{pool['jobs']} jobs, {pool['wanted']} wanted ({pool['minimum']} {top})"
        click.echo(f"pool {pool['pool']}: {size}: {pool['reason']}")
        _echo(f"  {word}: {pool[word]}" for word in ("broken", "stale") if pool[word])
    _echo([f"error: {about['error']}"] if about["error"] else [])
    click.echo(str(job_table_of(about)))


def _counts(tasks: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {word}" for word, count in tasks.items())


def _watch(name: str) -> None:
    import sys

    from dask_adaptive.head.attach import connect
    from dask_adaptive.show.live import LiveView

    with suppress(KeyboardInterrupt):  # also while it begins or ends
        with connect(name) as cluster, LiveView(cluster, sys.stdout):
            while cluster.answers:
                time.sleep(0.2)
        raise EngineError(f"cluster {name!r} does not answer any more")


@click.command(epilog=_examples("explain work"))
@_NAME
def explain(name: str | None) -> None:
    """Say why cluster NAME is as large as it is, what would make it grow, and what keeps it from shrinking."""
    click.echo(_ask(_one(name), "explain"))


@click.command(epilog=_examples("events work", "events work --follow", "events work --json"))
@_NAME
@click.option("--follow", is_flag=True, help="Go on until ctrl-C.")
@_JSON
def events(name: str | None, follow: bool, as_json: bool) -> None:
    """Say what happened in cluster NAME: decisions with their reasons, and what became of them."""
    name, after = _one(name), 0
    with _until_ctrl_c(follow):
        while True:
            found = _ask(name, "events", after=after)
            after = max([after, *(event["number"] for event in found)])
            if as_json and not follow:
                _print(found)
            for event in found if follow or not as_json else ():
                _print(event, indent=None) if as_json else click.echo(f"{_clock(event['at_s'])}  {event['text']}")
            if not follow:
                return
            time.sleep(1.0)


@click.command(epilog=_examples("logs work", "logs --cluster work xk2fa81b.0"))
@click.argument("job", required=False)
@click.option("--cluster", "name", metavar="NAME", help="The cluster; needed where there are several.")
def logs(job: str | None, name: str | None) -> None:
    """Print the end of what JOB printed, a dead one too; without JOB, or for the name of a cluster, of the head."""
    from dask_adaptive.head import end
    from dask_adaptive.head.state import entries, entry_of

    known = [entry.name for entry in entries()] if job is not None and name is None else []
    if job in known:
        job, name = None, job
    name = _one(name)
    if job is None:
        click.echo(asyncio.run(end.head_log(entry_of(name))), nl=False)
        return
    try:
        click.echo(_ask(name, "log", job=job), nl=False)
    except ConfigError as error:
        raise _neither(name, job, known, error) if known else error from None


def _neither(name: str, job: str, known: Sequence[str], error: ConfigError) -> ConfigError:
    """A word that may have been meant as a job or as a cluster, and is none."""
    about, _, jobs = str(error).rpartition("known: ")
    if not about.startswith("unknown job"):
        return error
    sentence = f"cluster {name!r} has no job {job!r}, and there is no cluster of that name"
    return ConfigError(f"{sentence}; known clusters: {', '.join(known)}; known jobs: {jobs}")


@click.command(epilog=_examples("dashboard work", "dashboard work --open", "dashboard user@login.example.org:work"))
@_NAME
@click.option("--open", "opens", is_flag=True, help="In a browser.")
@_JSON
def dashboard(name: str | None, opens: bool, as_json: bool) -> None:
    """Say where the dashboard of cluster NAME is; over SSH, keep the way to it open until ctrl-C."""
    import webbrowser

    from dask_adaptive.head.attach import reach

    name = _one(name)
    where = reach(name)
    try:
        if not where.dashboard:
            raise EngineError(f"cluster {name!r} was started without a dashboard")
        _print({"dashboard": where.dashboard}) if as_json else click.echo(where.dashboard)
        if opens:
            webbrowser.open(where.dashboard)
        with _until_ctrl_c(where.forwarded):
            while where.forwarded:
                time.sleep(1.0)
    finally:
        where.let_go()


# --- sizes -------------------------------------------------------------------------------------------------------


@click.command(epilog=_examples("scale work 4", "scale work 2 --pool gpu", "scale work 64 --cores"))
@click.argument("name")
@click.argument("size", type=click.IntRange(0))
@click.option("--jobs", is_flag=True, help="SIZE is in jobs.")
@click.option("--cores", is_flag=True, help="SIZE is in threads.")
@click.option("--pool", metavar="NAME", help="The pool; the others stay as they are.  [default: the first one]")
def scale(name: str, size: int, jobs: bool, cores: bool, pool: str | None) -> None:
    """Give cluster NAME a fixed SIZE in workers. This ends adaptive scaling."""
    if jobs and cores:
        raise ConfigError("is SIZE in jobs or in threads? Give --jobs or --cores, not both")
    where = {} if pool is None else {"pool": pool}
    unit = "jobs" if jobs else "cores" if cores else "workers"
    _ask(name, "scale", **{"n" if unit == "workers" else unit: size}, **where)
    click.echo(f"cluster {name}: {size} {unit}, fixed")


@click.command(epilog=_examples("adapt work --maximum 20", "adapt work --minimum 2 --maximum 2 --policy doubling"))
@click.argument("name")
@click.option("--minimum", type=click.IntRange(0), help="Never fewer workers.")
@click.option("--maximum", type=click.IntRange(1), help="Never more workers.")
@click.option("--policy", metavar="NAME", help="When and how many; see `dask adaptive policies`.")
@click.option("--target-duration", metavar="TIME", help='Work is to be done within, such as "5s".')
@click.option("--budget", type=Finite(0), metavar="HOURS", help="Worker-hours that may be spent from now on.")
def adapt(name: str, **options: Any) -> None:
    """Let a policy choose the size of cluster NAME from now on."""
    said = _ask(name, "adapt", **{key: value for key, value in options.items() if value is not None})
    click.echo(f"cluster {name}: {said}")


# --- the end -----------------------------------------------------------------------------------------------------


@click.command(epilog=_examples("down work", "down --all"))
@click.argument("names", metavar="NAME...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every named cluster.")
@_JSON
def down(names: Sequence[str], everything: bool, as_json: bool) -> None:
    """End clusters: their jobs, their schedulers, their heads. Returns when nothing is left."""
    from dask_adaptive.head import end
    from dask_adaptive.head.forward import is_far
    from dask_adaptive.head.state import entries, entry_of

    if bool(names) == everything:
        raise ConfigError("which cluster? Give a NAME, or --all")
    for name in filter(is_far, names):
        _ask(name, "end", why="`dask adaptive down`")
        _note(f"cluster {name} is ending its jobs")
    found = entries() if everything else [entry_of(name) for name in names if not is_far(name)]
    _each([entry.name for entry in found], lambda at: end.down(found[at], say=_note), "ended", as_json)
    if everything and not found and not as_json:
        click.echo("no clusters")


@click.command(epilog=_examples("reap", "reap work", "reap --backend slurm"))
@click.argument("names", metavar="[NAME...]", nargs=-1)
@click.option("--backend", metavar="NAME", help="Only clusters with jobs of this backend.")
@_JSON
def reap(names: Sequence[str], backend: str | None, as_json: bool) -> None:
    """Clean up after clusters whose owner was killed: a head, a notebook, a script.

    Their jobs that resource managers still show are cancelled, and the files that those read removed. Clusters whose
    owner lives, or was on another machine, are left alone.
    """
    from dask_adaptive.config import check_keys
    from dask_adaptive.head import end, orphans
    from dask_adaptive.registry import backends

    if names and backend is not None:
        raise ConfigError("give names or --backend, not both")
    if backend is not None:
        check_keys("backend", [backend], backends())
    if names:
        heads, left = _named(names)
    else:
        heads, left = asyncio.run(end.lost(_heads_with(backend))), orphans.orphans(backend)
        for owner in orphans.elsewhere(backend):
            process = owner.process
            _note(f"cluster {owner.name} belongs to process {process.pid} on {process.host}; only there it can be told")
    work = [*(partial(end.reap, head) for head in heads), *(partial(orphans.reap_orphan, owner) for owner in left)]
    _each([each.name for each in (*heads, *left)], lambda at: work[at](), "cleaned up", as_json)
    if not work and not as_json:
        click.echo("nothing to clean up")


def _named(names: Sequence[str]) -> tuple[list[Any], list[Any]]:
    """The heads, and the clusters that were none, with these names."""
    from dask_adaptive.head import orphans
    from dask_adaptive.head.state import entries, entry_of

    heads = {entry.name: entry for entry in entries()}
    left = {name: orphans.named(name) for name in names if name not in heads}
    return (
        [entry_of(name) for name in names if not left.get(name)],
        [owner for each in left.values() for owner in each],
    )


def _heads_with(backend: str | None) -> list[Any]:
    """The heads of clusters that have jobs of this backend; None: of any."""
    from dask_adaptive.head import end
    from dask_adaptive.head.state import entries

    found = entries()
    if backend is None:
        return found
    setups = ((entry, entry.setup()) for entry in found)
    return [
        entry
        for entry, setup in setups
        if setup is not None and backend in (each.backend for each in end.described_in(setup).options.values())
    ]


def _each(names: Sequence[str], work: Callable[[int], Any], done: str, as_json: bool) -> None:
    """Do it to each cluster; one that fails does not keep the others from it."""
    rows: list[dict[str, Any]] = []
    failed: dict[str, bool] = {}  # each sentence, and whether it tells of what cannot be
    for at, name in enumerate(names):
        try:
            notes = list(asyncio.run(work(at)))
        except AdaptiveError as error:
            failed[f"cluster {name}: {error}"] = isinstance(error, ConfigError)
            continue
        rows.append({"name": name, "notes": notes})
        _echo([] if as_json else ["; ".join([f"cluster {name} {done}", *notes])])
    if as_json:
        _print(rows)
    if failed:
        raise (ConfigError if all(failed.values()) else AdaptiveError)("; ".join(failed))


# --- asking and showing ------------------------------------------------------------------------------------------


def _one(name: str | None) -> str:
    """The name, or that of the only cluster."""
    from dask_adaptive.head.state import entries

    if name is not None:
        return name
    known = [entry.name for entry in entries()]
    if not known:
        raise ConfigError("there is no cluster; `dask adaptive up NAME` starts one")
    if len(known) > 1:
        raise ConfigError(f"which cluster? There are {', '.join(known)}")
    return known[0]


def _ask(name: str, call: str, **arguments: Any) -> Any:
    from dask_adaptive.head.attach import reach
    from dask_adaptive.head.control import ask

    where = reach(name)
    try:
        return asyncio.run(ask(where.address, where.security, call, **arguments))
    finally:
        where.let_go()


def _print(value: object, indent: int | None = 2) -> None:
    click.echo(json.dumps(value, indent=indent))


def _note(words: str) -> None:
    click.echo(words, err=True)


def _echo(lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(line)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = [heads, *rows]
    widths = [max(len(line[i]) for line in table) for i in range(len(heads))]
    _echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table)


def _age(since_s: float) -> str:
    seconds = max(0, int(time.time() - since_s))
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def _clock(at_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_s))


COMMANDS: Sequence[click.Command] = (
    up,
    list_,
    status,
    explain,
    events,
    logs,
    dashboard,
    scale,
    adapt,
    down,
    reap,
)
"""Hooked into ``dask adaptive`` by ``cli.py``."""
