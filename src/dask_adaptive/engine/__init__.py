"""The Dask side: what the scheduler knows, and how workers leave it without losing anything."""
