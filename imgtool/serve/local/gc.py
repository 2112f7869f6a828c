"""gc when a client asks for it, and only then."""

from __future__ import annotations

from imgtool.ops import gc
from imgtool.serve.contracts import Open


class OnDemand:
    """`contracts.Scheduler` without a schedule. Runs that are asked for at once follow one another: the
    store's own lock sees to that.
    """

    def __init__(self, open: Open) -> None:
        self._open = open

    def changed(self, *, deleted: bool) -> None:
        """Nothing is due."""

    def collect(self) -> None:
        with self._open() as store:
            gc.collect(store)
