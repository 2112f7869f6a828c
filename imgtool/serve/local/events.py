"""Events where nobody subscribes: the log has them."""

from __future__ import annotations


class LogOnly:
    """`contracts.Publisher` without subscribers."""

    def changed(self, namespace: str) -> None:
        """Nobody waits."""
