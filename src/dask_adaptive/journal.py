"""Keep what every round saw and did; write it as JSON lines; read it back; replay it.

A journal is a text file, one round a line. A line holds only what changed since the line before, except that every
ten minutes, and at the head of a file, one is complete. Rounds in which nothing changed are not written. At 64 MB the
file is renamed to ``<name>.1`` and a new one begun. Writing happens on a thread of its own; a full disk costs the
journal, never the cluster.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from dask_adaptive.errors import ConfigError
from dask_adaptive.model import Life, Load, Member, Past, Plan, PoolState, Record, Snapshot, Startup, Target, View

__all__ = ["Journal", "last", "learned", "lines_of", "read", "read_all", "records_of", "replay"]

logger = logging.getLogger(__name__)

FULL_EVERY_S = 600.0
ROTATE_BYTES = 64 * 2**20
_BEGINS = b'{"number":'
KEEP = 200_000
"""Jobs and groups of tasks in all rounds that are kept in memory, a group counted ten times."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the file: a record, less what the line before already says (None or absent: as before)."""

    number: int
    at_s: float
    woken: str = ""
    full: bool = False
    interval_s: float | None = None
    load: Load | None = None
    members: Mapping[str, tuple[Member, ...] | None] = field(default_factory=dict)
    lives: Mapping[str, Life | None] = field(default_factory=dict)
    pools: Mapping[str, PoolState] | None = None
    past: Past | None = None
    target: Target | None = None
    plan: Plan = field(default_factory=Plan)
    events: tuple[str, ...] = ()
    error: str = ""


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    if old is new:
        return {}
    changed: dict[str, Any] = {key: value for key, value in new.items() if old.get(key) != value}
    changed.update((key, None) for key in old if key not in new)
    return changed


def _folded(old: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in {**old, **changes}.items() if value is not None}


def _line(record: Record, before: Record | None) -> Line:
    """The record as a line after ``before``; complete when there is none."""
    now, load = record.snapshot, replace(record.snapshot.load, members={})
    lean = Line(record.number, record.at_s, record.woken, plan=record.plan, events=record.events, error=record.error)
    if before is None:
        return replace(
            lean,
            full=True,
            interval_s=now.interval_s,
            load=load,
            members=now.load.members,
            lives=now.lives,
            pools=now.pools,
            past=record.past,
            target=record.target,
        )
    was = before.snapshot
    same_load = replace(was.load, members={}, at_s=load.at_s) == load
    return replace(
        lean,
        interval_s=None if was.interval_s == now.interval_s else now.interval_s,
        load=None if same_load else load,
        members=_changes(was.load.members, now.load.members),
        lives=_changes(was.lives, now.lives),
        pools=None if was.pools == now.pools else now.pools,
        past=None if before.past == record.past else record.past,
        target=None if before.target == record.target else record.target,
    )


def _record(line: Line, before: Record | None) -> Record:
    """The record that the line stands for, after ``before``."""
    if line.full:
        before = _NOTHING
    elif before is None:
        raise ConfigError("the journal does not begin with a complete round")
    was = before.snapshot
    load = line.load or was.load
    snapshot = Snapshot(
        at_s=line.at_s,
        interval_s=was.interval_s if line.interval_s is None else line.interval_s,
        load=replace(load, at_s=line.at_s, members=_folded(was.load.members, line.members)),
        lives=_folded(was.lives, line.lives),
        pools=was.pools if line.pools is None else line.pools,
    )
    past = before.past if line.past is None else line.past
    target = before.target if line.target is None else line.target
    return Record(line.number, line.at_s, line.woken, snapshot, past, target, line.plan, line.events, line.error)


_NOTHING = Record(0, 0.0, "", Snapshot(0.0, 0.0, Load(0.0), {}, {}), {}, Target({}), Plan())
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Line).decode


def _quiet(line: Line) -> bool:
    """Nothing happened and nothing changed."""
    told = line.full or line.events or line.error or line.plan != Plan()
    changed = line.load or line.members or line.lives or line.pools or line.past is not None or line.target
    return not (told or changed)


def _weight(record: Record) -> int:
    """How much of the memory a round takes: a group has far more in it than a job that did not change."""
    return 10 + len(record.snapshot.lives) + 10 * len(record.snapshot.load.groups)


