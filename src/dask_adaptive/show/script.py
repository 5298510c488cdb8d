"""``dask adaptive script``: the job script that would be submitted, without submitting it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dask_adaptive.errors import ConfigError

__all__ = ["script"]

_EPILOG = """\b
Examples:
  dask adaptive script slurm --cores 8 --memory 32GB --walltime 4h --queue normal
  dask adaptive script pbs --cores 4 --processes 2 --set "prologue=[module load python]"
  dask adaptive script --config site.yaml --pool gpu
"""


@click.command(epilog=_EPILOG)
@click.argument("backend", required=False)
@click.option(
    "--config", type=click.Path(dir_okay=False, exists=True, path_type=Path), help="A cluster in a YAML file."
)
@click.option("--pool", metavar="NAME", help="The pool of the file.  [default: the first]")
@click.option("--cores", type=click.IntRange(1), help="Threads of one job.")
@click.option("--processes", type=click.IntRange(1), help="Workers of one job.")
@click.option("--memory", metavar="SIZE", help='Memory per worker, such as "4 GB".')
@click.option("--queue", metavar="NAME", help="Queue or partition.")
@click.option("--account", metavar="NAME", help="Whom the time is booked on.")
@click.option("--walltime", metavar="TIME", help='How long a job may run, such as "4h".')
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any other key of a YAML file.")
def script(backend: str | None, config: Path | None, pool: str | None, settings: tuple[str, ...], **flags: Any) -> None:
    """Print the job script that would be submitted to BACKEND (slurm, pbs, ...), and submit nothing."""
    from dask_adaptive.batch_clusters import shown_script
    from dask_adaptive.config import check_keys
    from dask_adaptive.description import flagged, read
    from dask_adaptive.show.head_commands import settings_of

    said = {**flags, **settings_of(settings)}
    if backend is not None:
        said["backend"] = backend
    elif config is None:
        raise ConfigError("which batch system? Give its name, such as slurm, or --config FILE")
    options = (flagged(**said) if config is None else read(config, **said)).options
    name = next(iter(options)) if pool is None else pool
    check_keys("pool", [name], options)
    click.echo(shown_script(options[name], name), nl=False)
