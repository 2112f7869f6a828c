"""What a gc removes, as rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from operator import itemgetter
from typing import TYPE_CHECKING

from imgtool.cli.output import Kind, Row, size_text

if TYPE_CHECKING:
    from imgtool.stores import Garbage

GARBAGE = Kind("garbage", ("kind", "namespace", "name", "size"))


def rows(garbage: Garbage, *, total: bool = False) -> Iterator[Row]:
    """One row for each thing, in the order of removal. Records have no size: removing them frees
    nothing that counts.

    Args:
        total: end with a row for the sum.
    """
    for namespace, names in garbage.images.items():
        for name in names:
            yield _row("image", namespace, name, None)
    for namespace in sorted({*garbage.leases, *garbage.content}):
        for id in garbage.leases.get(namespace, ()):
            yield _row("lease", namespace, id, None)
        for digest in garbage.content.get(namespace, ()):
            yield _row("content", namespace, digest, None)
    for digest, size in garbage.objects.items():
        yield _row("object", "", digest, size)
    for item in garbage.litter:
        yield _row(item.kind, item.namespace, item.name, item.size)
    if total:
        size = sum(garbage.objects.values()) + sum(item.size for item in garbage.litter)
        yield _row("total", "", "", size)


def columns(*, exact: bool) -> Mapping[str, Callable[[Row], str]]:
    """The table of gc.

    Args:
        exact: sizes in bytes.
    """
    return {
        "KIND": itemgetter("kind"),
        "NAMESPACE": itemgetter("namespace"),
        "NAME": itemgetter("name"),
        "SIZE": lambda r: "-" if r["size"] is None else size_text(r["size"], exact=exact),
    }


def _row(kind: str, namespace: str, name: str, size: int | None) -> Row:
    return {"kind": kind, "namespace": namespace, "name": name, "size": size}
