"""Every error that this package raises on purpose.

    AdaptiveError
    ├── ConfigError            the user asked for something that cannot be
    ├── PolicyError            a policy broke its contract
    ├── EngineError            the Dask scheduler could not be asked
    └── BackendError           the boundary to a resource manager
        ├── Unavailable        could not be asked; we know nothing; try again
        │   └── Throttled      carries ``retry_after_s``
        ├── Rejected           understood and refused; trying again will not help
        ├── NoCapacity         understood, cannot be met now
        ├── Ambiguous          may or may not have happened; look before trying again
        └── Garbled            answered, but not in a form that we understand

A leaf exists only where the controller reacts differently to it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

__all__ = [
    "AdaptiveError",
    "Ambiguous",
    "BackendError",
    "ConfigError",
    "EngineError",
    "Garbled",
    "NoCapacity",
    "PolicyError",
    "Rejected",
    "Throttled",
    "Unavailable",
    "nearest",
]


class AdaptiveError(Exception):
    """Base of every error of this package."""


class ConfigError(AdaptiveError, ValueError):
    """The user asked for something that cannot be; one sentence, raised before anything is started."""


class PolicyError(AdaptiveError):
    """A policy broke its contract: no target for a pool, a negative size, a missing reason."""


class EngineError(AdaptiveError):
    """The Dask scheduler could not be asked, or refused."""


class BackendError(AdaptiveError):
    """Something went wrong at the boundary to a resource manager.

    Parameters
    ----------
    message:
        One sentence for the user.
    command:
        The command (argv) that was run, if it was one.
    exit_code:
        Its exit code, if it ended.
    stderr:
        What it wrote to standard error; the end of it is kept.
    """

    def __init__(
        self,
        message: str,
        *,
        command: Sequence[str] = (),
        exit_code: int | None = None,
        stderr: str = "",
    ) -> None:
        super().__init__(message)
        self.command = tuple(command)
        self.exit_code = exit_code
        self.stderr = stderr[-4000:]

    def __str__(self) -> str:
        parts = [super().__str__()]
        if self.command:
            parts.append(f"command: {' '.join(self.command)}")
        if self.exit_code is not None:
            parts.append(f"exit code {self.exit_code}")
        if self.stderr.strip():
            parts.append(self.stderr.strip())
        return "; ".join(parts)


class Unavailable(BackendError):
    """The manager could not be asked; nothing is known; try again."""


class Throttled(Unavailable):
    """The manager asks us to come back later.

    Parameters
    ----------
    retry_after_s:
        Seconds to wait before the next call.
    """

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float,
        command: Sequence[str] = (),
        exit_code: int | None = None,
        stderr: str = "",
    ) -> None:
        super().__init__(message, command=command, exit_code=exit_code, stderr=stderr)
        self.retry_after_s = retry_after_s


class Rejected(BackendError):
    """The manager understood and refused (bad queue, over a limit); trying again will not help."""


class NoCapacity(BackendError):
    """The manager understood, but cannot meet the request now."""


class Ambiguous(BackendError):
    """The call may or may not have had its effect; look before trying again."""


class Garbled(BackendError):
    """The manager answered in a form that we do not understand."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Half a sentence that names the known words, the nearest first: ``did you mean 'x'? known: a, b``."""
    words = sorted(known)
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.65)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}known: {', '.join(words) or 'none'}"
