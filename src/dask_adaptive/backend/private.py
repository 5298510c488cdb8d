"""Files that jobs read and nobody else: variables, configuration, credentials. Placed once, removed at the end."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import replace

from dask_adaptive.backend.dialect import Call
from dask_adaptive.backend.runner import Runner

__all__ = ["PrivateFiles"]


class PrivateFiles:
    """A folder of ours (0700) below ``directory``, made when the first file is placed.

    Parameters
    ----------
    runner:
        What places them where jobs see them.
    directory:
        On a file system that the jobs see.
    """

    def __init__(self, runner: Runner, directory: str) -> None:
        self._runner, self._directory = runner, directory
        self._token = secrets.token_hex(4)
        self._folder = ""
        self._placed: dict[str, str] = {}
        self._earlier: list[str] = []

    async def folders(self, cluster: str) -> list[str]:
        """What ``remove`` will remove: the folder of ours, made yet or not, and what was taken over."""
        above = await self._runner.folder(self._directory)
        return [self._folder or f"{above}/.{cluster}-{self._token}", *self._earlier]

    def take_over(self, folders: Iterable[str]) -> None:
        """Remove these at the end as well: an earlier owner of the same jobs left them."""
        self._earlier += [each for each in folders if each not in self._earlier]

    async def place(self, cluster: str, text: str, kind: str) -> str:
        """The path of a file with this text; the same text is placed once."""
        name = f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.{kind}"
        if name not in self._placed:
            if not self._folder:
                self._folder = await self._runner.folder((await self.folders(cluster))[0])
            self._placed[name] = await self._runner.place(f"{self._folder}/{name}", text)
        return self._placed[name]

    async def place_all(self, cluster: str, files: Mapping[str, str], kind: str) -> dict[str, str]:
        """The paths of files with these texts, by the same keys."""
        return {name: await self.place(cluster, text, kind) for name, text in files.items()}

    async def with_files(self, cluster: str, call: Call) -> Call:
        """The command with its files placed: each ``{name}`` is the path of the file with that name."""
        argv, stdin = list(call.argv), call.stdin
        for name, path in (await self.place_all(cluster, call.files, "txt")).items():
            argv = [word.replace(f"{{{name}}}", path) for word in argv]
            stdin = stdin.replace(f"{{{name}}}", path)
        return replace(call, argv=tuple(argv), stdin=stdin, files={})

    async def remove(self) -> None:
        """Remove them all."""
        folders = filter(None, (self._folder, *self._earlier))
        self._folder, self._placed, self._earlier = "", {}, []
        for folder in folders:
            await self._runner.remove(folder)
