"""The output of jobs of a batch system: a file for each in one folder, of which the newest stay."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from dask_adaptive.backend.dialect import Call, Dialect
from dask_adaptive.backend.runner import Runner
from dask_adaptive.model import JobId

__all__ = ["Logs"]

LOG_BYTES = 100_000
REMOVE = 'cd -- "$1" && xargs rm -f --'
PLAIN = re.compile(r"\w[\w.-]*")


class Logs:
    """The files with the output of jobs.

    Parameters
    ----------
    runner:
        What reaches them.
    directory:
        Where they are; made when it is needed.
    keep:
        How many of jobs that are over stay, the newest. None: all of them.
    """

    def __init__(self, runner: Runner, directory: str, keep: int | None) -> None:
        self._runner, self._directory, self._keep = runner, directory, keep
        self._folder = ""
        self._names: dict[JobId, str] = {}

    async def pattern(self, tag: str, *, anew: bool = False) -> str:
        """The path for a batch, with ``%`` for the number of a job; ``anew``: somebody may have removed the folder."""
        if anew or not self._folder:
            self._folder = await self._runner.folder(self._directory)
        return f"{self._folder}/{tag}.%.log"

    async def read(self, dialect: Dialect, id: JobId, name: str) -> str:
        """The end of what a job printed."""
        for path in await self._paths(dialect, id, name):
            text = await self._runner.tail(path, LOG_BYTES)
            if text:
                return text
        return ""

    async def _paths(self, dialect: Dialect, id: JobId, name: str) -> Sequence[str]:
        """Where the output of a job may be: where the system puts it, else where a script of the user's own does."""
        tag, _, number = name.partition(".")
        pattern = await self.pattern(tag)
        own = pattern.replace("%", str(int(number) + dialect.first))
        return list(dict.fromkeys((dialect.log(id, pattern), own)))

    def submitted(self, ids: Sequence[JobId], names: Sequence[str]) -> None:
        """These jobs were submitted here: their files are ours to remove."""
        self._names.update(zip(ids, names, strict=False))

    async def surplus(self, dialect: Dialect, over: Callable[[JobId], bool], *, slack: int = 0) -> Call | None:
        """The command that removes the oldest files of ours, once there are ``slack`` more than are to stay.

        Only those of jobs that were submitted here and are ``over``, and only in the folder itself.
        """
        if self._keep is None or len(self._names) <= self._keep + slack:
            return None
        ended = [each for each in self._names if over(each)]
        if len(ended) <= self._keep + slack:
            return None
        found = [(each, self._names.pop(each)) for each in ended[: len(ended) - self._keep]]
        paths = [path.rpartition("/") for each, name in found for path in await self._paths(dialect, each, name)]
        files = [file for folder, _, file in paths if folder == self._folder and PLAIN.fullmatch(file)]
        return Call(("sh", "-c", REMOVE, "sh", self._folder), stdin="".join(f"{file}\n" for file in files))
