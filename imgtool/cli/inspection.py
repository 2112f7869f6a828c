"""An image as a whole: its record, and everything that its target reaches."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from imgtool.cli import images as view
from imgtool.cli.contents import digest_of
from imgtool.cli.output import Row, json_indented
from imgtool.cli.tree import Tree
from imgtool.errors import DataLoss, ImgtoolError, InvalidArgument, NotFound
from imgtool.model import EMPTY, Image
from imgtool.oci import blob, graph

if TYPE_CHECKING:
    from imgtool.cli.context import Context
    from imgtool.digest import Digest
    from imgtool.oci.referrers import Referrers


WHOLE = view.IMAGES.also("size", "platforms", "absent", "missing", "tree")


def show(c: Context, names: Sequence[str], *, zero: bool) -> None:
    """Print what `inspect` finds of each name: as JSON for a person, unless another format is asked
    for. Those that fail are reported.
    """
    rows = c.failures.for_each(names, lambda word: inspect(c, word))
    if c.format == "table" and not (c.quiet or zero):
        for piece in json_indented({"schema": 1, "images": list(rows)}):
            c.out.write(piece)
        c.out.write("\n")
    else:
        c.out.rows(WHOLE, rows, {}, zero=zero)


def show_raw(c: Context, names: Sequence[str]) -> None:
    """Write the manifest or index of each name to stdout, whole and right or not at all."""
    content = c.store().content(c.namespace)
    for raw in c.failures.for_each(names, lambda word: blob.read(content, digest_of(c, word))):
        c.out.stream()(raw)


def inspect(c: Context, word: str, about: Referrers | None = None) -> Row:
    """The record of an image, or of content by its digest, which then is its name; and

    `size`: the bytes that are there, each content once; `platforms`; `absent`: digests that are not
    there by choice; `missing`: digests that are not there and should be; `tree`: the target, and in
    `children` what it refers to, each document unfolded where it stands first, until they have
    16 MiB together: those behind are only named, with `cut`.

    What is damaged or malformed is reported, and the rest told.

    Args:
        about: referrers by subject, to stand in the tree under what they are about; `referrers` then is
            their `count`, and the `size` of what they have beside the image.

    Raises:
        NotFound: there is neither.
        DataLoss: the record cannot be read, or nothing is what the digest names.
    """
    content = c.store().content(c.namespace)
    image = _image(c, word)
    tree = Tree(image.target)
    damaged: dict[Digest, DataLoss] = {}

    def look(image: Image) -> tuple[graph.Extent, graph.Extent]:
        nonlocal tree
        damaged.clear()

        @cache
        def present(digest: Digest) -> bool:
            try:
                content.reader(digest).close()
            except NotFound:
                return False
            except DataLoss as error:
                damaged[digest] = error
                return False
            return True

        tree = Tree(image.target, about or EMPTY)
        extent, beside = graph.Extent(), graph.Extent()
        for node in graph.walk(content, tree.roots(), present):
            (beside if tree.is_beside else extent).add(node)
            tree.add(node)
        return extent, beside

    extent, beside, size, platforms = graph.Extent(), graph.Extent(), None, list[str]()
    wrong: ImgtoolError | None = None
    try:
        image, (extent, beside) = view.steady(image, lambda: _image(c, word), look)
        size = extent.size
        platforms = [] if damaged else graph.image_platforms(content, image.target)
    except (InvalidArgument, DataLoss) as error:
        wrong = error
    for loss in damaged.values():
        c.failures.add(loss)
    if isinstance(wrong, InvalidArgument):
        c.failures.warn(f"'{word}': {wrong.message}")
    elif wrong is not None:
        c.failures.add(wrong)
    missing = [*extent.missing(), *beside.missing()]
    if not damaged.keys() >= set(missing):
        c.failures.warn(f"'{word}' is incomplete: {', '.join(missing)} missing")
    if tree.is_cut:
        c.failures.warn(f"the tree of '{word}' is cut: it has more than {tree.limit}")
    found = view.row(c.namespace, image) | {
        "size": size,
        "platforms": platforms,
        "absent": [*extent.absent(), *beside.absent()],
        "missing": missing,
        "tree": tree.finished(extent, beside),
    }
    if about is not None:
        found["referrers"] = {"count": tree.referrers, "size": beside.size}
    return found


def _image(c: Context, word: str) -> Image:
    """The image called `word`, or one made of the content record of a digest."""
    target, _ = view.target_of(c, word)
    if target.digest != word:
        return c.store().images(c.namespace).get(word)
    info = c.store().content(c.namespace).info(target.digest)
    return Image(word, target, labels=info.labels, created=info.created, updated=info.updated)
