"""Letting images go that a retention policy does not keep."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from imgtool import clock
from imgtool.errors import FailedPrecondition, NotFound
from imgtool.ops.mark import is_expired
from imgtool.ops.retention import Found
from imgtool.stores import Store


def images(store: Store, namespaces: Iterable[str], filters: Sequence[str] = ()) -> Iterator[Found]:
    """What a policy sees, by namespace and name.

    Raises:
        DataLoss: a record cannot be read: nobody knows which of the others were the newest.
    """
    now = clock.wall()
    for namespace in namespaces:
        leases = [lease for lease in store.leases(namespace).list() if not is_expired(lease.labels, now)]
        held = {name: lease.id for lease in leases for name in lease.resources.get("images", ())}
        for image in store.images(namespace).list(*filters):
            yield Found(namespace, image, held.get(image.name))


def delete(store: Store, found: Found) -> bool:
    """Delete an image if it still is as it was judged; whether it was. One that has been changed since
    stays for the next run.
    """
    there = store.images(found.namespace)
    name, target = found.image.name, found.image.target.digest
    try:
        if there.get(name) != found.image:
            return False
        there.delete(name, target=target)
    except NotFound:
        return False
    except FailedPrecondition:
        if _points_to(store, found, target):
            raise  # it is about something else
        return False
    return True


def _points_to(store: Store, found: Found, target: str) -> bool:
    try:
        return store.images(found.namespace).get(found.image.name).target.digest == target
    except NotFound:
        return False
