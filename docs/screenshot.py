"""The picture of the page on the Dask dashboard for the documentation: a cluster at work, as a browser shows it.

Run by ``make screenshot``; needs Chromium on PATH.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from dask_adaptive import Cluster
from tests.end_to_end.browser import browser

POOLS = {
    "cpu": {"maximum": 4},
    "gpu": {"maximum": 2, "resources": {"GPU": 1}, "price": 4.0},
}


async def shoot(path: Path) -> None:
    """Work in bursts, on two pools, and take the picture in the midst of the last one."""
    options = {"dashboard_address": "127.0.0.1:0"}
    async with Cluster(name="my analysis", pools=POOLS, scheduler_options=options, asynchronous=True) as cluster:
        cluster.adapt(wait_count=2)
        client = await cluster.get_client()
        for size in (40, 80, 24, 60):
            parts = client.map(time.sleep, [0.25] * size, pure=False, key=f"parse-{size}")
            await client.gather(parts)
            del parts
            await asyncio.sleep(4)
        parts = client.map(time.sleep, [0.25] * 60, pure=False, key="parse-again")
        fits = client.map(time.sleep, [0.5] * 40, pure=False, key="fit", resources={"GPU": 1})
        await asyncio.sleep(6)
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            async with browser(Path(folder)) as tab:
                await tab.open(cluster.dashboard_link.removesuffix("status") + "adaptive")
                await tab.until("Decisions", "ready")
                await tab.screenshot(path, width=1300, height=1120)
        Image.open(path).quantize(200).save(path, optimize=True)  # a third of the size
        await client.gather([*parts, *fits])
        await client.close()


if __name__ == "__main__":
    asyncio.run(shoot(Path(sys.argv[1])))
