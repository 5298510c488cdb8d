"""The Dask side: what the scheduler knows, and how workers leave it without losing anything."""

from dask_adaptive.engine.contracts import Engine
from dask_adaptive.engine.dask_side import DaskEngine, Holding

__all__ = ["DaskEngine", "Engine", "Holding"]
