"""`imgtool du`: who holds the space."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from imgtool.cli import options as o
from imgtool.cli.context import Context


def run(
    c: Context,
    words: Annotated[list[str], o.several("NAME", "Of images, or of what --by says; - reads stdin.")],
    by: Annotated[
        Literal["image", "repository", "namespace"],
        typer.Option("--by", metavar="WHAT", help="image, repository or namespace."),
    ] = "image",
    all_namespaces: o.AllNamespaces = False,
    sort: Annotated[
        Literal["name", "unique", "shared", "total"],
        typer.Option("--sort", metavar="KEY", help="name, unique, shared or total."),
    ] = "name",
    reverse: o.Reverse = False,
    bytes: o.Bytes = False,
    zero: o.Zero = False,
) -> None:
    """Show how much space images hold, and the store as a whole.

    UNIQUE is what gc would free if only this were gone, SHARED what something else keeps as well. The
    lines on the store come behind those of all images: objects are the sum of what images keep, what
    only leases, labels and unfinished writes hold, and garbage.
    """
    from imgtool.cli import usage
    from imgtool.cli.words import names_from

    usage.show(
        c,
        names_from(words, zero) if words else None,
        by=by,
        all_namespaces=all_namespaces,
        sort=sort,
        reverse=reverse,
        exact=bytes,
        zero=zero,
    )
