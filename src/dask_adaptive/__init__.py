"""A Dask cluster exactly as large as its work, on any resource manager."""

__version__ = "0.1.0"
