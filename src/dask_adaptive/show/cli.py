"""``dask adaptive ...``: the commands. Everything slow is imported by the command that needs it."""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import click

from dask_adaptive.errors import AdaptiveError, ConfigError, nearest
from dask_adaptive.show.file_commands import COMMANDS as FILE_COMMANDS
from dask_adaptive.show.head_commands import COMMANDS as HEAD_COMMANDS
from dask_adaptive.show.head_commands import Finite
from dask_adaptive.show.job_commands import COMMANDS as JOB_COMMANDS
from dask_adaptive.show.record import record

__all__ = ["adaptive"]

_FILE = click.Path(dir_okay=False, path_type=Path)


class _Misuse(click.ClickException):
    exit_code = 2


class _Sentences(click.Group):
    """A group whose commands end with one sentence: exit code 2 for misuse, 1 for failure."""

    def invoke(self, ctx: click.Context) -> Any:
        _own_signals()
        try:
            return super().invoke(ctx)
        except AdaptiveError as error:
            raise (_Misuse if isinstance(error, ConfigError) else click.ClickException)(str(error)) from error
        except BrokenPipeError:
            raise
        except OSError as error:  # a full disk, most of all
            raise click.ClickException(str(error)) from error

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            raise click.UsageError(f"there is no command {args[0]!r}; {nearest(args[0], self.commands)}", ctx)
        return super().resolve_command(ctx, args)


def _own_signals() -> None:
    """Let ctrl-C interrupt: other plug-ins of ``dask``, imported before us, may have put handlers of servers there."""
    with suppress(ValueError):  # not in the main thread
        for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
            if callable(signal.getsignal(number)):
                signal.signal(number, usual)


def _examples(*commands: str) -> str:
    return "\b\nExamples:\n" + "\n".join(f"  {command}" for command in commands)


@click.group(cls=_Sentences, context_settings={"help_option_names": ["-h", "--help"]})
def adaptive() -> None:
    """Clusters exactly as large as their work."""


for _command in (*FILE_COMMANDS, *JOB_COMMANDS, *HEAD_COMMANDS, record):
    adaptive.add_command(_command)


# --- run -------------------------------------------------------------------------------------------------------


@adaptive.command(
    context_settings={"allow_interspersed_args": False},
    epilog=_examples(
        "dask adaptive run analysis.py --year 2026",
        'dask adaptive run --maximum 8 --memory "2 GiB" --report run.html analysis.py',
        "dask adaptive run -m my_package.analysis",
    ),
)
@click.option("--minimum", type=click.IntRange(0), default=0, show_default=True, help="Never fewer workers.")
@click.option("--maximum", type=click.IntRange(1), help="Never more workers.  [default: the cores of this machine]")
@click.option("--policy", metavar="NAME", help="When and how many; see `dask adaptive policies`.")
@click.option("--target-duration", metavar="TIME", help='Work is to be done within, such as "5s".')
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Threads per worker.")
@click.option("--memory", metavar="SIZE", help='Memory per worker, such as "2 GiB".')
@click.option("--backend", metavar="NAME", default="local", show_default=True, help="See `dask adaptive backends`.")
@click.option("--journal", type=_FILE, help="Keep every round in this file.")
@click.option("--report", type=_FILE, help="Leave a picture of the run: FILE.html, .png or .svg.")
@click.option("--quiet", is_flag=True, help="Say nothing but what the script says.")
@click.option("-m", "--module", is_flag=True, help="SCRIPT names a module, as in `python -m`.")
@click.argument("script")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def run(
    script: str,
    arguments: tuple[str, ...],
    module: bool,
    journal: Path | None,
    report: Path | None,
    quiet: bool,
    **options: Any,
) -> None:
    """Run SCRIPT inside a cluster that grows and shrinks with its work.

    The script needs no change: a bare Client() in it finds the cluster. Its output and exit code are passed on.
    """
    from dask_adaptive.show import run as running

    if not module and Path(script).is_dir():
        raise ConfigError(f"{script} is a folder; name the script in it, or with -m a module")
    if not module and not Path(script).is_file():
        raise ConfigError(f"there is no script {script!r}; {_near_files(script)}")
    command = [*(["-m"] if module else []), script, *arguments]
    setup = running.Setup(**options)
    sys.exit(running.run(command, setup, journal_path=journal, report_path=report, quiet=quiet))


def _near_files(script: str) -> str:
    folder = Path(script).parent
    return f"in {folder}: " + nearest(Path(script).name, (path.name for path in folder.glob("*.py")))


# --- demo ------------------------------------------------------------------------------------------------------


@adaptive.command(epilog=_examples("dask adaptive demo", "dask adaptive demo --output build/demo --files 300"))
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("dask-adaptive-demo"),
    show_default=True,
    help="Folder for the pictures, the tables and the journal.",
)
@click.option("--files", type=click.IntRange(1), default=1200, show_default=True, help="Read at most so many files.")
@click.option("--maximum", type=click.IntRange(1), help="Never more workers.  [default: the cores of this machine]")
def demo(output: Path, files: int, maximum: int | None) -> None:
    """Measure the Python source files of this machine, in bursts, and show how the cluster follows."""
    from dask_adaptive.show import demo as showing

    showing.demo(output, files=files, maximum=maximum)