class Journal:
    """The rounds of one controller: the latest in memory, all of them in a file if a path is given.

    Parameters
    ----------
    path:
        File to append to; None keeps the rounds in memory only. Missing folders are made.

    Raises
    ------
    ConfigError
        If the path cannot be written.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.records: deque[Record] = deque()
        self._kept = 0
        self._before: Record | None = None
        self._full_s = float("-inf")
        self._writer = _Writer(Path(path)) if path else None

    def append(self, record: Record) -> None:
        """Keep a round; a round in which nothing changed is dropped."""
        line = _line(record, self._before)
        if _quiet(line):
            return
        rotates = self._writer is not None and self._writer.taken > ROTATE_BYTES
        if rotates or record.at_s - self._full_s >= FULL_EVERY_S or (self._writer and self._writer.lost.is_set()):
            self._full_s = record.at_s
            line = _line(record, None)
        self._before = record
        self._keep(record)
        if self._writer:
            self._writer.put(_encode(line) + b"\n", complete=line.full, rotates=rotates)

    def _keep(self, record: Record) -> None:
        self.records.append(record)
        self._kept += _weight(record)
        while self._kept > KEEP and len(self.records) > 1:
            self._kept -= _weight(self.records.popleft())

    def close(self) -> None:
        """Write what is still to be written."""
        if self._writer:
            self._writer.close()


@dataclass(frozen=True, slots=True)
class _Text:
    """A line to write; ``rotates``: into a new file."""

    text: bytes
    complete: bool
    rotates: bool


class _Writer:
    """Appends lines to a file on a thread of its own.

    ``taken``: bytes in the file once all lines are written. ``lost``: a line could not be written, so that nothing
    but a complete line makes sense after it; until one comes, the others are dropped.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lost = threading.Event()
        self.lost.set()  # whatever an earlier run left behind
        self._lines: queue.SimpleQueue[_Text | None] = queue.SimpleQueue()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _check_ours(path)
            _mend(path)
            self.taken = path.stat().st_size
        except OSError as error:
            raise ConfigError(f"journal {str(path)!r} cannot be written: {error.strerror}") from error
        self._thread = threading.Thread(target=self._run, name="dask-adaptive-journal", daemon=True)
        self._thread.start()

    def put(self, text: bytes, *, complete: bool, rotates: bool) -> None:
        self.taken = len(text) + (0 if rotates else self.taken)
        if complete:
            self.lost.clear()
        self._lines.put(_Text(text, complete, rotates))

    def close(self) -> None:
        self._lines.put(None)
        self._thread.join(timeout=5)

    def _run(self) -> None:
        torn = False
        while (line := self._lines.get()) is not None:
            if torn and not line.complete:
                continue
            error = self._write(line, torn)
            if error and not torn:
                logger.warning("journal %s cannot be written (%s); the cluster goes on", self.path, error)
            torn = bool(error)

    def _write(self, line: _Text, torn: bool) -> OSError | None:
        try:
            if torn:
                _mend(self.path)
            if line.rotates:
                self.path.replace(_older(self.path))
            with self.path.open("ab") as file:
                file.write(line.text)
        except OSError as error:
            self.lost.set()
            return error
        return None


def _older(path: Path) -> Path:
    """What a journal is renamed to when it is full."""
    return path.with_name(path.name + ".1")


def _check_ours(path: Path) -> None:
    """Nothing is added to, or cut off from, a file of somebody else's; to open a named pipe would wait for ever."""
    if not path.exists():
        return
    if not path.is_file():
        raise ConfigError(f"journal {str(path)!r} cannot be written: it is no regular file; name another one")
    with path.open("rb") as file:
        begins = file.read(len(_BEGINS))
    if not _BEGINS.startswith(begins):
        raise ConfigError(f"{str(path)!r} is not empty, and no journal; name another file")


def _mend(path: Path) -> None:
    """Take off the part of a line that a killed writer, or a full disk, left at the end; make the file if need be."""
    with path.open("a+b") as file:
        at = file.seek(0, os.SEEK_END)
        while at:
            step = min(at, 2**20)
            at = file.seek(at - step)
            newline = file.read(step).rfind(b"\n")
            if newline >= 0:
                at += newline + 1
                break
        file.truncate(at)


