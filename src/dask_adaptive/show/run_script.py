"""Runs a script as ``python SCRIPT`` does, and says so when the cluster around it stays unused.

Started as a file by ``dask adaptive run``, in the script's own process. It imports nothing but the standard library
before the script does, so that whatever the script sets up before it imports Dask still counts, and it only watches:
a first ``LocalCluster``, and a first computation without a client.
"""

from __future__ import annotations

import functools
import importlib.util
import runpy
import sys
import types
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

OWN_CLUSTER = "it makes its own LocalCluster, so the cluster around it stays unused: write Client() instead"
NO_CLIENT = (
    "it computes without a client, so the cluster around it stays unused: "
    "write `from dask.distributed import Client; client = Client()` before the first computation"
)
OWN_SIZE = (
    "Client() with options makes a cluster of its own; the one around the script is found by Client() without any"
)


@functools.cache
def hint(text: str) -> None:
    """Say it on standard error, once, in one write."""
    sys.stderr.write(f"dask adaptive run: {text}\n")
    sys.stderr.flush()


class AfterImport:
    """An importer that finds nothing itself: it calls a function as soon as a module has been imported."""

    def __init__(self, calls: dict[str, Callable[[types.ModuleType], None]]) -> None:
        self.calls = calls

    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        """The spec that the others find, with a loader that calls us back."""
        call = self.calls.pop(name, None)
        spec = importlib.util.find_spec(name) if call else None
        if call is None or spec is None or spec.loader is None:
            return None
        load = spec.loader.exec_module

        def exec_module(module: types.ModuleType) -> None:
            load(module)
            call(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def watch_local_cluster(module: Any) -> None:
    """Say once that the script makes a cluster of its own."""
    cluster = module.LocalCluster
    plain = cluster.__init__

    @functools.wraps(plain)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        cluster.__init__ = plain
        hint(OWN_CLUSTER)
        plain(self, *args, **kwargs)

    cluster.__init__ = init


def watch_callbacks(module: Any) -> None:
    """Say once that the script computes without a client: only Dask's own schedulers call callbacks."""
    module.Callback(start=lambda _graph: hint(NO_CLIENT)).register()


def run_script(path: str) -> None:
    """Run a file as ``__main__``; its module stays alive until the process ends, as that of ``python SCRIPT`` does."""
    file = str(Path.cwd() / path)
    main = types.ModuleType("__main__")
    main.__file__ = file
    main.__dict__["__builtins__"] = __builtins__
    sys.modules["__main__"] = main
    sys.path[0] = str(Path(path).resolve().parent)
    exec(compile(Path(path).read_bytes(), file, "exec", dont_inherit=True), main.__dict__)  # noqa: S102


def run_module(name: str) -> None:
    """Run a module as ``python -m`` does."""
    sys.path[0] = str(Path.cwd())
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def main() -> None:
    """Run what the command line names, and print its error as Python does, without our own frames."""
    sys.argv = sys.argv[1:]
    run: Callable[[str], None] = run_script
    if sys.argv[0] == "-m":
        sys.argv, run = sys.argv[1:], run_module
    watches = {"distributed.deploy.local": watch_local_cluster, "dask.callbacks": watch_callbacks}
    sys.meta_path.insert(0, AfterImport(watches))  # type: ignore[arg-type]
    try:
        run(sys.argv[0])
    except Exception as error:  # noqa: BLE001 - whatever the script raises is its own
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
            trace = trace.tb_next
        sys.excepthook(type(error), error.with_traceback(trace), trace)
        if isinstance(error, ValueError) and "Unexpected keyword arguments" in str(error):
            hint(OWN_SIZE)
        sys.exit(1)


if __name__ == "__main__":
    main()
