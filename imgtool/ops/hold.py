"""Leases that commands make and use: for content that has no name yet, and those that users name."""

from __future__ import annotations

import os
from collections.abc import Iterable

from imgtool import clock
from imgtool.digest import Digest
from imgtool.model import Lease
from imgtool.names import EXPIRE
from imgtool.rules import check_live
from imgtool.stores import LeaseStore

HELD_FOR = clock.DAY


def lease_for(digest: Digest) -> Lease:
    """The lease that holds `digest` for 24 hours of the wall clock from now on: what `Store.publish`
    takes as `hold`. The same digest has the same lease, so that holding it again gives it that time anew,
    if it has not more. The next `tag` makes it superfluous; it goes when its time is up.
    """
    return _lease(f"held-{digest.encoded[:32]}", [digest])


def lease_until_named(digests: Iterable[Digest]) -> Lease:
    """A lease for a part of an image, to be deleted when the image has its name; nobody else has it."""
    return _lease(f"ingest-{os.urandom(8).hex()}", digests)


def new_id() -> str:
    """An id for a lease, made as containerd makes them: of the time and three random bytes."""
    from base64 import urlsafe_b64encode

    return f"{clock.wall() % clock.SECOND}-{urlsafe_b64encode(os.urandom(3)).decode()}"


def require_lease(leases: LeaseStore, id: str) -> None:
    """See that a lease can hold something.

    Raises:
        NotFound: there is none, or its time is up: the next gc removes it.
    """
    check_live(leases.get(id))


def _lease(id: str, digests: Iterable[Digest]) -> Lease:
    return Lease(
        id,
        labels={EXPIRE: clock.format_time(clock.wall() + HELD_FOR)},
        resources={"content": tuple(digests)},
    )
