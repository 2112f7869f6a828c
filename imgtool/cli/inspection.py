"""An image as a whole: its record, and everything that its target reaches."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from imgtool.cli import images as view
from imgtool.cli.contents import digest_of
from imgtool.cli.output import Row, json_text
from imgtool.errors import DataLoss, ImgtoolError, InvalidArgument, NotFound
from imgtool.model import Descriptor, Image
from imgtool.oci import blob, graph
from imgtool.oci.descriptor import to_dict

if TYPE_CHECKING:
    from imgtool.cli.context import Context
    from imgtool.digest import Digest


_WHOLE = view.IMAGES.also("size", "platforms", "absent", "missing", "tree")
_UNFOLDED_MAX = 16 * 2**20  # bytes of documents that a tree shows


def show(c: Context, names: Sequence[str], *, zero: bool) -> None:
    """Print what `inspect` finds of each name: as JSON for a person, unless another format is asked
    for. Those that fail are reported.
    """
    rows = c.failures.for_each(names, lambda word: inspect(c, word))
    if c.format == "table" and not (c.quiet or zero):
        c.out.write(json_text({"schema": 1, "images": list(rows)}, indent=2) + "\n")
    else:
        c.out.rows(_WHOLE, rows, {}, zero=zero)


def show_raw(c: Context, names: Sequence[str]) -> None:
    """Write the manifest or index of each name to stdout, whole and right or not at all."""
    content = c.store().content(c.namespace)
    for raw in c.failures.for_each(names, lambda word: blob.read(content, digest_of(c, word))):
        c.out.stream()(raw)


def inspect(c: Context, word: str) -> Row:
    """The record of an image, or of content by its digest, which then is its name; and

    `size`: the bytes that are there, each content once; `platforms`; `absent`: digests that are not
    there by choice; `missing`: digests that are not there and should be; `tree`: the target, and in
    `children` what it refers to, each document unfolded where it stands first, until they have
    16 MiB together: those behind are only named, with `cut`.

    What is damaged or malformed is reported, and the rest told.

    Raises:
        NotFound: there is neither.
        DataLoss: the record cannot be read, or nothing is what the digest names.
    """
    content = c.store().content(c.namespace)
    damaged: dict[Digest, DataLoss] = {}

    def look(image: Image) -> tuple[graph.Extent, _Tree]:
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

        extent, tree = graph.Extent(), _Tree(image.target)
        for node in graph.walk(content, [image.target], present):
            extent.add(node)
            tree.add(node)
        return extent, tree

    image = _image(c, word)
    extent, tree, size, platforms = graph.Extent(), _Tree(image.target), None, list[str]()
    wrong: ImgtoolError | None = None
    try:
        image, (extent, tree) = view.steady(image, lambda: _image(c, word), look)
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
    missing = extent.missing()
    if not damaged.keys() >= set(missing):
        c.failures.warn(f"'{word}' is incomplete: {', '.join(missing)} missing")
    if tree.is_cut:
        c.failures.warn(
            f"the tree of '{word}' is cut: it has more than {_UNFOLDED_MAX >> 20} MiB of documents"
        )
    return view.row(c.namespace, image) | {
        "size": size,
        "platforms": platforms,
        "absent": extent.absent(),
        "missing": missing,
        "tree": tree.finished(extent),
    }


def _image(c: Context, word: str) -> Image:
    """The image called `word`, or one made of the content record of a digest."""
    target, _ = view.target_of(c, word)
    if target.digest != word:
        return c.store().images(c.namespace).get(word)
    info = c.store().content(c.namespace).info(target.digest)
    return Image(word, target, labels=info.labels, created=info.created, updated=info.updated)


class _Tree:
    """The descriptors that a walk meets, each under the document that lists it."""

    def __init__(self, target: Descriptor) -> None:
        self._root = to_dict(target)
        self._folded = {target.digest: self._root}
        self._bytes = 0

    @property
    def is_cut(self) -> bool:
        """Whether it has more documents than it shows."""
        return self._bytes > _UNFOLDED_MAX

    def add(self, node: graph.Node) -> None:
        """Unfold the document of `node`, if it is one. Nodes come in the order of the walk."""
        manifest = node.manifest
        here = self._folded.pop(node.descriptor.digest, None) if manifest else None
        if manifest is None or here is None:
            return
        self._bytes += node.descriptor.size
        if self.is_cut:
            here["cut"] = True
            return
        if manifest.artifact_type:
            here["artifactType"] = manifest.artifact_type
        if manifest.subject:
            here["subject"] = to_dict(manifest.subject)
        children = [(child.digest, to_dict(child)) for child in manifest.children()]
        here["children"] = [branch for _, branch in children]
        # Of all places of a digest the walk comes next to the one met last; of siblings, to the first.
        self._folded.update(reversed(children))

    def finished(self, extent: graph.Extent) -> dict[str, Any]:
        """The tree, with what is `absent` marked."""
        gone = dict.fromkeys(map(str, extent.absent()), "by choice")
        gone |= dict.fromkeys(map(str, extent.missing()), "missing")
        todo = [self._root] if gone else []
        while todo:
            branch = todo.pop()
            if branch["digest"] in gone:
                branch["absent"] = gone[branch["digest"]]
            todo += branch.get("children", ())
        return self._root
