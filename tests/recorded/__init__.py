"""What real resource managers print: one folder for each, one JSON file for each case, as it was recorded.

{"manager", "version", "case", "argv", "stdin", "exit", "stdout", "stderr", "seconds", ...}
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dask_adaptive.backend.dialect import Answer

HERE = Path(__file__).parent


def recording(manager: str, case: str) -> dict[str, Any]:
    """The whole recording of a case."""
    found: dict[str, Any] = json.loads((HERE / manager / f"{case}.json").read_text())
    return found


def answer(manager: str, case: str) -> Answer:
    """What the program answered in this case."""
    found = recording(manager, case)
    return Answer(tuple(found["argv"]), found["exit"], found["stdout"], found["stderr"])


def cases(manager: str) -> list[str]:
    """Every recorded case of a manager."""
    return sorted(path.stem for path in (HERE / manager).glob("*.json"))
