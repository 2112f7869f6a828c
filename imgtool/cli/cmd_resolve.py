"""`imgtool resolve`: from names to digests."""

from __future__ import annotations

from imgtool.cli import options as o
from imgtool.cli.context import Context


def run(c: Context, names: o.Names, zero: o.Zero = False) -> None:
    """Print the digest that each name points to."""
    from imgtool.cli.listing import resolve

    resolve(c, names, zero=zero)
