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
    from imgtool.oci.graph import Graph


_WHOLE = view.IMAGES.also("size", "platforms", "absent", "missing", "tree")


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
    `children` what it refers to, each document unfolded where it stands first.

    What is damaged or malformed is reported, and the rest told.

    Raises:
        NotFound: there is neither.
        DataLoss: the record cannot be read, or nothing is what the digest names.
    """
    content = c.store().content(c.namespace)
    damaged: dict[Digest, DataLoss] = {}

    def look(image: Image) -> graph.Graph:
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

        return graph.collect(content, [image.target], present)

    image = _image(c, word)
    found, size, platforms = graph.Graph(()), None, list[str]()
    wrong: ImgtoolError | None = None
    try:
        image, found = view.steady(image, lambda: _image(c, word), look)
        size = found.size()
        platforms = [] if damaged else graph.image_platforms(content, image.target)
    except (InvalidArgument, DataLoss) as error:
        wrong = error
    for loss in damaged.values():
        c.failures.add(loss)
    if isinstance(wrong, InvalidArgument):
        c.failures.warn(f"'{word}': {wrong.message}")
    elif wrong is not None:
        c.failures.add(wrong)
    missing = found.missing()
    if not damaged.keys() >= set(missing):
        c.failures.warn(f"'{word}' is incomplete: {', '.join(missing)} missing")
    return view.row(c.namespace, image) | {
        "size": size,
        "platforms": platforms,
        "absent": found.absent(),
        "missing": missing,
        "tree": _tree(image.target, found),
    }


def _image(c: Context, word: str) -> Image:
    """The image called `word`, or one made of the content record of a digest."""
    target, _ = view.target_of(c, word)
    if target.digest != word:
        return c.store().images(c.namespace).get(word)
    info = c.store().content(c.namespace).info(target.digest)
    return Image(word, target, labels=info.labels, created=info.created, updated=info.updated)


def _tree(target: Descriptor, found: Graph) -> dict[str, Any]:
    documents = {node.descriptor.digest: node.manifest for node in found.nodes if node.manifest}
    gone = {**dict.fromkeys(found.absent(), "by choice"), **dict.fromkeys(found.missing(), "missing")}

    def branch(d: Descriptor) -> dict[str, Any]:
        return to_dict(d) | ({"absent": gone[d.digest]} if d.digest in gone else {})

    tree = branch(target)
    todo = [(target.digest, tree)]
    while todo:
        digest, here = todo.pop()
        manifest = documents.pop(digest, None)
        if manifest is None:
            continue
        if manifest.artifact_type:
            here["artifactType"] = manifest.artifact_type
        if manifest.subject:
            here["subject"] = to_dict(manifest.subject)
        children = [(child.digest, branch(child)) for child in manifest.children()]
        here["children"] = [child for _, child in children]
        todo += reversed(children)
    return tree
