"""`imgtool tree`: images as trees."""

from __future__ import annotations

from typing import Annotated

import typer

from imgtool.cli import options as o
from imgtool.cli.context import Context


def run(
    c: Context,
    words: o.NamesOrDigests,
    no_referrers: Annotated[
        bool, typer.Option("--no-referrers", help="Without what is about them, such as signatures.")
    ] = False,
    ascii: Annotated[bool, typer.Option("--ascii", help="Draw the lines with |, - and `.")] = False,
    no_trunc: o.NoTrunc = False,
    bytes: o.Bytes = False,
    zero: o.Zero = False,
) -> None:
    """Show images as trees: manifests, configs and layers, what is absent, and below each thing its
    referrers, such as signatures.

    Each digest is unfolded once; where it stands again it is marked as repeated.
    """
    from imgtool.cli.drawing import show
    from imgtool.cli.words import names_from

    names = names_from(words, zero, "name or digest")
    show(c, names, referrers=not no_referrers, whole=no_trunc, exact=bytes, ascii=ascii, zero=zero)
