"""`imgtool gc`: removes what no root reaches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from imgtool.cli import options as o
from imgtool.cli.context import Context

if TYPE_CHECKING:
    from imgtool.cli.output import Row


def run(c: Context, dry_run: o.DryRun = False, bytes: o.Bytes = False, zero: o.Zero = False) -> None:
    """Remove all content that no image, lease or gc.root label reaches, in every namespace, and what
    writes that nobody will finish have left. Print what was removed.

    SIZE is what becomes free; the table ends with the total. Where a record or manifest cannot be
    read, or an object is missing, nothing is removed, and the exit status is 6.
    """
    from imgtool.cli import garbage
    from imgtool.ops.gc import collect

    def removed() -> Iterator[Row]:
        found = collect(c.store(), dry_run=dry_run)
        yield from garbage.rows(found, total=c.format == "table" and not (c.quiet or zero))

    c.out.rows(garbage.GARBAGE, removed(), garbage.columns(exact=bytes), zero=zero)
