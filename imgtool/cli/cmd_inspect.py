"""`imgtool inspect`: an image as a whole."""

from __future__ import annotations

from typing import Annotated

import typer

from imgtool.cli import options as o
from imgtool.cli.context import Context


def run(
    c: Context,
    words: o.NamesOrDigests,
    raw: Annotated[
        bool, typer.Option("--raw", help="The bytes of the manifest or index, as they are.")
    ] = False,
    zero: o.Zero = False,
) -> None:
    """Show the records of images as JSON, with size, platforms, all manifests below, and what is absent."""
    from imgtool.cli import inspection
    from imgtool.cli.words import names_from

    names = names_from(words, zero, "name or digest")
    if raw:
        inspection.show_raw(c, names)
    else:
        inspection.show(c, names, zero=zero)
