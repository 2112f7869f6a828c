"""`imgtool tag`: further names for an image or a digest."""

from __future__ import annotations

from typing import Annotated

import typer

from imgtool.cli import options as o
from imgtool.cli.context import Context
from imgtool.cli.words import names_from


def run(
    c: Context,
    source: Annotated[str, typer.Argument(metavar="SRC", help="An image, or the digest of content.")],
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="The new names; - reads stdin.")],
    replace: Annotated[
        bool, typer.Option("--replace", "--force", help="A name that has another target gets this one.")
    ] = False,
    lease: o.Lease = None,
    zero: o.Zero = False,
    dry_run: o.DryRun = False,
) -> None:
    """Give an image, or content by its digest, further names, and print them.

    An image's labels are copied. A digest's media type is what the content says of itself, else
    application/octet-stream.
    """
    from imgtool.cli import images as view
    from imgtool.cli.leases import usable
    from imgtool.model import Image
    from imgtool.stores import Put

    c.out.check(view.IMAGES, zero=zero)
    lease = usable(c, lease)
    target, labels = view.target_of(c, source)
    needs = view.needed(c, target)
    puts = [Put(Image(name, target, labels), replace, needs) for name in names_from(names, zero)]
    published = c.records(dry_run=dry_run).publish(c.namespace, puts=puts, lease=lease)
    c.out.rows(
        view.IMAGES,
        (view.row(c.namespace, image) for image in c.failures.drop(published.images)),
        view.NAME_ONLY,
        zero=zero,
        header=False,
    )
