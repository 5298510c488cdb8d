"""The commands for configuration files: ``check`` and ``init``. Everything slow is imported by the command itself."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

__all__ = ["COMMANDS"]

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command(
    epilog="\b\nExamples:\n  dask adaptive check site.yaml\n  dask adaptive check site.yaml --json",
)
@click.argument("file", type=_FILE)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def check(file: Path, as_json: bool) -> None:
    """Say in plain words what the configuration FILE means, or on which line it is wrong. Nothing is started."""
    from dask_adaptive.description import read
    from dask_adaptive.show.check import meaning_of, sentences

    meaning = meaning_of(read(file))
    if as_json:
        click.echo(json.dumps(asdict(meaning), indent=2))
        return
    for line in sentences(meaning):
        click.echo(line)


@click.command(
    epilog=(
        "\b\nExamples:\n  dask adaptive init slurm\n  dask adaptive init local --output cluster.yaml --force\n"
        "  dask adaptive init slurm --output -"
    ),
)
@click.argument("backend")
@click.option("-o", "--output", type=_FILE, help="The file to write; - for the terminal.  [default: BACKEND.yaml]")
@click.option("--force", is_flag=True, help="Overwrite a file that is there.")
def init(backend: str, output: Path | None, force: bool) -> None:
    """Write a configuration file for BACKEND to copy and edit: every key with its meaning and its default."""
    from dask_adaptive.show.init import example_of, write_example

    if output == Path("-"):
        click.echo(example_of(backend), nl=False)
        return
    path = Path(f"{backend}.yaml") if output is None else output
    write_example(backend, path, force=force)
    click.echo(f"written: {path}\nnext: edit it, then dask adaptive check {path}")


COMMANDS: tuple[click.Command, ...] = (check, init)
"""For the group ``dask adaptive``."""
