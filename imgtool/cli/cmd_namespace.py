"""`imgtool namespace`: list, create, label, rm."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from imgtool.cli import options as o
from imgtool.cli.context import Context
from imgtool.cli.output import Kind
from imgtool.cli.words import label_paths, names_from, pairs

if TYPE_CHECKING:
    from imgtool.cli.output import Row
    from imgtool.model import Namespace

_NAMESPACES = Kind("namespaces", ("name", "labels", "created"))
_NAMES = Kind("namespaces", ("name",))
_NAME_ONLY: Mapping[str, Callable[[Row], str]] = {"NAME": itemgetter("name")}


def run_list(c: Context, filters: o.FilterArguments, zero: o.Zero = False) -> None:
    """List namespaces."""
    from imgtool.cli.output import labels_text

    found = c.store().namespaces.list(*filters, on_error=c.failures.add)
    c.out.rows(
        _NAMESPACES,
        map(_row, found),
        {**_NAME_ONLY, "LABELS": lambda r: labels_text(r["labels"], whole=True)},
        zero=zero,
    )


def run_create(
    c: Context, name: o.Name, words: o.LabelArguments, labels: o.Labels, dry_run: o.DryRun = False
) -> None:
    """Create a namespace, and print its name."""
    from imgtool.model import Namespace

    c.out.check(_NAMESPACES)
    new = c.records(dry_run=dry_run).namespaces.create(Namespace(name, pairs([*labels, *words])))
    c.out.rows(_NAMESPACES, [_row(new)], _NAME_ONLY, header=False)


def run_label(
    c: Context,
    name: o.Name,
    labels: o.LabelArguments,
    replace_all: o.ReplaceAll = False,
    dry_run: o.DryRun = False,
) -> None:
    """Set and remove labels of a namespace, and print all that it has then. An absent one is created."""
    from imgtool.cli.images import LABELS_ONLY
    from imgtool.model import Namespace

    c.out.check(_NAMESPACES)
    paths, new = label_paths(labels, replace_all)
    namespace = c.records(dry_run=dry_run).namespaces.update(Namespace(name, new), *paths)
    c.out.rows(_NAMESPACES, [_row(namespace)], LABELS_ONLY, header=False)


def run_rm(
    c: Context,
    names: o.Names,
    zero: o.Zero = False,
    ignore_missing: o.IgnoreMissing = False,
    dry_run: o.DryRun = False,
) -> None:
    """Remove namespaces that have no images and no content, and print their names. Their leases and
    unfinished writes go with them.
    """
    from imgtool.errors import NotFound

    namespaces = c.records(dry_run=dry_run).namespaces

    def remove(name: str) -> dict[str, str]:
        namespaces.delete(name)
        return {"name": name}

    removed = c.failures.for_each(
        names_from(names, zero), remove, ignore=NotFound if ignore_missing else None
    )
    c.out.rows(_NAMES, removed, _NAME_ONLY, zero=zero, header=False)


def _row(namespace: Namespace) -> dict[str, Any]:
    from imgtool.clock import format_time

    return {
        "name": namespace.name,
        "labels": dict(sorted(namespace.labels.items())),
        "created": format_time(namespace.created),
    }
