"""Rules that every store applies alike, in the moment of a change, to what is there."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf

from imgtool import clock
from imgtool.errors import FailedPrecondition, NotFound
from imgtool.model import Image, Lease, replace, without_empty
from imgtool.names import EXPIRE, expiry, is_past


def check_live(lease: Lease) -> Lease:
    """`lease`, if it can hold something.

    Raises:
        NotFound: its time is up: the next gc removes it.
    """
    if (end := expiry(lease.labels)) is not None and is_past(end, clock.wall()):
        raise NotFound(
            f"lease '{lease.id}' has expired at {clock.format_time(end)}",
            hint=f"imgtool lease label -x 24h {lease.id} renews it",
        )
    return lease


def check_seen(there: Image, seen: Image | None) -> None:
    """
    Raises:
        FailedPrecondition: `there` is another record than `seen`, if that is given.
    """
    if seen is not None and there != seen:
        raise FailedPrecondition(f"image '{there.name}' has been changed")


def check_unheld(image: str, leases: Iterable[Lease]) -> None:
    """
    Raises:
        FailedPrecondition: one of `leases` whose time is not past lists `image`.
    """
    now = clock.wall()
    for lease in leases:
        if image in lease.resources.get("images", ()) and not is_past(expiry(lease.labels), now):
            raise FailedPrecondition(f"lease '{lease.id}' holds image '{image}'")


def renewed(there: Lease, hold: Lease) -> Lease:
    """What becomes of the lease `there` when `hold` comes to it: labels and resources are added, and it ends
    when the later of the two does, or never.
    """
    longer = max(there, hold, key=_end)
    labels = without_empty({**there.labels, **hold.labels, EXPIRE: longer.labels.get(EXPIRE, "")})
    resources = dict(there.resources)
    for type, ids in hold.resources.items():
        resources[type] = tuple(dict.fromkeys((*resources.get(type, ()), *ids)))
    return replace(there, labels=labels, resources=resources)


def _end(lease: Lease) -> float:
    end = expiry(lease.labels)
    return inf if end is None else end
