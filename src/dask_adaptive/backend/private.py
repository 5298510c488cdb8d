"""Files that jobs read and nobody else: variables, configuration, credentials. Placed once, removed at the end."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
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
        self._folder = ""
        self._placed: dict[str, str] = {}

    async def place(self, cluster: str, text: str, kind: str) -> str:
        """The path of a file with this text; the same text is placed once."""
        name = f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.{kind}"
        if name not in self._placed:
            if not self._folder:
                above = await self._runner.folder(self._directory)
                self._folder = await self._runner.folder(f"{above}/.{cluster}-{secrets.token_hex(4)}")
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
        folder, self._folder, self._placed = self._folder, "", {}
        if folder:
            await self._runner.remove(folder)