def read(path: str | Path) -> Iterator[Record]:
    """Every round of a journal file, in order; ``read_all`` also tells what was rotated.

    Raises
    ------
    ConfigError
        If the file is missing or a line is not a journal's; a cut last line (its writer was killed) is left out.
    """
    try:
        with Path(path).open("rb") as file:
            yield from _rounds(file, str(path))
    except OSError as error:
        raise ConfigError(f"journal {str(path)!r} cannot be read: {error.strerror}") from error


def read_all(path: str | Path) -> Iterator[Record]:
    """Every round that a journal kept, in order: of the file that it was rotated to, if there is one, then its own.

    It may still be written, and rotated while it is read. Where there is neither file there is no round; errors are as
    of ``read``.
    """
    try:
        with ExitStack() as until_read:
            for file in _parts(Path(path), until_read):
                yield from _rounds(file, file.name)
    except OSError as error:
        raise ConfigError(f"journal {str(path)!r} cannot be read: {error.strerror}") from error


def _parts(path: Path, until_read: ExitStack) -> list[BinaryIO]:
    """The older file of a journal and the newer one, open, as far as they are there."""
    while True:
        newer, older = _opened(path, until_read), _opened(_older(path), until_read)
        files = [file for file in (older, newer) if file is not None]
        if len(files) < 2 or not os.path.sameopenfile(files[0].fileno(), files[1].fileno()):
            return files
        # it was rotated between the two, so that both are what is the older one now


def _opened(path: Path, until_read: ExitStack) -> BinaryIO | None:
    with suppress(FileNotFoundError):  # it was renamed just now
        return until_read.enter_context(path.open("rb")) if path.is_file() else None
    return None


def _rounds(file: BinaryIO, name: str) -> Iterator[Record]:
    before: Record | None = None
    for number, text in enumerate(file, 1):
        if not text.endswith(b"\n"):
            if number == 1 and not _BEGINS.startswith(text[: len(_BEGINS)]):
                raise ConfigError(f"{name!r} is not a journal")
            return
        before = _parsed(text, before, f"line {number} of {name!r}")
        yield before


def _parsed(text: bytes, before: Record | None, where: str) -> Record:
    try:
        return _record(_decode(text), before)
    except (msgspec.MsgspecError, ConfigError) as error:
        raise ConfigError(f"{where} is not a journal's: {error}") from error


def lines_of(records: Sequence[Record]) -> list[str]:
    """These rounds as the lines of a journal, the first one complete."""
    return [_encode(_line(record, before)).decode() for record, before in zip(records, [None, *records], strict=False)]


def records_of(lines: Sequence[str]) -> list[Record]:
    """The rounds that the lines of a journal stand for. Raises ``ConfigError`` where they are not a journal's."""
    records: list[Record] = []
    for number, line in enumerate(lines, 1):
        records.append(_parsed(line.encode(), records[-1] if records else None, f"line {number}"))
    return records


def last(path: str | Path) -> Record | None:
    """The last round that a journal kept; None where there is no regular file or nothing in it."""
    for each in (Path(path), _older(Path(path))):  # a full disk may keep a journal from going on after it was rotated
        tail: deque[Record] = deque(read(each) if each.is_file() else (), maxlen=1)
        if tail:
            return tail[0]
    return None


def learned(journal: str | None) -> dict[str, Startup]:
    """Start-up latencies by pool from the end of an earlier journal."""
    record = None
    if journal:
        with suppress(ConfigError):  # a journal that cannot be read teaches nothing; writing to it says why
            record = last(journal)
    return {name: state.startup for name, state in record.snapshot.pools.items()} if record else {}


def replay(
    records: Sequence[Record],
    decide: Callable[[View, Past], tuple[Target, Past]],
    view_of: Callable[[Snapshot], View],
) -> list[int]:
    """Numbers of the rounds in which ``decide``, shown the same, decides otherwise: empty for the same policy."""
    return [
        record.number
        for record in records
        if not record.error and decide(view_of(record.snapshot), record.past)[0] != record.target
    ]
