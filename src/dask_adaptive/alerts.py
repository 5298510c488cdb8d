"""Tells somebody when something is wrong, and when it is over: calls a function, or runs a command.

Kinds of events:

    pool-broken       a pool failed several times in a row; it rests, and then tries one job at a time
    pool-mended       a job of a pool that was broken serves
    budget-reached    the worker-hours that may be spent are spent
    scheduler-lost    the Dask scheduler does not answer
    scheduler-back    it answers again
    head-lost         the head of a named cluster is gone, or does not answer
    head-back         it answers again

Nothing here holds a cluster up: each hook has a thread of its own, and what a hook does wrong is said once.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import logging
import os
import queue
import re
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from dask_adaptive.errors import ConfigError
from dask_adaptive.health import BROKEN_AFTER
from dask_adaptive.model import Record

__all__ = ["KINDS", "Alerts", "Command", "Event", "Hook", "Troubles", "hooks_of", "news", "troubles_of"]

logger = logging.getLogger(__name__)

KINDS = ("pool-broken", "pool-mended", "budget-reached", "scheduler-lost", "scheduler-back", "head-lost", "head-back")

OVER: Mapping[str, tuple[str, str]] = {
    "pool-broken": ("pool-mended", "pool {pool} serves again"),
    "scheduler-lost": ("scheduler-back", "the scheduler answers again"),
    "head-lost": ("head-back", "the head answers again"),
}
"""For a trouble whose end is told as well: the kind of that event, and its sentence."""

COMMAND_S = 60.0
"""After so many seconds a command is ended."""

KEPT = 1000
"""How many events wait for a hook that is slow; more are dropped."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something went wrong, or is right again.

    ``kind`` is one of those above; ``pool`` is empty where no single one is concerned; ``sentence`` is for people;
    ``at_s`` is in seconds since the epoch.
    """

    kind: str
    cluster: str
    pool: str
    sentence: str
    at_s: float


Hook = Callable[[Event], object]

Troubles = Mapping[tuple[str, str], str]
"""What is wrong now: a sentence by kind and pool."""


# --- what is wrong; pure -------------------------------------------------------------------------------------------


def troubles_of(record: Record, *, lost: bool) -> Troubles:
    """What is wrong in this round; ``lost``: the scheduler does not answer."""
    found = {
        ("pool-broken", name): f"pool {name} is broken: {state.broken or f'{state.failures} failures in a row'}"
        for name, state in record.snapshot.pools.items()
        if state.failures >= BROKEN_AFTER
    }
    for name, words in record.target.spent.items():
        found["budget-reached", name] = f"the budget of {f'pool {name}' if name else 'the cluster'} is reached: {words}"
    if lost:
        found["scheduler-lost", ""] = record.error or "the scheduler does not answer"
    return found


def news(before: Troubles, after: Troubles, cluster: str, at_s: float) -> tuple[Event, ...]:
    """What began and what ended between two rounds."""
    began = [Event(kind, cluster, pool, after[kind, pool], at_s) for kind, pool in after if (kind, pool) not in before]
    ended = [key for key in before if key not in after and key[0] in OVER]
    return (*began, *(Event(OVER[k][0], cluster, pool, OVER[k][1].format(pool=pool), at_s) for k, pool in ended))


# --- hooks ---------------------------------------------------------------------------------------------------------


def hooks_of(given: Any) -> tuple[Hook, ...]:
    """The hooks that a user gave: one, or a list of several.

    A hook is a function of an ``Event`` (plain or ``async``), the place of one (``"package.module:function"``), or a
    command as a list of words, which gets the event as JSON on its standard input. No shell is involved.

    Raises
    ------
    ConfigError
        If one of them is none of this, or its program or function does not exist.
    """
    if given is None or given in ([], ()):
        return ()
    if callable(given):
        return (given,)
    if isinstance(given, str):
        return (_found(given),)
    words = isinstance(given, Sequence) and all(isinstance(word, str) for word in given)
    if words and not all(map(_PLACE.fullmatch, given)):
        return (Command(tuple(given)),)
    if isinstance(given, Sequence):
        return tuple(hook for each in given for hook in hooks_of(each))
    raise ConfigError(f"on_event must be a function, 'module:function' or a command as a list, not {given!r}")


_PLACE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
"""A function by its place; no program has such a name."""


def _found(place: str) -> Hook:
    module, colon, name = place.partition(":")
    if not colon:
        raise ConfigError(f"on_event must be 'module:function' or a command as a list of words, not {place!r}")
    try:
        hook = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"on_event: there is no {place!r}: {error}") from error
    if not callable(hook):
        raise ConfigError(f"on_event: {place!r} is no function")
    return hook  # type: ignore[no-any-return]


class Command:
    """A hook that runs a command, without a shell, with the event as JSON on its standard input.

    It is ended, with all that it started, after a minute. Raises ``ConfigError`` if there is no such program.
    """

    def __init__(self, argv: Sequence[str]) -> None:
        if not argv or shutil.which(argv[0]) is None:
            raise ConfigError(f"on_event: there is no program {argv[0] if argv else ''!r}")
        self.argv = tuple(argv)
        self._running: subprocess.Popen[bytes] | None = None

    def __call__(self, event: Event) -> None:
        """Run it and wait for its end. Raises ``ChildProcessError`` if it failed."""
        with tempfile.TemporaryFile() as errors:
            process = self._running = subprocess.Popen(  # noqa: S603  the user's own command
                self.argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )
            try:
                process.communicate(json.dumps(asdict(event)).encode(), timeout=COMMAND_S)
            except subprocess.TimeoutExpired:
                self.end()
                raise ChildProcessError(f"it was ended after {COMMAND_S:.0f} s") from None
            if process.returncode:
                errors.seek(0)
                said = errors.read()[-500:].decode(errors="replace").strip().splitlines()
                raise ChildProcessError("; ".join([f"exit code {process.returncode}", *said[-1:]]))

    def end(self) -> None:
        """End the command that runs now, with all that it started."""
        process = self._running
        if process is not None and process.poll() is None:
            with suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def __repr__(self) -> str:
        return " ".join(self.argv)


class Alerts:
    """Tells every hook of every event, in order, each hook on a thread of its own.

    Parameters
    ----------
    hooks:
        Whom to tell.
    say:
        Told, on a thread of its own, in one sentence that a hook failed; once for each hook.
    """

    def __init__(self, hooks: Iterable[Hook], say: Callable[[str], object] = logger.warning) -> None:
        self._listeners = [_Listener(hook, say) for hook in hooks]
        self._troubles: Troubles = {}

    def follow(self, troubles: Troubles, cluster: str, at_s: float) -> None:
        """Tell what began and what ended since this was called last. Returns at once."""
        before, self._troubles = self._troubles, troubles
        self.tell(news(before, troubles, cluster, at_s))

    def tell(self, events: Iterable[Event]) -> None:
        """Returns at once."""
        for event in events:
            for listener in self._listeners:
                listener.tell(event)

    def close(self, timeout_s: float = 5.0) -> None:
        """Let the hooks finish for so long; commands that run still are ended."""
        for listener in self._listeners:
            listener.finish()
        for listener in self._listeners:
            listener.close(timeout_s)


class _Listener:
    def __init__(self, hook: Hook, say: Callable[[str], object]) -> None:
        self._hook, self._say = hook, say
        self._events: queue.Queue[Event | None] = queue.Queue(KEPT)
        self._thread: threading.Thread | None = None
        self._failed = self._over = False

    def tell(self, event: Event) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="dask-adaptive-alert", daemon=True)
            self._thread.start()
        with suppress(queue.Full):
            self._events.put_nowait(event)

    def _run(self) -> None:
        while (event := self._events.get()) is not None and not self._over:
            self._call(event)

    def _call(self, event: Event) -> None:
        try:
            outcome = self._hook(event)
            if inspect.iscoroutine(outcome):
                asyncio.run(outcome)
        except Exception as error:  # noqa: BLE001  a hook of somebody else may raise anything
            self._blame(error)

    def _blame(self, error: Exception) -> None:
        if self._failed:
            return
        self._failed = True
        sentence = f"on_event {getattr(self._hook, '__qualname__', repr(self._hook))} failed, said once: {error!r}"
        with suppress(Exception):  # whoever listened may be gone
            self._say(sentence)

    def finish(self) -> None:
        with suppress(queue.Full):
            self._events.put_nowait(None)

    def close(self, timeout_s: float) -> None:
        if self._thread is None:
            return
        self._thread.join(timeout_s)
        self._over = True
        if self._thread.is_alive() and isinstance(self._hook, Command):
            self._hook.end()
            self._thread.join(timeout_s)
