"""`imgtool exists`: an answer in the exit status."""

from __future__ import annotations

from imgtool.cli import options as o
from imgtool.cli.context import Context


def run(c: Context, names: o.Names, zero: o.Zero = False) -> None:
    """Exit with 0 if every one of the images exists, with 3 if one does not. Prints nothing."""
    from imgtool.errors import NotFound

    images = c.store().images(c.namespace)
    for _ in c.failures.for_each(o.names_from(names, zero), images.get, silent=NotFound):
        pass
