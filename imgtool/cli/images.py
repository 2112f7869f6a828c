"""Images for the commands: as rows, and as what words on the command line mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from operator import itemgetter
from typing import TYPE_CHECKING, Any, TypeVar

from imgtool.cli.output import Kind, Row, labels_text
from imgtool.cli.words import check_choice, names_from
from imgtool.clock import format_time
from imgtool.digest import Digest
from imgtool.errors import DataLoss, InvalidArgument, NotFound
from imgtool.model import Descriptor

if TYPE_CHECKING:
    from imgtool.cli.context import Context
    from imgtool.model import Image
    from imgtool.stores import ContentStore, ImageStore

T = TypeVar("T")
R = TypeVar("R")

_READS_MAX = 3

IMAGES = Kind("images", ("namespace", "name", "target", "labels", "created", "updated"))
NAME_ONLY: Mapping[str, Callable[[Row], str]] = {"NAME": itemgetter("name")}
LABELS_ONLY: Mapping[str, Callable[[Row], str]] = {"LABELS": lambda r: labels_text(r["labels"], whole=True)}


def row(namespace: str, image: Image) -> dict[str, Any]:
    """What the record of `image` says, as JSON shows it."""
    from imgtool.oci.descriptor import to_dict

    return {
        "namespace": namespace,
        "name": image.name,
        "target": to_dict(image.target),
        "labels": dict(sorted(image.labels.items())),
        "created": format_time(image.created),
        "updated": format_time(image.updated),
    }


def steady(record: T, again: Callable[[], T], look: Callable[[T], R]) -> tuple[T, R]:
    """What `look` finds of a record, and the record that it is of. Readers take no lock: where content is
    not there the record is read again, and if it is another one by now, looked at once more.

    Args:
        record: as it was read.
        again: reads it once more.

    Raises:
        NotFound: it is gone, says `again`.
        DataLoss: content of it is missing or damaged.
    """
    left = _READS_MAX
    while True:
        try:
            return record, look(record)
        except (NotFound, DataLoss) as error:
            now, left = again(), left - 1
            if now == record or not left:
                raise DataLoss(error.message, hint=error.hint) from None
            record = now


def selected(
    c: Context, images: ImageStore, words: Sequence[str], filters: Sequence[str], all: bool, zero: bool
) -> list[tuple[str, Digest | None]]:
    """The images that a command is to change: by name, by `--filter`, or `--all`, exactly one of the
    three; with the target that a filter has seen. Records that cannot be read are reported where they
    are come upon: by a filter all of them, by --all those whose names only they tell.

    Raises:
        InvalidArgument: none of the three is given, or two; a filter is empty or is no filter.
    """
    check_choice(words, filters, all, "image")
    if filters:
        return [(i.name, i.target.digest) for i in images.list(*filters, on_error=c.failures.add)]
    if all:
        return [(name, None) for name in images.names(on_error=c.failures.add)]
    return [(name, None) for name in names_from(words, zero)]


def target_of(c: Context, word: str) -> tuple[Descriptor, Mapping[str, str]]:
    """What `word` means: the target and the labels of an image, or content by its digest, without
    labels. Its media type is then what it says of itself.

    Raises:
        NotFound: there is neither; DataLoss: the record or the object cannot be read.
    """
    try:
        digest = Digest.parse(word)
    except InvalidArgument:
        image = c.store().images(c.namespace).get(word)
        return image.target, image.labels
    from imgtool.oci import blob, manifest, media, strictjson

    content = c.store().content(c.namespace)
    size = content.info(digest).size
    kind = manifest.detect(blob.read(content, digest)) if size <= strictjson.LIMIT else None
    return Descriptor(kind or media.OCTETS, digest, size), {}


def presence(content: ContentStore) -> Callable[[Digest], bool]:
    """A function that tells whether this namespace has a digest."""

    @cache
    def present(digest: Digest) -> bool:
        try:
            content.info(digest)
        except NotFound:
            return False
        return True

    return present


def needed(c: Context, target: Descriptor) -> frozenset[Digest]:
    """The digests that `target` reaches and that are here: what must still be here when a name
    for it appears. A malformed document reaches nothing.

    Raises:
        DataLoss: a document of it does not have its bytes.
    """
    from imgtool.oci import graph

    content = c.store().content(c.namespace)
    present = presence(content)
    found: set[Digest] = {target.digest} if present(target.digest) else set()
    try:
        for node in graph.walk(content, [target], present):
            if present(node.descriptor.digest):
                found.add(node.descriptor.digest)
    except InvalidArgument:
        return frozenset(found)
    return frozenset(found)
