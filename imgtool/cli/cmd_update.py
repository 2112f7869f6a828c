"""`imgtool update`: labels, annotations, target and name of images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from imgtool.cli import options as o
from imgtool.cli.context import Context
from imgtool.cli.words import digest_or_none

if TYPE_CHECKING:
    from imgtool.cli.output import Row
    from imgtool.digest import Digest


def run(
    c: Context,
    names: o.Names,
    labels: o.Labels,
    annotations: Annotated[
        list[str],
        typer.Option(
            "--annotation",
            metavar="KEY=VALUE",
            default_factory=list,
            show_default=False,
            help="Set an annotation of the target; KEY= removes it.",
        ),
    ],
    filters: o.Filters,
    replace_all: o.ReplaceAll = False,
    target: Annotated[
        str | None,
        typer.Option("--target", metavar="DIGEST|NAME", show_default=False, help="Point elsewhere."),
    ] = None,
    rename: Annotated[
        str | None, typer.Option("--rename", metavar="NEW", show_default=False, help="Change the name.")
    ] = None,
    lease: Annotated[
        str | None,
        typer.Option(
            "--lease",
            metavar="ID",
            show_default=False,
            help="A lease that is to hold the new target as well.",
        ),
    ] = None,
    if_digest: o.IfDigest = None,
    all: o.All = False,
    zero: o.Zero = False,
    dry_run: o.DryRun = False,
) -> None:
    """Change images, and print each change as NAME FIELD: OLD -> NEW."""
    from imgtool.cli import changes
    from imgtool.cli.images import IMAGES, selected

    change = changes.Change(
        c,
        labels,
        annotations,
        target,
        replace_all=replace_all,
        rename=rename,
        lease=lease,
        dry_run=dry_run,
    )
    images, expected = c.store().images(c.namespace), digest_or_none(if_digest)
    chosen = selected(c, images, names, filters, all, zero)
    change.check_count(len(chosen))

    def update(choice: tuple[str, Digest | None]) -> Row:
        name, seen = choice
        return change.apply(name, expected or seen)

    c.out.rows(
        IMAGES.also("changes"),
        c.failures.for_each(chosen, update),
        changes.CHANGES,
        zero=zero,
        header=False,
    )
