"""`list`, `resolve` and `exists`: what shells call in loops, and what `imgtool.cli.fast` runs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from imgtool.cli.images import IMAGES, row, steady
from imgtool.cli.output import NAMESPACE, Row, labels_text, short, size_text
from imgtool.cli.words import names_from
from imgtool.errors import DataLoss, ImgtoolError, InvalidArgument, NotFound

if TYPE_CHECKING:
    from imgtool.cli.context import Context
    from imgtool.digest import Digest
    from imgtool.model import Image
    from imgtool.oci.manifest import Manifest
    from imgtool.stores import ContentStore

_LOOKED_UP = ("size", "platforms")
_KEPT_MAX = 2**20  # bytes of documents that are kept so as not to be read twice


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
    looked = sort == "size" or any(c.out.shows(field, zero=zero) for field in _LOOKED_UP)
    found = listed(c, filters, all_namespaces=all_namespaces, sort=sort, reverse=reverse, looked_up=looked)
    c.out.rows(
        IMAGES.also(*_LOOKED_UP),
        islice(found, None if limit is None else min(limit, sys.maxsize)),
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


def listed(
    c: Context,
    filters: Sequence[str],
    *,
    all_namespaces: bool = False,
    sort: str = "name",
    reverse: bool = False,
    looked_up: bool = True,
) -> Iterator[dict[str, Any]]:
    """The rows of the images that match. What cannot be read is reported.

    Args:
        sort: `name`, which is by namespace and name; `created`, `updated` or `size`, names breaking ties.
        reverse: last first.
        looked_up: with size and platforms, for which manifests are read: as late as possible.
    """
    found: Iterable[tuple[_Looker, Image]] = _found(c, filters, all_namespaces)
    by_size = sort == "size"
    if not by_size:
        if sort != "name":
            found = sorted(found, key=lambda pair: getattr(pair[1], sort))
        if reverse:
            found = reversed(list(found))
    rows = (made for looker, image in found if (made := looker.row(image, looked_up)) is not None)
    if not by_size:
        return rows
    ordered = sorted(rows, key=lambda r: r["size"] or 0)
    return reversed(ordered) if reverse else iter(ordered)


def _found(c: Context, filters: Sequence[str], all_namespaces: bool) -> Iterator[tuple[_Looker, Image]]:
    """The images that match, by namespace and name, each with what tells more of it."""
    store, report = c.store(), c.failures.add
    for namespace in c.namespaces(all_namespaces):
        looker = _Looker(c, namespace, filters)
        for image in store.images(namespace).list(*filters, on_error=report):
            yield looker, image


class _Looker:
    """Makes rows of images in one namespace. Content is opened only where it is asked for."""

    def __init__(self, c: Context, namespace: str, filters: Sequence[str]) -> None:
        self._context = c
        self._namespace = namespace
        self._filters = filters
        self._whole: dict[Digest, bool] = {}

    def row(self, image: Image, looked_up: bool) -> dict[str, Any] | None:
        """The row of `image`; None where it has been deleted since it was listed, or does not match any
        more. With `looked_up` it has size and platforms; what cannot be read is reported, and is None
        and nothing.
        """
        if not looked_up:
            return row(self._namespace, image)
        failures, name, before = self._context.failures, image.name, image
        found: tuple[int | None, list[str]] = None, []
        images = self._context.store().images(self._namespace)
        try:
            image, found = steady(image, lambda: images.get(name), self._look)
        except NotFound:
            return None
        except InvalidArgument as error:
            failures.warn(f"image '{name}': {error.message}")
        except ImgtoolError as error:
            failures.add(type(error)(f"image '{name}': {error.message}", hint=error.hint))
        if image is not before and not self._matches(image):
            return None
        return row(self._namespace, image) | dict(zip(_LOOKED_UP, found, strict=True))

    def _look(self, image: Image) -> tuple[int | None, list[str]]:
        """Size and platforms.

        Raises:
            NotFound, DataLoss: content is missing or damaged; InvalidArgument: a document is malformed.
        """
        from imgtool.oci import graph

        try:
            extent = graph.Extent()
            opened: dict[tuple[Digest, str], Manifest] = {}
            kept = 0
            for node in graph.walk(self._content, [image.target], self._is_whole):
                extent.add(node)
                if node.manifest and kept <= _KEPT_MAX:
                    kept += node.descriptor.size
                    opened[node.descriptor.digest, node.descriptor.media_type] = node.manifest
            return extent.size, graph.image_platforms(self._content, image.target, opened)
        except (NotFound, DataLoss):
            self._whole.clear()  # others have removed content since it was seen
            raise

    def _matches(self, image: Image) -> bool:
        from imgtool.filters import compile, image_fields

        return compile(self._filters).matches(image_fields(image))

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


def columns(
    *, whole: bool = False, exact: bool = False, namespaces: bool = False
) -> Mapping[str, Callable[[Row], str]]:
    """The table of `list`: ctr's columns.

    Args:
        whole: digests and labels are not cut.
        exact: sizes in bytes.
        namespaces: with a first column for the namespace.
    """
    return {
        **(NAMESPACE if namespaces else {}),
        "REF": itemgetter("name"),
        "TYPE": lambda r: str(r["target"]["mediaType"]),
        "DIGEST": lambda r: short(r["target"]["digest"], whole=whole),
        "SIZE": lambda r: "-" if r["size"] is None else size_text(r["size"], exact=exact),
        "PLATFORMS": lambda r: ",".join(r["platforms"]),
        "LABELS": lambda r: labels_text(r["labels"], whole=whole),
    }
