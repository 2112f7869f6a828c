"""`imgtool lease`: list, create, label, add, drop, resources, rm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from imgtool.cli import options as o
from imgtool.cli.context import Context

if TYPE_CHECKING:
    from imgtool.cli.output import Row

Id = Annotated[str, typer.Argument(metavar="ID")]
Resources = Annotated[
    list[str], o.several("RESOURCE", "A digest, or an image for its target's; - reads stdin.")
]
Expires = Annotated[
    str | None,
    typer.Option(
        "-x",
        "--expires",
        "--expiration",
        metavar="DURATION",
        show_default=False,
        help="How long from now it holds, such as 24h or 30d; 0 is for ever.",
    ),
]
Type = Annotated[
    str,
    typer.Option("--type", metavar="TYPE", help="Of RESOURCE: content, ingests, images, snapshots/NAME."),
]


def run_list(
    c: Context,
    filters: o.FilterArguments,
    all_namespaces: o.AllNamespaces = False,
    no_trunc: o.NoTrunc = False,
    zero: o.Zero = False,
) -> None:
    """List leases. One whose time is up is there until gc."""
    from imgtool.cli import leases as view

    c.out.rows(
        view.LEASES,
        view.listed(c, filters, all_namespaces=all_namespaces),
        view.columns(whole=no_trunc, namespaces=all_namespaces),
        zero=zero,
    )


def run_create(
    c: Context,
    words: o.LabelArguments,
    labels: o.Labels,
    id: Annotated[
        str | None,
        typer.Option("--id", metavar="ID", show_default=False, help="What to call it; else one is made up."),
    ] = None,
    expires: Expires = None,
    flat: Annotated[
        bool, typer.Option("--flat", help="What its resources refer to is not kept with them.")
    ] = False,
    dry_run: o.DryRun = False,
) -> None:
    """Create a lease, and print its id. Unless told otherwise it ends after 24 hours."""
    from imgtool.cli import leases as view
    from imgtool.model import Lease
    from imgtool.ops.hold import new_id

    c.out.check(view.LEASES)
    new = Lease(new_id() if id is None else id, view.labels_of([*labels, *words], expires, flat=flat))
    new = c.records(dry_run=dry_run).leases(c.namespace).create(new)
    c.out.rows(view.LEASES, [view.row(c.namespace, new)], view.ID_ONLY, header=False)


def run_label(
    c: Context,
    id: Id,
    labels: o.LabelArguments,
    replace_all: o.ReplaceAll = False,
    expires: Expires = None,
    dry_run: o.DryRun = False,
) -> None:
    """Set and remove labels of a lease, renew it, and print all labels that it has then."""
    from imgtool.cli import leases as view
    from imgtool.cli.images import LABELS_ONLY
    from imgtool.cli.words import label_paths
    from imgtool.model import Lease

    c.out.check(view.LEASES)
    paths, new = label_paths([*labels, *view.expiring(labels, expires)], replace_all)
    lease = c.records(dry_run=dry_run).leases(c.namespace).update(Lease(id, new), *paths)
    c.out.rows(view.LEASES, [view.row(c.namespace, lease)], LABELS_ONLY, header=False)


def run_add(
    c: Context,
    id: Id,
    resources: Resources,
    type: Type = "content",
    zero: o.Zero = False,
    dry_run: o.DryRun = False,
) -> None:
    """Make a lease hold what is there, and print each resource. No gc comes between."""
    from imgtool.cli import leases as view

    c.out.check(view.RESOURCES, zero=zero)
    held = view.add(c, id, type, resources, zero=zero, dry_run=dry_run)
    c.out.rows(view.RESOURCES, held, view.ID_ONLY, zero=zero, header=False)


def run_drop(
    c: Context,
    id: Id,
    resources: Resources,
    type: Type = "content",
    zero: o.Zero = False,
    ignore_missing: o.IgnoreMissing = False,
    dry_run: o.DryRun = False,
) -> None:
    """Make a lease let go of resources, and print each. What nothing else keeps is then gc's."""
    from imgtool.cli import leases as view

    c.out.check(view.RESOURCES, zero=zero)
    gone = view.drop(c, id, type, resources, zero=zero, ignore_missing=ignore_missing, dry_run=dry_run)
    c.out.rows(view.RESOURCES, gone, view.ID_ONLY, zero=zero, header=False)


def run_resources(
    c: Context,
    ids: o.Ids,
    type: Annotated[
        str | None, typer.Option("--type", metavar="TYPE", show_default=False, help="Only those of TYPE.")
    ] = None,
    zero: o.Zero = False,
) -> None:
    """List what leases hold."""
    from itertools import chain

    from imgtool.cli import leases as view
    from imgtool.cli.words import names_from
    from imgtool.names import check_resource_type

    if type is not None:
        check_resource_type(type)
    found = c.failures.for_each(names_from(ids, zero, "id"), c.store().leases(c.namespace).get)
    rows = chain.from_iterable(view.resource_rows(c.namespace, lease, type) for lease in found)
    c.out.rows(view.RESOURCES, rows, view.RESOURCE_COLUMNS, zero=zero)


def run_rm(
    c: Context,
    ids: o.Ids,
    filters: o.Filters,
    all: o.All = False,
    zero: o.Zero = False,
    ignore_missing: o.IgnoreMissing = False,
    sync: o.Sync = False,
    dry_run: o.DryRun = False,
) -> None:
    """Remove leases, and print their ids. What nothing else keeps stays until gc."""
    from imgtool.cli import gc
    from imgtool.cli import leases as view
    from imgtool.errors import NotFound

    leases = c.records(dry_run=dry_run).leases(c.namespace)

    def remove(id: str) -> Row:
        leases.delete(id)
        return {"namespace": c.namespace, "id": id}

    removed = c.failures.for_each(
        view.selected(c, leases, ids, filters, all, zero), remove, ignore=NotFound if ignore_missing else None
    )
    c.out.rows(view.IDS, removed, view.ID_ONLY, zero=zero, header=False)
    gc.after(c, sync=sync, dry_run=dry_run)
