"""`imgtool list`: the images of a namespace."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from imgtool.cli import options as o
from imgtool.cli.context import Context


def run(
    c: Context,
    filters: o.FilterArguments,
    all_namespaces: o.AllNamespaces = False,
    sort: Annotated[
        Literal["name", "created", "updated", "size"],
        typer.Option("--sort", metavar="KEY", help="name, created, updated or size."),
    ] = "name",
    reverse: o.Reverse = False,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", min=0, show_default=False, help="At most N images.")
    ] = None,
    no_trunc: o.NoTrunc = False,
    bytes: o.Bytes = False,
    zero: o.Zero = False,
) -> None:
    """List images.

    SIZE is the sum of the blobs that are present, each once, over all platforms. A record that
    cannot be read is reported, the rest is listed, and the exit status is 6.
    """
    from imgtool.cli.listing import show

    show(
        c,
        filters,
        all_namespaces=all_namespaces,
        sort=sort,
        reverse=reverse,
        limit=limit,
        whole=no_trunc,
        exact=bytes,
        zero=zero,
    )
