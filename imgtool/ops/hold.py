"""Keep content that has no name yet: a lease for a day, which the next `tag` makes superfluous."""

from __future__ import annotations

from imgtool import clock
from imgtool.digest import Digest
from imgtool.model import Lease

EXPIRE = "containerd.io/gc.expire"
HELD_FOR = clock.DAY


def lease_for(digest: Digest) -> Lease:
    """The lease that holds `digest` for 24 hours of the wall clock from now on: what `Store.publish`
    takes as `hold`. The same digest has the same lease, so that holding it again renews the time.
    """
    return Lease(
        f"held-{digest.encoded[:32]}",
        labels={EXPIRE: clock.format_time(clock.wall() + HELD_FOR)},
        resources={"content": (digest,)},
    )
