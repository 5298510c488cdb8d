"""``dask adaptive script`` and ``doctor``: what one job would be, and whether it would run."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dask_adaptive.errors import ConfigError
from dask_adaptive.show.head_commands import Finite, settings_of

if TYPE_CHECKING:
    from dask_adaptive.description import Description

__all__ = ["COMMANDS"]

Command = Callable[..., None]

_FILE = click.Path(dir_okay=False, exists=True, path_type=Path)
_OPTIONS = (
    click.argument("backend", required=False),
    click.option("--config", type=_FILE, help="A cluster in a YAML file; the other options win over it."),
    click.option("--pool", metavar="NAME", help="The pool of the file.  [default: the first]"),
    click.option("--cores", type=click.IntRange(1), help="Threads of one job."),
    click.option("--processes", type=click.IntRange(1), help="Workers of one job."),
    click.option("--memory", metavar="SIZE", help='Memory per worker, such as "4 GB".'),
    click.option("--queue", metavar="NAME", help="Queue or partition."),
    click.option("--account", metavar="NAME", help="Whom the time is booked on."),
    click.option("--walltime", metavar="TIME", help='How long a job may run, such as "4h".'),
    click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any other key of a YAML file."),
)


def _described(command: Command) -> Command:
    """Give a command the options that describe a pool."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def _read(backend: str | None, config: Path | None, pool: str | None, **flags: Any) -> tuple[Description, str]:
    """The cluster that was described, and the pool of it that is meant."""
    from dask_adaptive.config import check_keys
    from dask_adaptive.description import flagged, read

    said = {**settings_of(flags.pop("settings")), **{key: value for key, value in flags.items() if value is not None}}
    if backend is not None:
        said["backend"] = backend
    elif config is None:
        raise ConfigError("for which backend? Give its name, such as slurm, or --config FILE")
    description = flagged(**said) if config is None else read(config, **said)
    name = next(iter(description.pools)) if pool is None else pool
    check_keys("pool", [name], description.pools)
    return description, name


@click.command(
    epilog="""\b
Examples:
  dask adaptive script slurm --cores 8 --memory 32GB --walltime 4h --queue normal
  dask adaptive script pbs --cores 4 --processes 2 --set "prologue=[module load python]"
  dask adaptive script --config site.yaml --pool gpu
"""
)
@_described
def script(**flags: Any) -> None:
    """Print the job script that would be submitted to BACKEND (slurm, pbs, ...), and submit nothing."""
    from dask_adaptive.batch_clusters import shown_script

    description, pool = _read(**flags)
    click.echo(shown_script(description.options[pool], pool), nl=False)


@click.command(
    epilog="""\b
Examples:
  dask adaptive doctor slurm --queue normal --walltime 10min
  dask adaptive doctor --config site.yaml --pool gpu --no-job
"""
)
@_described
@click.option("--job/--no-job", default=True, show_default=True, help="Whether one real job is started as well.")
@click.option(
    "--timeout",
    "timeout_s",
    type=Finite(1),
    default=300.0,
    show_default=True,
    metavar="SECONDS",
    help="How long the real job may take to come.",
)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_context
def doctor(context: click.Context, /, job: bool, timeout_s: float, as_json: bool, **flags: Any) -> None:
    """Look whether clusters on BACKEND would work here: commands, folders, one real job. Exit code 1: no."""
    from dask_adaptive.preflight import examine

    description, pool = _read(**flags)

    async def look() -> list[dict[str, Any]]:
        found = []
        async for finding in examine(description, pool, job=job, timeout_s=timeout_s):
            found.append(asdict(finding))
            if not as_json:
                click.echo(f"{'ok  ' if finding.good else 'FAIL'}  {finding.what}")
                if finding.advice:
                    click.echo(f"      what to do: {finding.advice}")
        return found

    findings = asyncio.run(look())
    if as_json:
        click.echo(json.dumps(findings, indent=2))
    elif not findings:
        click.echo(f"nothing to look at for backend {description.options[pool].backend} without a job")
    if not all(finding["good"] for finding in findings):
        context.exit(1)


COMMANDS: tuple[click.Command, ...] = (script, doctor)
"""For the group ``dask adaptive``."""
