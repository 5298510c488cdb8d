"""The event loop of a cluster that is used from a plain script: it ends with the cluster, which can still be asked."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from distributed.core import Status
from distributed.deploy.cluster import Cluster as DaskCluster
from distributed.utils import LoopRunner

__all__ = ["AtOnce", "OwnLoop"]

logger = logging.getLogger(__name__)


class OwnLoop(DaskCluster):
    """A Dask cluster that leaves no thread behind when it is closed.

    Its event loop goes on only as long as somebody else uses it too, a client that is still open for example. What the
    cluster is asked after that runs on a loop of its own, which lives until the answer is there.
    """

    def __init__(self, **options: Any) -> None:
        self._asking, self._askers = threading.Lock(), 0
        super().__init__(**options)

    def sync(
        self,
        func: Callable[..., Any],
        *arguments: Any,
        asynchronous: bool | None = None,
        callback_timeout: Any = None,
        **options: Any,
    ) -> Any:
        """As Dask's, also once the cluster is closed."""
        timeout = {"callback_timeout": callback_timeout}
        if self.asynchronous if asynchronous is None else asynchronous:
            return super().sync(func, *arguments, asynchronous=True, **timeout, **options)
        if not self._asks():
            return LoopRunner().run_sync(func, *arguments, **timeout, **options)
        try:
            return super().sync(func, *arguments, asynchronous=False, **timeout, **options)
        finally:
            with self._asking:
                self._askers -= 1
            self._end_loop()

    def close(self, timeout: float | None = None) -> Any:
        """As Dask's."""
        over = super().close(timeout)
        if not self.asynchronous:
            self._end_loop()  # it may have been closed on its own loop, which a client does that shuts down
        return over

    def _asks(self) -> bool:
        """Whether to ask on the loop of the cluster, which then stays until there is an answer."""
        with self._asking:
            lives = bool(self.status != Status.closed)
            self._askers += lives
        return lives

    def _end_loop(self) -> None:
        """Let go of the loop, once the cluster is closed and nobody waits for an answer any more."""
        with self._asking:
            needed = self.status != Status.closed or self._askers > 0
        if needed:
            return
        try:
            self._loop_runner.stop()
        except (TimeoutError, RuntimeError) as error:  # a call that hangs, or the end of the interpreter
            logger.warning("The event loop of cluster %s goes on: %s", self.name, error)


class AtOnce(ThreadPoolExecutor):
    """For a loop at the end of the interpreter, when no thread can be started any more: each call runs at once."""

    def submit(self, fn: Callable[..., Any], /, *arguments: Any, **options: Any) -> Future[Any]:
        """As of any executor; it is done when this returns."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*arguments, **options))
        except BaseException as error:  # noqa: BLE001  who waits for it gets it
            future.set_exception(error)
        return future
