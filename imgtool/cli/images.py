"""Images for the commands: as rows, and as what words on the command line mean."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, cached_property, partial
from itertools import islice
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from imgtool.cli.output import Kind, Row, labels_text, short, size_text, value
from imgtool.cli.words import names_from
from imgtool.clock import format_time
from imgtool.digest import Digest
from imgtool.errors import DataLoss, ImgtoolError, InvalidArgument, NotFound
from imgtool.model import Descriptor

if TYPE_CHECKING:
    from imgtool.cli.context import Context
    from imgtool.model import Image
    from imgtool.stores import ContentStore, ImageStore

IMAGES = Kind("images", ("namespace", "name", "target", "labels", "created", "updated"))
DEFAULT_TYPE = "application/octet-stream"


# --- commands --------------------------------------------------------------------------------------


def show(
    c: Context,
    filters: Sequence[str],
    *,
    all_namespaces: bool = False,
    sort: str = "name",
    reverse: bool = False,
    limit: int | None = None,
    whole: bool = False,
    exact: bool = False,
    zero: bool = False,
) -> None:
    """`imgtool list`. The arguments are its options; `whole` is --no-trunc, `exact` --bytes."""
    found = listed(c, filters, all_namespaces=all_namespaces)
    c.out.rows(
        IMAGES.also("size", "platforms"),
        arranged(found, sort, reverse=reverse, limit=limit),
        columns(whole=whole, exact=exact, namespaces=all_namespaces),
        zero=zero,
    )


def resolve(c: Context, words: Sequence[str], *, zero: bool = False) -> None:
    """`imgtool resolve`."""
    found = c.failures.for_each(names_from(words, zero), c.store().images(c.namespace).get)
    rows = (row(c.namespace, image) for image in found)
    c.out.rows(
        IMAGES.also("digest")._replace(key="digest"),
        (r | {"digest": r["target"]["digest"]} for r in rows),
        {"DIGEST": itemgetter("digest")},
        zero=zero,
        header=False,
    )


def exists(c: Context, words: Sequence[str], *, zero: bool = False) -> None:
    """`imgtool exists`."""
    get = c.store().images(c.namespace).get
    for _ in c.failures.for_each(names_from(words, zero), get, silent=NotFound):
        pass


# --- rows ------------------------------------------------------------------------------------------


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


def listed(c: Context, filters: Sequence[str], *, all_namespaces: bool = False) -> Iterator[dict[str, Any]]:
    """The images that match, by namespace and name, with size and platforms, which are looked up
    only where they are shown. What cannot be read is reported.
    """
    store, report = c.store(), c.failures.add
    if all_namespaces:
        namespaces = [ns.name for ns in store.namespaces.list(on_error=report)]
    else:
        namespaces = [c.namespace]
    for namespace in namespaces:
        extent = _Extent(c, namespace)
        for image in store.images(namespace).list(*filters, on_error=report):
            look = cache(partial(extent.of, image))
            yield row(namespace, image) | {
                "size": lambda look=look: look()[0],
                "platforms": lambda look=look: look()[1],
            }


class _Extent:
    """What images of one namespace take up and run on. Content is opened at the first question."""

    def __init__(self, c: Context, namespace: str) -> None:
        self._context = c
        self._namespace = namespace
        self._whole = dict[Digest, bool]()

    def of(self, image: Image) -> tuple[int | None, list[str]]:
        """Size and platforms. What cannot be read is reported, and is None and nothing."""
        from imgtool.oci import graph

        failures = self._context.failures
        try:
            reached = graph.collect(self._content, [image.target], self._is_whole)
            return reached.size(), graph.image_platforms(self._content, image.target, reached.manifests())
        except InvalidArgument as error:
            failures.warn(f"image '{image.name}': {error.message}")
        except ImgtoolError as error:
            failures.add(type(error)(f"image '{image.name}': {error.message}", hint=error.hint))
        return None, []

    @cached_property
    def _content(self) -> ContentStore:
        return self._context.store().content(self._namespace)

    def _is_whole(self, digest: Digest) -> bool:
        """Whether the namespace has a digest, and its object is there."""
        if digest not in self._whole:
            try:
                self._content.reader(digest).close()
            except (NotFound, DataLoss):
                self._whole[digest] = False
            else:
                self._whole[digest] = True
        return self._whole[digest]


def arranged(
    rows: Iterable[dict[str, Any]], key: str, *, reverse: bool, limit: int | None
) -> Iterable[dict[str, Any]]:
    """`rows` sorted by `key` where they are not yet, names breaking ties; at most `limit` of them."""
    if key != "name":
        rows = sorted(rows, key=lambda r: value(r, key) or 0 if key == "size" else r[key])
    if reverse:
        rows = reversed(list(rows))
    return islice(rows, None if limit is None else min(limit, sys.maxsize))


def columns(
    *, whole: bool = False, exact: bool = False, namespaces: bool = False
) -> Mapping[str, Callable[[Row], str]]:
    """The table of `list`: ctr's columns.

    Args:
        whole: digests and labels are not cut.
        exact: sizes in bytes.
        namespaces: with a first column for the namespace.
    """
    table: dict[str, Callable[[Row], str]] = {"NAMESPACE": itemgetter("namespace")} if namespaces else {}
    return table | {
        "REF": itemgetter("name"),
        "TYPE": lambda r: str(r["target"]["mediaType"]),
        "DIGEST": lambda r: short(r["target"]["digest"], whole=whole),
        "SIZE": lambda r: "-" if (size := value(r, "size")) is None else size_text(size, exact=exact),
        "PLATFORMS": lambda r: ",".join(value(r, "platforms")),
        "LABELS": lambda r: labels_text(r["labels"], whole=whole),
    }


NAME_ONLY: Mapping[str, Callable[[Row], str]] = {"NAME": itemgetter("name")}
LABELS_ONLY: Mapping[str, Callable[[Row], str]] = {"LABELS": lambda r: labels_text(r["labels"], whole=True)}


# --- words -----------------------------------------------------------------------------------------


def selected(
    c: Context, images: ImageStore, words: Sequence[str], filters: Sequence[str], all: bool, zero: bool
) -> list[tuple[str, Digest | None]]:
    """The images that a command is to change: by name, by `--filter`, or `--all`, exactly one of the
    three; with the target that a filter has seen. Records that cannot be read are reported where they
    are come upon: by a filter all of them, by --all those whose names only they tell.

    Raises:
        InvalidArgument: none of the three is given, or two; a filter is empty or is no filter.
    """
    if any(not f.strip() for f in filters):
        raise InvalidArgument("--filter is empty", hint="use --all if you mean every image")
    if bool(words) + bool(filters) + all > 1:
        raise InvalidArgument("names, --filter and --all exclude each other")
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
    from imgtool.oci import blob, manifest, strictjson

    content = c.store().content(c.namespace)
    size = content.info(digest).size
    kind = manifest.detect(blob.read(content, digest)) if size <= strictjson.LIMIT else None
    return Descriptor(kind or DEFAULT_TYPE, digest, size), {}


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
