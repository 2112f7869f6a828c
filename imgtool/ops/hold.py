"""Leases that commands make and use: for content that has no name yet, and those that users name."""

from __future__ import annotations

import os
from collections.abc import Iterable

from imgtool import clock
from imgtool.digest import Digest
from imgtool.errors import InvalidArgument, NotFound
from imgtool.model import Lease
from imgtool.names import EXPIRE as EXPIRE
from imgtool.stores import LeaseStore

HELD_FOR = clock.DAY


def lease_for(digest: Digest) -> Lease:
    """The lease that holds `digest` for 24 hours of the wall clock from now on: what `Store.publish`
    takes as `hold`. The same digest has the same lease, so that holding it again renews the time. The
    next `tag` makes it superfluous; it goes when its time is up.
    """
    return _lease(f"held-{digest.encoded[:32]}", [digest])


def lease_until_named(digests: Iterable[Digest]) -> Lease:
    """A lease for a part of an image, to be deleted when the image has its name; nobody else has it."""
    return _lease(f"ingest-{os.urandom(8).hex()}", digests)


def new_id() -> str:
    """An id for a lease, made as containerd makes them: of the time and three random bytes."""
    from base64 import urlsafe_b64encode

    return f"{clock.wall() % clock.SECOND}-{urlsafe_b64encode(os.urandom(3)).decode()}"


def expires(lease: Lease) -> int | None:
    """When the lease ends, in nanoseconds of the wall clock; None if never, which is also what a time
    means that cannot be read, as in containerd.
    """
    try:
        return clock.parse_time(lease.labels[EXPIRE])
    except (KeyError, InvalidArgument):
        return None


def require_lease(leases: LeaseStore, id: str) -> None:
    """See that a lease can hold something.

    Raises:
        NotFound: there is none, or its time is up: the next gc removes it.
    """
    end = expires(leases.get(id))
    if end is not None and end <= clock.wall():
        raise NotFound(
            f"lease '{id}' has expired at {clock.format_time(end)}",
            hint=f"imgtool lease label -x 24h {id} renews it",
        )


def _lease(id: str, digests: Iterable[Digest]) -> Lease:
    return Lease(
        id,
        labels={EXPIRE: clock.format_time(clock.wall() + HELD_FOR)},
        resources={"content": tuple(digests)},
    )
