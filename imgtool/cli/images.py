"""Images as rows: what `list` and the commands that change images show of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import islice
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from imgtool.cli.output import Row, labels_text, short, size_text, value
from imgtool.clock import format_time
from imgtool.errors import ImgtoolError

if TYPE_CHECKING:
    from imgtool.cli.context import Context
    from imgtool.model import Image
    from imgtool.stores import ContentStore


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
        content = store.content(namespace)
        for image in store.images(namespace).list(*filters, on_error=report):
            look = cache(_lookup(image, content, report))
            yield row(namespace, image) | {
                "size": lambda look=look: look()[0],
                "platforms": lambda look=look: look()[1],
            }


def _lookup(
    image: Image, content: ContentStore, report: Callable[[ImgtoolError], None]
) -> Callable[[], tuple[int | None, list[str]]]:
    def look() -> tuple[int | None, list[str]]:
        from imgtool.oci import graph

        try:
            return graph.present_size(content, image.target), graph.platforms(content, image.target)
        except ImgtoolError as error:
            report(type(error)(f"image '{image.name}': {error.message}", hint=error.hint))
            return None, []

    return look


def arranged(
    rows: Iterable[dict[str, Any]], key: str, *, reverse: bool, limit: int | None
) -> Iterable[dict[str, Any]]:
    """`rows` sorted by `key` where they are not yet, names breaking ties; at most `limit` of them."""
    if key != "name":
        rows = sorted(rows, key=lambda r: value(r, key) or 0 if key == "size" else r[key])
    if reverse:
        rows = reversed(list(rows))
    return islice(rows, limit)


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
