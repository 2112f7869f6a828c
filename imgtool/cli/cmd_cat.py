"""`imgtool cat`: the bytes of content."""

from __future__ import annotations

from imgtool.cli import options as o
from imgtool.cli.context import Context


def run(
    c: Context,
    words: o.NamesOrDigests,
    zero: o.Zero = False,
) -> None:
    """Write to stdout what images point to, or content by its digest, byte for byte.

    It is hashed on the way: where it is damaged the exit status is 6. Binary content is not written
    to a terminal.
    """
    from imgtool.cli.contents import cat, digest_of

    cat(c, words, lambda word: digest_of(c, word), what="name or digest", zero=zero)
