"""Keep content that has no name yet: a lease for a day, which the next `tag` makes superfluous."""

from __future__ import annotations

import os
from collections.abc import Iterable

from imgtool import clock
from imgtool.digest import Digest
from imgtool.model import Lease

EXPIRE = "containerd.io/gc.expire"
HELD_FOR = clock.DAY


def lease_for(digest: Digest) -> Lease:
    """The lease that holds `digest` for 24 hours of the wall clock from now on: what `Store.publish`
    takes as `hold`. The same digest has the same lease, so that holding it again renews the time.
    """
    return _lease(f"held-{digest.encoded[:32]}", [digest])


def lease_until_named(digests: Iterable[Digest]) -> Lease:
    """A lease for a part of an image, to be deleted when the image has its name; nobody else has it."""
    return _lease(f"ingest-{os.urandom(8).hex()}", digests)


def _lease(id: str, digests: Iterable[Digest]) -> Lease:
    return Lease(
        id,
        labels={EXPIRE: clock.format_time(clock.wall() + HELD_FOR)},
        resources={"content": tuple(digests)},
    )
