"""`imgtool du`: who holds the space, as rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from imgtool.cli.output import Kind, Row, size_text
from imgtool.disk.extent import measure
from imgtool.errors import NotFound
from imgtool.ops.retention import NAMESPACE
from imgtool.ops.usage import Part, Survey

if TYPE_CHECKING:
    from imgtool.cli.context import Context

_USAGES = Kind("usages", ("kind", "namespace", "name", "unique", "shared", "total"))


def show(
    c: Context,
    names: Sequence[str] | None,
    *,
    by: str,
    all_namespaces: bool,
    sort: str,
    reverse: bool,
    exact: bool,
    zero: bool,
) -> None:
    """Print what images, repositories or namespaces hold, and then what the store holds as a whole. What
    cannot be read is reported.

    Args:
        names: of those to print; None is all, of the namespace or with `all_namespaces` of every one.
        by: as for `Survey.parts`; namespaces are all, whatever the namespace.
        sort: `name`, which is by namespace and name; `unique`, `shared` or `total`, names breaking ties.
        reverse: last first.
        exact: sizes in bytes.
        zero: only names, ended by NUL.
    """

    def rows() -> Iterator[Row]:
        survey = Survey(c.store(), on_error=c.failures.add)
        parts: Iterable[Part] = survey.parts(by)
        if not all_namespaces and by != NAMESPACE:
            parts = (part for part in parts if part.namespace == c.namespace)
        if names is not None:
            parts = _named(c, list(parts), names, by)
        if sort != "name":
            parts = sorted(parts, key=lambda part: getattr(part, sort) or 0)
        for part in reversed(list(parts)) if reverse else parts:
            yield {"kind": by, **part._asdict()}
        if names is None and c.out.shows("total", zero=zero) and (c.json or c.format == "table"):
            yield from _store(c, survey)

    c.out.rows(_USAGES, rows(), _columns(exact=exact), zero=zero)


def _named(c: Context, parts: Sequence[Part], names: Sequence[str], by: str) -> Iterable[Part]:
    """Those of `parts` that have one of `names`, as often as it is given; one that none has is reported."""
    there = {part.name for part in parts}
    for name in names:
        if name not in there:
            c.failures.add(NotFound(f"{by} '{name}' not found"))
    wanted = Counter(names)
    return [part for part in parts for _ in range(wanted[part.name])]


def _store(c: Context, survey: Survey) -> Iterator[Row]:
    """The lines on the whole store."""
    totals, extent = survey.totals(), measure(c.store().engine.layout)
    figures: dict[str, Any] = totals._asdict()
    figures["unfinished"] = max(0, extent.unfinished - totals.litter)
    figures["records"] = extent.records
    for name, total in figures.items():
        yield {"kind": "store", "namespace": "", "name": name, "unique": None, "shared": None, "total": total}


def _columns(*, exact: bool) -> Mapping[str, Callable[[Row], str]]:
    def size(field: str) -> Callable[[Row], str]:
        return lambda r: "-" if r[field] is None else size_text(r[field], exact=exact)

    return {
        "KIND": itemgetter("kind"),
        "NAMESPACE": itemgetter("namespace"),
        "NAME": itemgetter("name"),
        "UNIQUE": size("unique"),
        "SHARED": size("shared"),
        "TOTAL": size("total"),
    }
