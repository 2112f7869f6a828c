"""`imgtool resolve`: from names to digests."""

from __future__ import annotations

from imgtool.cli import options as o
from imgtool.cli.context import Context


def run(c: Context, names: o.Names, zero: o.Zero = False) -> None:
    """Print the digest that each name points to."""
    from imgtool.cli import images as view

    images = c.store().images(c.namespace)
    found = c.failures.for_each(o.names_from(names, zero), images.get)
    rows = (view.row(c.namespace, image) for image in found)
    c.out.rows(
        "images",
        (row | {"digest": row["target"]["digest"]} for row in rows),
        {"DIGEST": lambda row: str(row["digest"])},
        key="digest",
        zero=zero,
        header=False,
    )
