"""`imgtool export`: images to an archive or a layout's directory."""

from __future__ import annotations

from operator import itemgetter
from typing import Annotated

import typer

from imgtool.cli import options as o
from imgtool.cli.context import Context


def run(
    c: Context,
    words: o.Names,
    output: Annotated[
        str, typer.Option("-o", "--output", metavar="FILE", help="What to write, and replace; - is stdout.")
    ],
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="KIND",
            show_default=False,
            help="oci-archive, docker-archive, or oci (a directory).",
        ),
    ] = None,
    platform: o.Platform = None,
    zero: o.Zero = False,
    dry_run: o.DryRun = False,
) -> None:
    """Write images to one archive or image layout that other tools read, and print digest and name of
    each.

    Without --to it is an oci-archive, or a layout where FILE is a directory or ends with a slash.
    """
    from imgtool.cli.output import Kind
    from imgtool.cli.progress import Progress
    from imgtool.cli.words import names_from
    from imgtool.oci import platforms
    from imgtool.ops.export import STDOUT, Export, wanted
    from imgtool.ops.export_plan import Exported

    asked = wanted(output, to, platforms.parse(platform) if platform else None, dry_run=dry_run)
    kind = Kind("images", Exported._fields, "digest" if c.quiet else "name")
    if asked.path != STDOUT or dry_run:
        c.out.check(kind, zero=zero)
    names = names_from(words, zero)
    with Progress(c, "exporting") as progress:
        export = Export(
            c.store(),
            c.namespace,
            asked,
            stdout=c.out.stream(),
            on_error=c.failures.add,
            say=c.say,
            warn=c.failures.warn,
            progress=progress.add,
        )
        done = export.run(names)
    if asked.path != STDOUT or dry_run:
        c.out.rows(
            kind,
            map(Exported._asdict, done),
            {"DIGEST": itemgetter("digest"), "NAME": itemgetter("name")},
            zero=zero,
            header=False,
        )
