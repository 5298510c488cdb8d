from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.contract.subjects import SUBJECTS, SYSTEMS, Subject


@pytest.fixture(
    params=[
        pytest.param(name, marks=pytest.mark.system(SYSTEMS[name])) if name in SYSTEMS else name for name in SUBJECTS
    ]
)
async def subject(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Subject]:
    """Each backend in turn."""
    async with SUBJECTS[request.param](tmp_path) as made:
        yield made
