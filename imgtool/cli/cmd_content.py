"""`imgtool content`: list, info, get, ingest, label, rm, active, abort."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from imgtool.cli import options as o
from imgtool.cli.context import Context

if TYPE_CHECKING:
    from imgtool.cli.output import Row


def run_list(
    c: Context,
    filters: o.FilterArguments,
    all_namespaces: o.AllNamespaces = False,
    no_trunc: o.NoTrunc = False,
    bytes: o.Bytes = False,
    zero: o.Zero = False,
) -> None:
    """List content: what the namespace has a record of."""
    from imgtool.cli import contents

    c.out.rows(
        contents.CONTENT,
        contents.listed(c, filters, all_namespaces=all_namespaces),
        contents.columns(whole=no_trunc, exact=bytes, namespaces=all_namespaces),
        zero=zero,
    )


def run_info(c: Context, digests: o.Digests, bytes: o.Bytes = False, zero: o.Zero = False) -> None:
    """Show the records of content, with whole digests and all labels."""
    from imgtool.cli import contents
    from imgtool.cli.words import names_from

    content = c.store().content(c.namespace)
    words = names_from(digests, zero, "digest")
    found = c.failures.for_each(words, lambda word: content.info(contents.parse_digest(word)))
    c.out.rows(
        contents.CONTENT,
        (contents.row(c.namespace, info) for info in found),
        contents.columns(whole=True, exact=bytes),
        zero=zero,
    )


def run_get(c: Context, digests: o.Digests, zero: o.Zero = False) -> None:
    """Write the bytes of content to stdout. They are hashed on the way: where they are damaged the
    exit status is 6.
    """
    from imgtool.cli.contents import cat, parse_digest

    cat(c, digests, parse_digest, what="digest", zero=zero)


def run_ingest(
    c: Context,
    labels: o.Labels,
    source: Annotated[str, typer.Argument(metavar="[SRC]", help="A file; - is stdin.")] = "-",
    ref: o.Ref = None,
    expected_digest: o.ExpectedDigest = None,
    expected_size: o.ExpectedSize = None,
    algorithm: o.Algorithm = "blake3",
    lease: o.Lease = None,
    dry_run: o.DryRun = False,
) -> None:
    """Store bytes, and print their digest alone. Until an image or a label refers to them a lease
    holds them: --lease, else one of 24 hours.
    """
    from imgtool.cli.contents import DIGEST_ONLY, DIGESTS
    from imgtool.cli.ingesting import wanted_of
    from imgtool.cli.leases import usable
    from imgtool.cli.progress import Progress
    from imgtool.oci.media import OCTETS
    from imgtool.ops.ingest_content import ingest_content
    from imgtool.ops.sources import FILE, parse

    c.out.check(DIGESTS)
    wanted = wanted_of(
        words=[source],
        names=[],
        labels=labels,
        media_type=OCTETS,
        expected_digest=expected_digest,
        expected_size=expected_size,
        algorithm=algorithm,
        ref=ref,
        lease=usable(c, lease),
        platform=None,
        if_absent=False,
        replace=False,
    )
    with Progress(c, "ingesting") as progress:
        digest = ingest_content(
            c.store(), c.namespace, parse(source, FILE), wanted, progress=progress.add, dry_run=dry_run
        )
    row = {"namespace": c.namespace, "digest": digest}
    c.out.rows(DIGESTS, [row], DIGEST_ONLY, header=False)


def run_label(
    c: Context,
    digest: Annotated[str, typer.Argument(metavar="DIGEST")],
    labels: o.LabelArguments,
    replace_all: o.ReplaceAll = False,
    dry_run: o.DryRun = False,
) -> None:
    """Set and remove labels of content, and print all that it has then."""
    from imgtool.cli import contents
    from imgtool.cli.images import LABELS_ONLY
    from imgtool.cli.words import label_paths
    from imgtool.model import ContentInfo

    c.out.check(contents.CONTENT)
    paths, new = label_paths(labels, replace_all)
    content = c.records(dry_run=dry_run).content(c.namespace)
    info = content.update(ContentInfo(contents.parse_digest(digest), 0, new), *paths)
    c.out.rows(contents.CONTENT, [contents.row(c.namespace, info)], LABELS_ONLY, header=False)


def run_rm(
    c: Context,
    digests: o.Digests,
    zero: o.Zero = False,
    ignore_missing: o.IgnoreMissing = False,
    dry_run: o.DryRun = False,
) -> None:
    """Remove content from the namespace, whatever refers to it, and print the digests. The bytes go
    with a later gc, if no other namespace has them.
    """
    from imgtool.cli.contents import DIGEST_ONLY, DIGESTS, parse_digest
    from imgtool.cli.words import names_from
    from imgtool.errors import NotFound

    content = c.records(dry_run=dry_run).content(c.namespace)

    def remove(word: str) -> Row:
        digest = parse_digest(word)
        content.delete(digest)
        return {"namespace": c.namespace, "digest": digest}

    removed = c.failures.for_each(
        names_from(digests, zero, "digest"), remove, ignore=NotFound if ignore_missing else None
    )
    c.out.rows(DIGESTS, removed, DIGEST_ONLY, zero=zero, header=False)


def run_active(c: Context, filters: o.FilterArguments, bytes: o.Bytes = False, zero: o.Zero = False) -> None:
    """List unfinished writes, which can be resumed by their ref."""
    from imgtool.cli import contents

    found = c.store().content(c.namespace).statuses(*filters)
    c.out.rows(
        contents.WRITES,
        (contents.write_row(c.namespace, status) for status in found),
        contents.write_columns(exact=bytes),
        zero=zero,
    )


def run_abort(
    c: Context,
    refs: o.Refs,
    zero: o.Zero = False,
    ignore_missing: o.IgnoreMissing = False,
    dry_run: o.DryRun = False,
) -> None:
    """Drop unfinished writes with their bytes, and print their refs."""
    from imgtool.cli.contents import REF_ONLY, REFS
    from imgtool.cli.words import names_from
    from imgtool.errors import NotFound

    content = c.records(dry_run=dry_run).content(c.namespace)

    def abort(ref: str) -> Row:
        content.abort(ref)
        return {"namespace": c.namespace, "ref": ref}

    dropped = c.failures.for_each(
        names_from(refs, zero, "ref"), abort, ignore=NotFound if ignore_missing else None
    )
    c.out.rows(REFS, dropped, REF_ONLY, zero=zero, header=False)
