"""A scheduler that runs task graphs the way Dask's does, on workers that only exist as numbers.

What is alike: priorities (later graphs after earlier ones, what was begun before what is new); root-like tasks wait in
the scheduler once workers have ``worker-saturation`` times their threads, others go to a worker at once, to the one
that holds most of their inputs; a free worker takes from others; results stay where they were made until nobody needs
them; a lost worker's tasks and results are made again. What is simpler: a free worker takes from others at once and
not ten times a second; inputs are fetched while the thread waits, and a fetched copy is not kept; memory is counted
and never runs out; one failure of a worker never fails a task. Sources: ``distributed/scheduler.py`` (``is_rootish``,
``decide_worker_rootish_queuing_enabled``, ``decide_worker``), ``distributed/stealing.py``.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from dask_adaptive.engine.plugin import Durations
from dask_adaptive.model import Need
from dask_adaptive.sim.nouns import Costs, Crowd, Prefix, Worker
from dask_adaptive.sim.timeline import Timeline
from dask_adaptive.sim.workload import Graph

__all__ = ["Scheduler"]

WAITING, READY, ASSIGNED, RUNNING, MEMORY, RELEASED = range(6)


@dataclass(slots=True)
class _Running:
    """A submitted graph: its first task's number, tasks that are not done yet, and whom to tell."""

    base: int
    size: int
    left: int
    done: Callable[[], None]
    sinks: list[int] = field(default_factory=list)


