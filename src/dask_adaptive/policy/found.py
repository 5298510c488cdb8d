"""What a cluster wants before anybody told it a size, where there may be jobs already. Pure."""

from __future__ import annotations

from dask_adaptive.model import Past, Target, View, Want

__all__ = ["AsFound"]


class AsFound:
    """As many jobs as there are: for a controller that came back to a living scheduler."""

    def decide(self, view: View, past: Past) -> tuple[Target, Past]:
        """The sizes of now."""
        return Target({each.pool.name: Want(each.size, "as found; no size was said yet") for each in view.pools}), past
