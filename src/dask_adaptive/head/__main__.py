"""``python -m dask_adaptive.head FOLDER``: the head process of the named cluster in this folder."""

from __future__ import annotations

import sys

from dask_adaptive.head.process import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