# --- simulate --------------------------------------------------------------------------------------------------


@adaptive.command(
    epilog=_examples(
        "dask adaptive simulate workflow.json.gz --backend cloud --policy cost-aware --policy dask",
        "dask adaptive simulate map-reduce session --backend local --backend 120+5 --maximum 50",
        "dask adaptive simulate workflow.json --seeds 1 --json runs.json --picture runs.html",
    )
)
@click.option(
    "--backend",
    "backends",
    multiple=True,
    default=("local",),
    show_default=True,
    metavar="NAME",
    help="Resource manager to make up: a name, or seconds to start, as 30 or 120+5 (queued + billed).",
)
@click.option(
    "--policy",
    "policies",
    multiple=True,
    default=("cost-aware", "dask"),
    show_default=True,
    metavar="NAME",
    help="When and how many; rivals too.",
)
@click.option(
    "--time-value",
    type=Finite(0, min_open=True),
    default=10.0,
    show_default=True,
    help="Worker-seconds that one second of waiting is worth.",
)
@click.option("--maximum", type=click.IntRange(1), default=100, show_default=True, help="Never more workers.")
@click.option("--seeds", type=click.IntRange(1), default=5, show_default=True, help="Repeat with so many seeds.")
@click.option(
    "--linger",
    "linger_s",
    type=Finite(0),
    default=0.0,
    show_default=True,
    metavar="SECONDS",
    help="How long the cluster stays open after the last result.",
)
@click.option("--json", "json_path", type=_FILE, help="Write every run to this file; - for the terminal.")
@click.option("--picture", "picture_path", type=_FILE, help="Draw jobs and work over time: FILE.html, .png or .svg.")
@click.argument("works", metavar="FILE...", nargs=-1, required=True)
def simulate(works: tuple[str, ...], json_path: Path | None, picture_path: Path | None, **options: Any) -> None:
    """Say what FILEs of work would take and cost under policies, ours and others, in a made-up world.

    A FILE is a workflow in WfFormat, plain or gzipped, or the name of a built-in shape such as map-reduce. The score is
    the cost in parts of what no policy could go below: 1 is perfect.
    """
    from dask_adaptive.show import simulate as simulating

    simulating.simulate(simulating.Question(works, **options), json_path=json_path, picture_path=picture_path)


# --- what there is ---------------------------------------------------------------------------------------------


@adaptive.command(epilog=_examples("dask adaptive backends", "dask adaptive backends --json"))
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def backends(as_json: bool) -> None:
    """List the backends: how jobs are started."""
    from dask_adaptive import registry

    _list(registry.backends(), as_json)


@adaptive.command(epilog=_examples("dask adaptive policies", "dask adaptive policies --json"))
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def policies(as_json: bool) -> None:
    """List the policies: when and how many."""
    from dask_adaptive import registry

    _list(registry.policies(), as_json)


def _list(points: Mapping[str, EntryPoint], as_json: bool) -> None:
    rows = [{"name": name, "class": point.value, **_about(point)} for name, point in sorted(points.items())]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    width = max((len(row["name"]) for row in rows), default=0)
    for row in rows:
        click.echo(f"{row['name']:<{width}}  {row['about'] or row['error']}")


def _about(point: EntryPoint) -> dict[str, str]:
    """The first sentence of what it says of itself, or why it cannot be used here."""
    try:
        words = point.load().__doc__ or ""
    except ImportError as error:
        return {"about": "", "error": f"cannot be used here: {error}"}
    paragraph = " ".join(words.strip().partition("\n\n")[0].split())
    return {"about": re.split(r"(?<=\.)\s", paragraph)[0], "error": ""}


# --- report ----------------------------------------------------------------------------------------------------


@adaptive.command(
    epilog=_examples(
        "dask adaptive report run.jsonl",
        "dask adaptive report run.jsonl -o run.html",
        "dask adaptive report monday.jsonl tuesday.jsonl --output compare.html",
        "dask adaptive report run.jsonl --json",
    )
)
@click.argument("journals", metavar="JOURNAL...", nargs=-1, required=True, type=_FILE)
@click.option("-o", "--output", type=_FILE, help="Draw into FILE.html, .png or .svg.")
@click.option("--json", "as_json", is_flag=True, help="The sums and the decisions, for programs.")
def report(journals: tuple[Path, ...], output: Path | None, as_json: bool) -> None:
    """Say what happened in the run that JOURNAL kept, and draw it; several JOURNALs are shown side by side.

    A journal may still be written. What was rotated to JOURNAL.1 belongs to it.
    """
    from dask_adaptive.show import report as reporting

    if output is not None:
        reporting.check_report(output)
    if len(journals) == 1:
        lines = reporting.report_one(journals[0], output, as_json=as_json)
    else:
        lines = reporting.report_several(journals, output, as_json=as_json)
    _echo(lines)


def _echo(lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(line)
