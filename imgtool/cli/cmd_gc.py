"""`imgtool gc`: removes what no root reaches, and the images that a policy does not keep."""

from __future__ import annotations

from typing import Annotated

import typer

from imgtool.cli import options as o
from imgtool.cli.context import Context


def run(
    c: Context,
    keep_tag: Annotated[
        list[str],
        typer.Option(
            "--keep-tag",
            metavar="RE",
            default_factory=list,
            show_default=False,
            help="Images stay whose tag matches; may be repeated.",
        ),
    ],
    filters: Annotated[
        list[str],
        typer.Option(
            "--filter",
            metavar="FILTER",
            default_factory=list,
            show_default=False,
            help="The policy sees those that match; may be repeated.",
        ),
    ],
    keep_last: Annotated[
        int | None,
        typer.Option(
            "--keep-last", metavar="N", min=0, show_default=False, help="The newest N of each group stay."
        ),
    ] = None,
    keep_within: Annotated[
        str | None,
        typer.Option(
            "--keep-within", metavar="DURATION", show_default=False, help="Younger images stay: 30d, 12h."
        ),
    ] = None,
    group_by: Annotated[
        str | None,
        typer.Option(
            "--group-by",
            metavar="WHAT",
            show_default=False,
            help="repository (the default), namespace, none or label:KEY.",
        ),
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option("--policy", metavar="FILE", show_default=False, help="What stays, as TOML."),
    ] = None,
    all_namespaces: o.AllNamespaces = False,
    auto: Annotated[bool, typer.Option("--auto", help="Only if a gc is due; else return at once.")] = False,
    why: Annotated[
        str | None,
        typer.Option(
            "--why",
            metavar="NAME|DIGEST",
            show_default=False,
            help="Show what keeps it, or since when it is garbage.",
        ),
    ] = None,
    dry_run: o.DryRun = False,
    bytes: o.Bytes = False,
    zero: o.Zero = False,
) -> None:
    """Remove all content that no image, lease or gc.root label reaches, in every namespace, and what
    writes that nobody will finish have left. Print what was removed.

    With --keep-last, --keep-within, --keep-tag or --policy, the images of the namespace that none of
    these keeps are deleted first. The newest of each group stays, unless --keep-last 0 is given.

    SIZE is what becomes free; the table ends with the total. Where a record or manifest cannot be
    read, or an object is missing, nothing is removed, and the exit status is 6.
    """
    from imgtool.cli import gc

    retention = gc.Retention(keep_last, keep_within, keep_tag, group_by, policy, filters, all_namespaces)
    if why is not None:
        from imgtool.cli import gc_why

        flags = {"--auto": auto, "--dry-run": dry_run, "--bytes": bytes}
        others = [*retention.given(), *(name for name, is_given in flags.items() if is_given)]
        gc_why.show(c, why, others, zero=zero)
    else:
        gc.collect(c, retention, auto=auto, dry_run=dry_run, exact=bytes, zero=zero)
