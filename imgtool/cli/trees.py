"""`imgtool tree`: what `inspect` finds of images, with referrers, for a person first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from imgtool.cli import tree
from imgtool.cli.inspection import WHOLE, inspect
from imgtool.cli.output import Row
from imgtool.errors import ImgtoolError
from imgtool.model import EMPTY
from imgtool.oci.referrers import Referrers, by_subject

if TYPE_CHECKING:
    from imgtool.cli.context import Context


def show(
    c: Context,
    names: Sequence[str],
    *,
    referrers: bool,
    whole: bool,
    exact: bool,
    ascii: bool,
    zero: bool,
) -> None:
    """Print the trees of images, and of content by its digest. Those that fail are reported.

    Args:
        referrers: with what has them as its subject, for which all content records are read.
        whole, exact, ascii: as for `tree.text`.
        zero: names end with NUL.
    """
    kind = WHOLE.also("referrers")
    c.out.check(kind, zero=zero)
    about = _about(c) if referrers and c.out.shows("tree", zero=zero) else EMPTY
    rows = c.failures.for_each(names, lambda word: _row(c, word, about))
    if c.format == "table" and not (c.quiet or zero):
        for row in rows:
            for line in tree.text(row, whole=whole, exact=exact, ascii=ascii):
                c.out.write(line)
    else:
        c.out.rows(kind, rows, {}, zero=zero)


def _row(c: Context, word: str, about: Referrers) -> Row:
    row = inspect(c, word, about)
    tree.mark_repeats(row["tree"])
    tree.tell_platforms(c.store().content(c.namespace), row["tree"])
    return row


def _about(c: Context) -> Referrers:
    lost: list[ImgtoolError] = []
    found = by_subject(c.store().content(c.namespace), on_error=lost.append)
    if lost:
        c.failures.warn(
            f"content of '{c.namespace}' that may be about an image cannot be read: {lost[0].message}"
            + (f", and {len(lost) - 1} more" if len(lost) > 1 else ""),
            hint="imgtool fsck tells all that is damaged",
        )
    return found