class Scheduler:
    """Runs graphs on workers that come and go.

    ``told`` is called with a word on what Dask would push: a new graph, a worker that came or left; ``rested`` with a
    marked worker that finished what it ran. Attributes to read: ``crowds`` (task groups that have tasks or results),
    ``workers`` (by address), ``threads`` and how many of them are busy, ``moves`` (counts everything that happened),
    ``finished`` and ``recomputed`` (tasks), ``served_s`` (seconds that workers which left were there).
    """

    def __init__(self, timeline: Timeline, costs: Costs | None = None) -> None:
        self.told: Callable[[str], None] = lambda _: None
        self.rested: Callable[[Worker], None] = lambda _: None
        self.costs = costs or Costs()
        self.durations = Durations()
        self.crowds: dict[str, Crowd] = {}
        self.workers: dict[str, Worker] = {}
        self.moves = self.finished = self.recomputed = self.threads = self.busy_threads = 0
        self.served_s = 0.0
        self._timeline = timeline
        self._prefixes: dict[str, Prefix] = {}
        self._graphs: list[_Running] = []
        self._clear_s = 0.0
        self._open: dict[Worker, None] = {}
        self._partly: dict[Worker, None] = {}
        self._spare: dict[Worker, None] = {}
        self._loaded: dict[Worker, None] = {}
        self._queue: list[tuple[int, int]] = []
        self._needy: dict[tuple[tuple[str, float], ...], list[tuple[int, int]]] = {}
        self._state: list[int] = []
        self._crowd: list[Crowd] = []
        self._run_s: list[float] = []
        self._nbytes: list[int] = []
        self._parents: list[tuple[int, ...]] = []
        self._children: list[list[int]] = []
        self._missing: list[int] = []
        self._users: list[int] = []
        self._where: list[Worker | None] = []
        self._rank: list[int] = []
        self._graph_of: list[_Running] = []

    # --- graphs ---

    def submit(self, graph: Graph, done: Callable[[], None]) -> None:
        """Take a graph in; ``done`` is called when all its tasks are."""
        base = len(self._state)
        running = _Running(base, len(graph), len(graph), done)
        self._graphs.append(running)
        number = len(self._graphs) - 1
        crowds = [self._crowd_of(f"{group.name}-{number}", group.prefix, group.need) for group in graph.groups]
        self._columns(graph, running, crowds)
        for rank, task in enumerate(_order(graph.parents, self._children, base)):
            self._rank[base + task] = base + rank
        for task in range(base, base + len(graph)):
            if not self._missing[task]:
                self._crowd[task].waiting -= 1
                self._ready(task)
        self.moves += 1
        self.told("graph")
        if not running.left:
            self._timeline.after(0.0, done)

    def _crowd_of(self, name: str, prefix: str, need: Need) -> Crowd:
        if prefix not in self._prefixes:
            self._prefixes[prefix] = Prefix(prefix)
        crowd = self.crowds[name] = Crowd(name, self._prefixes[prefix], need)
        return crowd

    def _columns(self, graph: Graph, running: _Running, crowds: Sequence[Crowd]) -> None:
        base, size = running.base, running.size
        mine = [crowds[group] for group in graph.group]
        parents = [tuple([base + parent for parent in before]) for before in graph.parents]
        children: list[list[int]] = [[] for _ in range(size)]
        for index, before in enumerate(graph.parents):
            crowd = mine[index]
            crowd.size += 1
            crowd.waiting += 1
            for parent in before:
                children[parent].append(base + index)
                if mine[parent] is not crowd:
                    crowd.after[mine[parent]] = None
        self._state += [WAITING] * size
        self._crowd += mine
        self._run_s += graph.run_s
        self._nbytes += graph.nbytes
        self._parents += parents
        self._children += children
        self._missing += [len(before) for before in parents]
        self._users += [len(each) for each in children]
        self._where += [None] * size
        self._rank += [0] * size
        self._graph_of += [running] * size
        running.sinks = [base + index for index, each in enumerate(children) if not each]

    # --- workers ---

    def join(self, worker: Worker) -> None:
        """A worker registers."""
        self.workers[worker.address] = worker
        self.threads += worker.shape.threads
        self._offer(worker)
        self.moves += 1
        self.told("worker joined")

    def leave(self, worker: Worker) -> None:
        """A worker is gone, with everything that it ran and held."""
        del self.workers[worker.address]
        worker.gone = True
        self.threads -= worker.shape.threads
        self.served_s += self._timeline.now_s - worker.since_s
        self._withdraw(worker)
        self._loaded.pop(worker, None)
        self.busy_threads -= len(worker.running)
        again = list(dict.fromkeys([*worker.running, *self._assigned(worker)]))
        for task in worker.running:
            del self._crowd[task].running[task]
        worker.running.clear()
        worker.backlog.clear()
        self._put_back(again)
        self._lose(list(worker.holds))
        self._resume(again)
        self.moves += 1
        self.told("worker left")

    def mark(self, worker: Worker) -> None:
        """No new tasks for this worker; what it has not begun goes to others."""
        worker.marked = True
        self._withdraw(worker)
        self._loaded.pop(worker, None)
        backlog = self._assigned(worker)
        worker.backlog = []
        for task in dict.fromkeys(backlog):
            self._crowd[task].ready -= 1
            self._where[task] = None
            self._ready(task)

    def _assigned(self, worker: Worker) -> list[int]:
        """What a worker is to run; entries of its backlog that are no longer true are left out."""
        return [task for _, task in worker.backlog if self._state[task] == ASSIGNED and self._where[task] is worker]

    def unmark(self, worker: Worker) -> None:
        """It takes tasks again."""
        worker.marked = False
        self._offer(worker)

    def move(self, worker: Worker, other: Worker) -> None:
        """Results of one worker are another's now."""
        for task in worker.holds:
            self._where[task] = other
            other.holds[task] = None
        other.held_bytes += worker.held_bytes
        worker.holds.clear()
        worker.held_bytes = 0

    def capable(self, need: Need) -> bool:
        """Whether any worker has the resources that such a task takes."""
        return any(worker.shape.slots(need) for worker in self.workers.values())

    # --- where tasks run ---

    def _ready(self, task: int) -> None:
        """All inputs are there: to a thread, to a worker's backlog, or into the queue."""
        crowd = self._crowd[task]
        crowd.ready += 1
        if crowd.kind:
            self._ready_with_need(task, crowd)
            return
        worker = self._holder(task)
        if worker is None or worker.free <= 0 or worker.marked:
            free = next(iter(self._open or self._partly), None)
            worker = free or worker
        if worker is not None and worker.free > 0 and not worker.marked:
            self._start(task, worker)
            return
        if self._rootish(crowd):
            worker = next(iter(self._spare), None)
        elif worker is None or worker.marked:
            worker = next(iter(self._spare or self._loaded), None)
        if worker is None:
            self._state[task] = READY
            heapq.heappush(self._queue, (self._rank[task], task))
        else:
            self._assign(task, worker)

    def _ready_with_need(self, task: int, crowd: Crowd) -> None:
        for worker in self.workers.values():
            if worker.free > 0 and not worker.marked and _fits(worker.room, crowd.need):
                self._start(task, worker)
                return
        self._state[task] = READY
        heapq.heappush(self._needy.setdefault(crowd.kind, []), (self._rank[task], task))

    def _rootish(self, crowd: Crowd) -> bool:
        return crowd.size > 2 * self.threads and len(crowd.after) < 5 and sum([c.size for c in crowd.after]) < 5

    def _holder(self, task: int) -> Worker | None:
        """The worker that holds most of the inputs."""
        parents = self._parents[task]
        if len(parents) == 1:
            return self._where[parents[0]]
        held: dict[Worker, int] = {}
        for parent in parents:
            worker = self._where[parent]
            if worker is not None:
                held[worker] = held.get(worker, 1) + self._nbytes[parent]
        return max(held, key=held.__getitem__) if held else None

    def _assign(self, task: int, worker: Worker) -> None:
        self._state[task] = ASSIGNED
        self._where[task] = worker
        heapq.heappush(worker.backlog, (self._rank[task], task))
        self._loaded[worker] = None
        if len(worker.backlog) >= self._extra(worker):
            self._spare.pop(worker, None)

    def _extra(self, worker: Worker) -> float:
        """Tasks that a worker may have beyond its threads."""
        saturation = self.costs.saturation
        return (
            math.inf if saturation == math.inf else math.ceil(saturation * worker.shape.threads) - worker.shape.threads
        )

    def _start(self, task: int, worker: Worker) -> None:
        now_s, costs, crowd = self._timeline.now_s, self.costs, self._crowd[task]
        begin_s = self._clear_s = max(now_s, self._clear_s) + costs.each_s
        fetched = 0
        for parent in self._parents[task]:
            if self._where[parent] is not worker:
                fetched += self._nbytes[parent]
        if fetched:
            begin_s += costs.latency_s + fetched / costs.bytes_per_s
        self._state[task] = RUNNING
        self._where[task] = worker
        worker.running[task] = crowd.running[task] = begin_s
        worker.free -= 1
        self.busy_threads += 1
        for name, amount in crowd.kind:
            worker.room[name] -= amount
        self._open.pop(worker, None)
        if worker.free > 0:
            self._partly[worker] = None
        else:
            self._partly.pop(worker, None)
            if self._extra(worker) > len(worker.backlog):
                self._spare[worker] = None
        self._timeline.after(begin_s + self._run_s[task] - now_s, self._finish, task, worker)

    def _finish(self, task: int, worker: Worker) -> None:
        if worker.gone:
            return
        crowd, took_s = self._crowd[task], self._run_s[task]
        del worker.running[task]
        del crowd.running[task]
        worker.free += 1
        self.busy_threads -= 1
        for name, amount in crowd.kind:
            worker.room[name] += amount
        crowd.ready -= 1
        crowd.done += 1
        self.moves += 1
        self.finished += 1
        self._state[task] = MEMORY
        self._where[task] = worker
        worker.holds[task] = None
        worker.held_bytes += self._nbytes[task]
        crowd.held_bytes += self._nbytes[task]
        prefix = crowd.prefix
        prefix.state_counts["memory"] += 1
        prefix.all_durations["compute"] += took_s
        old = prefix.duration_average
        prefix.duration_average = took_s if old < 0 else 0.5 * (old + took_s)
        self._after(task)
        if not worker.marked:
            self._offer(worker)
        elif not worker.running:
            self.rested(worker)

    def _after(self, task: int) -> None:
        """What a finished task means to its children, its parents and its graph."""
        state, missing = self._state, self._missing
        for child in self._children[task]:
            if state[child] == WAITING:
                missing[child] -= 1
                if not missing[child]:
                    self._crowd[child].waiting -= 1
                    self._ready(child)
        for parent in self._parents[task]:
            self._users[parent] -= 1
            if not self._users[parent]:
                self._release(parent)
        if self._children[task] and not self._users[task]:  # made again for somebody who is done meanwhile
            self._release(task)
        graph = self._graph_of[task]
        graph.left -= 1
        if not graph.left:
            for sink in graph.sinks:
                self._release(sink)
            for name in [crowd.name for crowd in dict.fromkeys(self._crowd[graph.base : graph.base + graph.size])]:
                del self.crowds[name]
            graph.done()

    def _release(self, task: int) -> None:
        if self._state[task] == MEMORY:
            worker = self._where[task]
            if worker is not None:
                worker.holds.pop(task, None)
                worker.held_bytes -= self._nbytes[task]
            self._crowd[task].held_bytes -= self._nbytes[task]
            self._state[task] = RELEASED
            self._where[task] = None

    # --- workers with room ---

    def _offer(self, worker: Worker) -> None:
        """Give a worker with room the best there is: of its own, of the queue, of others."""
        while worker.free > 0:
            task = self._next_for(worker)
            if task is None:
                break
            self._start(task, worker)
        if worker.free > 0:
            if not worker.running:
                worker.idle_s = self._timeline.now_s
                self._partly.pop(worker, None)
                self._open[worker] = None
            else:
                self._partly[worker] = None
        extra = self._extra(worker)
        while len(worker.backlog) < extra and (found := self._pop(self._queue, READY)) is not None:
            self._assign(found, worker)
        if worker.free <= 0 and len(worker.backlog) < extra:
            self._spare[worker] = None
        else:
            self._spare.pop(worker, None)

    def _next_for(self, worker: Worker) -> int | None:
        for kind, heap in self._needy.items():
            if heap and _fits(worker.room, dict(kind)) and (task := self._pop(heap, READY)) is not None:
                return task
        if worker.backlog:
            task = self._pop(worker.backlog, ASSIGNED, worker)
            if not worker.backlog:
                self._loaded.pop(worker, None)
            if task is not None:
                return task
        if self._queue and (task := self._pop(self._queue, READY)) is not None:
            return task
        while self._loaded:
            other = next(iter(self._loaded))
            task = self._pop(other.backlog, ASSIGNED, other)
            if not other.backlog:
                del self._loaded[other]
            if len(other.backlog) < self._extra(other) and not other.marked and other.free <= 0:
                self._spare[other] = None
            if task is not None:
                return task
        return None

    def _pop(self, heap: list[tuple[int, int]], state: int, worker: Worker | None = None) -> int | None:
        """The first entry that is still true."""
        while heap:
            task = heapq.heappop(heap)[1]
            if self._state[task] == state and self._where[task] is worker:
                return task
        return None

    def _withdraw(self, worker: Worker) -> None:
        self._open.pop(worker, None)
        self._partly.pop(worker, None)
        self._spare.pop(worker, None)

    # --- what is lost ---

    def _put_back(self, tasks: Sequence[int]) -> None:
        """Tasks that were begun, or about to be, wait again; nothing is known of their inputs but what is there."""
        for task in tasks:
            self._crowd[task].ready -= 1
            self._crowd[task].waiting += 1
            self._state[task] = WAITING
            self._where[task] = None
            self._missing[task] = sum([self._state[parent] != MEMORY for parent in self._parents[task]])

    def _resume(self, tasks: Sequence[int]) -> None:
        """Tasks that wait again: make their inputs where those are gone too, or begin at once."""
        self._revive([parent for task in tasks for parent in self._parents[task]])
        for task in tasks:
            if self._state[task] == WAITING and not self._missing[task]:
                self._crowd[task].waiting -= 1
                self._ready(task)

    def _lose(self, tasks: Sequence[int]) -> None:
        """Results are gone with their worker; who was about to use them waits, and what is needed is made again."""
        for task in tasks:
            self._release(task)
            for child in self._children[task]:
                if self._state[child] in (READY, ASSIGNED):
                    self._put_back([child])
                elif self._state[child] == WAITING:
                    self._missing[child] += 1
        self._revive([task for task in tasks if self._needed(task)])

    def _needed(self, task: int) -> bool:
        children = self._children[task]
        return not children or any(self._state[child] == WAITING for child in children)

    def _revive(self, tasks: Sequence[int]) -> None:
        """Make these results once more where they are gone, and first what they are made of."""
        stack, revived = list(tasks), []
        while stack:
            task = stack.pop()
            if self._state[task] == RELEASED:
                self._state[task] = WAITING
                self._crowd[task].done -= 1
                self._crowd[task].waiting += 1
                self._graph_of[task].left += 1
                self.recomputed += 1
                revived.append(task)
                for parent in self._parents[task]:
                    self._users[parent] += 1
                stack += self._parents[task]
        for task in revived:
            self._missing[task] = sum([self._state[parent] != MEMORY for parent in self._parents[task]])
        for task in revived:
            if not self._missing[task]:
                self._crowd[task].waiting -= 1
                self._ready(task)


def _fits(room: Mapping[str, float], need: Need) -> bool:
    return all(room.get(name, 0.0) >= amount - 1e-9 for name, amount in need.items())


def _order(parents: Sequence[Sequence[int]], children: Sequence[Sequence[int]], base: int) -> list[int]:
    """Depth first from the ends: what is needed for a result that was begun comes before what is new."""
    size = len(parents)
    ordered: list[int] = []
    seen = bytearray(size)
    for sink in range(size):
        if children[base + sink] or seen[sink]:
            continue
        stack = [sink]
        while stack:
            task = stack[-1]
            if seen[task]:
                stack.pop()
                continue
            before = [parent for parent in parents[task] if not seen[parent]]
            if before:
                stack += reversed(before)
            else:
                seen[task] = 1
                ordered.append(task)
                stack.pop()
    return ordered
