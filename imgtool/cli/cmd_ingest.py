"""`imgtool ingest`: files, streams, image layouts and archives into the store."""

from __future__ import annotations

from collections.abc import Iterator
from operator import itemgetter
from typing import Annotated, Any

import typer

from imgtool.cli import options as o
from imgtool.cli.context import Context
from imgtool.oci.media import OCTETS


def run(
    c: Context,
    words: Annotated[
        list[str],
        o.several(
            "SRC",
            "A file, - for stdin, an archive, a layout's directory; or oci:DIR[:REF], "
            "oci-archive:FILE[:REF], docker-archive:FILE[:REF].",
        ),
    ],
    labels: o.Labels,
    names: Annotated[
        list[str],
        typer.Option(
            "-t",
            "--name",
            metavar="NAME",
            default_factory=list,
            show_default=False,
            help="What to call it, instead of what the source says; may be repeated.",
        ),
    ],
    as_: Annotated[
        str | None,
        typer.Option(
            "--as",
            metavar="KIND",
            show_default=False,
            help="What each SRC is: file, oci, oci-archive, docker-archive.",
        ),
    ] = None,
    media_type: Annotated[
        str,
        typer.Option("--media-type", metavar="TYPE", help="Of plain files."),
    ] = OCTETS,
    expected_digest: o.ExpectedDigest = None,
    expected_size: o.ExpectedSize = None,
    algorithm: o.Algorithm = "blake3",
    ref: o.Ref = None,
    platform: o.Platform = None,
    if_absent: Annotated[
        bool, typer.Option("--if-absent", help="A name that exists is left as it is, and is no failure.")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="A name that has another target gets this one.")
    ] = False,
    lease: o.Lease = None,
    files0_from: Annotated[
        str | None,
        typer.Option(
            "--files0-from",
            metavar="FILE",
            show_default=False,
            help="Sources that end with NUL, from FILE or - for stdin.",
        ),
    ] = None,
    zero: o.Zero = False,
    dry_run: o.DryRun = False,
) -> None:
    """Take files, streams, layouts and archives into the store, and print the digest and name of each
    image.
    """
    from imgtool.cli.ingesting import wanted_of, words_of
    from imgtool.cli.leases import usable
    from imgtool.cli.output import Kind
    from imgtool.cli.progress import Progress
    from imgtool.ops import sources
    from imgtool.ops.ingest import Ingest

    words = words_of(words, files0_from)
    wanted = wanted_of(
        words=words,
        names=names,
        labels=labels,
        media_type=media_type,
        expected_digest=expected_digest,
        expected_size=expected_size,
        algorithm=algorithm,
        ref=ref,
        lease=usable(c, lease),
        platform=platform,
        if_absent=if_absent,
        replace=replace,
    )
    with Progress(c, "ingesting") as progress:
        ingest = Ingest(
            c.store(),
            c.namespace,
            wanted,
            on_error=c.failures.add,
            say=c.say,
            progress=progress.add,
            dry_run=dry_run,
        )

        def rows() -> Iterator[dict[str, Any]]:
            for done in ingest.run(c.failures.for_each(words, lambda word: sources.parse(word, as_))):
                yield {"digest": done.digest, "name": done.name, "size": done.size}

        c.out.rows(
            Kind("images", ("digest", "name", "size"), "digest" if c.quiet else "name"),
            rows(),
            {"DIGEST": itemgetter("digest"), "NAME": itemgetter("name")},
            zero=zero,
            header=False,
        )
