"""Take bytes into the content of a namespace, without making an image of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from imgtool.digest import Digest
from imgtool.ops.dry import DryIngester
from imgtool.ops.hold import lease_for
from imgtool.ops.ingest_file import opened, stage_bytes
from imgtool.ops.sources import Source
from imgtool.ops.staging import Wanted

if TYPE_CHECKING:
    from imgtool.stores import Ingester, Store


def ingest_content(
    store: Store,
    namespace: str,
    source: Source,
    wanted: Wanted,
    *,
    progress: Callable[[int], None],
    dry_run: bool = False,
) -> Digest:
    """Store the bytes of `source`, held by the lease that is wanted, else by one of 24 hours; returns
    their digest.

    Args:
        store: where to.
        namespace: whose.
        source: a file, a pipe or stdin. It may be empty.
        wanted: labels of the content, what it must be, how to hash it, the write to resume, the lease.
        progress: called with the number of bytes.
        dry_run: read and judge everything, and keep nothing.

    Raises:
        InvalidArgument: the source is a directory or device.
        FailedPrecondition: size or digest are not those expected; a write with a ref stays.
        NotFound: the source or the lease is not there.
    """
    with opened(source) as here, DryIngester() as dry:
        content: Ingester = dry if dry_run else store.content(namespace)
        commit = stage_bytes(content, here, wanted, progress)
    digest = commit.expected
    assert digest is not None
    with commit.writer:
        if not dry_run:
            hold = lease_for(digest) if wanted.lease is None else None
            labelled = commit._replace(labels=wanted.labels)
            store.publish(namespace, [labelled], hold=hold, lease=wanted.lease)
    return digest
