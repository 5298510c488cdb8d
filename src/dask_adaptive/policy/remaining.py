"""What is left to do, group by group: when each could run if there were room for everything, and how wide.

A group's waiting tasks follow when the slowest of all that they wait for has ended. Tasks that wait for others of
their own group follow in rows as wide as the group is now.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from dask_adaptive.model import Group, Load
from dask_adaptive.policy.durations import Durations, Expected, classes, slowest
from dask_adaptive.policy.profile import Stretch, order

__all__ = ["Piece", "graphs_alike", "remaining", "starved_s"]


@dataclass(frozen=True, slots=True)
class Piece:
    """What is left of one group: its ``stretches``, in tasks, and what one of its tasks is expected to take.

    ``end_s``: when its last task is done, if there is room for everything.
    """

    group: Group
    expected: Expected
    stretches: tuple[Stretch, ...]
    end_s: float

    @property
    def doubted(self) -> bool:
        """Whether the guess grows while the first of its kind runs on."""
        return not self.expected.known and self.group.running > 0

    @property
    def work_s(self) -> float:
        """Seconds of work."""
        return sum((each.end_s - each.start_s) * each.width for each in self.stretches)


def remaining(load: Load, durations: Durations, feed_s: float = 0.0) -> list[Piece]:
    """A piece for every group with tasks to do; the scheduler takes ``feed_s`` seconds for each task."""
    rows: dict[str, list[Group]] = {}
    for group in load.groups:
        if group.ready or group.waiting or group.long_running:
            rows.setdefault(group.name, []).append(group)
    after = {name: [each for row in found for each in row.after if each in rows] for name, found in rows.items()}
    ends: dict[str, float] = {}
    pieces = []
    for name in order(after):
        before = [ends[each] for each in after[name] if each in ends]
        for row in rows[name]:
            pieces.append(_piece(row, durations.of(row), before, feed_s))
            ends[name] = max(ends.get(name, 0.0), pieces[-1].end_s)
    return pieces


def starved_s(pieces: Sequence[Piece]) -> float:
    """Seconds until a thread is free for tasks of a kind none of which runs; 0 while others of what runs are to follow.

    The end of the work may be the same with and without them, but somebody may wait for them.
    """
    running = [piece for piece in pieces if piece.group.running]
    waiting = any(each.group.ready and not each.group.running and not each.group.pinned for each in pieces)
    if not waiting or not running or any(each.group.ready > each.group.running for each in running):
        return 0.0
    return min(each.expected.left_s / each.group.running for each in running)


def graphs_alike(pieces: Sequence[Piece]) -> int:
    """How many graphs of the same kind are waited for: sets of linked groups with the same prefixes; at least 1.

    Groups that nothing links may belong to one graph or to several; only those that look alike surely are several.
    """
    leader = {piece.group.name: piece.group.name for piece in pieces}

    def find(name: str) -> str:
        while leader[name] != name:
            leader[name] = name = leader[leader[name]]
        return name

    for piece in pieces:
        for before in piece.group.after:
            if before in leader:
                leader[find(before)] = find(piece.group.name)
    prefixes: dict[str, set[str]] = {}
    for piece in pieces:
        prefixes.setdefault(find(piece.group.name), set()).add(piece.group.prefix)
    return max(Counter(frozenset(each) for each in prefixes.values()).values(), default=1)


def _piece(group: Group, expected: Expected, before: Sequence[float], feed_s: float) -> Piece:
    stretches: list[Stretch] = []
    end_s = 0.0
    new = group.ready - group.running
    if group.running:
        stretches.append(Stretch(0.0, expected.left_s, group.running))
        end_s = max(expected.left_s, slowest(expected, group.running) - group.oldest_s)
    if new > 0:
        stretches += _row(0.0, expected, new, feed_s)
        end_s = max(end_s, slowest(expected, new), new * feed_s)
    if group.long_running:
        end_s = max(end_s, expected.mean_s)
    if group.waiting and before:
        start_s = max(before)
        stretches += _row(start_s, expected, group.waiting, feed_s)
        end_s = max(end_s, start_s + slowest(expected, group.waiting), start_s + group.waiting * feed_s)
    elif group.waiting:
        row = max(1, group.ready)
        length_s = expected.mean_s * max(1.0, group.waiting / row)
        stretches.append(Stretch(end_s, end_s + length_s, group.waiting * expected.mean_s / length_s))
        end_s += length_s
    return Piece(group, expected, tuple(stretches), end_s)


def _row(start_s: float, expected: Expected, tasks: int, feed_s: float) -> list[Stretch]:
    """Tasks side by side: fast, middle and slow ones; narrower and longer where they cannot be fed faster."""
    fed_s = tasks * feed_s
    if fed_s > expected.mean_s:
        return [Stretch(start_s, start_s + fed_s, expected.mean_s / feed_s)]
    return [Stretch(start_s, start_s + each_s, number) for number, each_s in classes(expected, tasks)]
