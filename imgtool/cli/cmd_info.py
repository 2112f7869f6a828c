"""`imgtool info`: what the store holds."""

from __future__ import annotations

from imgtool.cli import options as o
from imgtool.cli.context import Context


def run(c: Context, bytes: o.Bytes = False) -> None:
    """Show where the store is, its format and settings, and how many objects, images, content records,
    leases and unfinished writes it holds, with their sizes.

    An object that several namespaces have counts once among the objects, and in each namespace as
    content.
    """
    from imgtool.cli.info import count, text

    held = count(c)
    c.out.document("store", held, lambda: text(held, exact=bytes, root_only=c.quiet))
