"""`imgtool exists`: an answer in the exit status."""

from __future__ import annotations

from imgtool.cli import options as o
from imgtool.cli.context import Context


def run(c: Context, names: o.Names, zero: o.Zero = False) -> None:
    """Exit with 0 if every one of the images exists, with 3 if one does not. Prints nothing."""
    from imgtool.cli.listing import exists

    exists(c, names, zero=zero)
