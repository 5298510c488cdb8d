"""Benchmarks: always side by side with rivals, in one run, on the same schedulers and workers."""
