"""Leases: the store and the gc scheduler, joined. No event tells of them: containerd has none."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from imgtool.model import Lease
from imgtool.names import check_resource
from imgtool.serve.contracts import Open, Scheduler, Unimplemented

_KINDS = ("content", "ingests", "images", "snapshots")


class LocalLeases:
    """See `stores.LeaseStore` for errors."""

    def __init__(self, open: Open, gc: Scheduler) -> None:
        self._open = open
        self._gc = gc

    def create(self, namespace: str, lease: Lease) -> Lease:
        """One without an id is given one."""
        with self._open() as store:
            return store.leases(namespace).create(lease._replace(id=lease.id or secrets.token_hex(16)))

    def delete(self, namespace: str, id: str, *, sync: bool = False) -> None:
        """
        Args:
            namespace: where the lease is.
            id: the lease.
            sync: return after a whole gc.
        """
        with self._open() as store:
            store.leases(namespace).delete(id)
        if sync:
            self._gc.collect()

    def list(self, namespace: str, filters: Sequence[str]) -> Sequence[Lease]:
        with self._open() as store:
            return list(store.leases(namespace).list(*filters))

    def add(self, namespace: str, id: str, type: str, resource: str) -> None:
        """
        Raises:
            Unimplemented: no lease holds resources of that type.
        """
        with self._open() as store:
            store.leases(namespace).get(id)
            store.leases(namespace).add(id, _checked(type), resource)

    def remove(self, namespace: str, id: str, type: str, resource: str) -> None:
        """
        Raises:
            Unimplemented: no lease holds resources of that type.
            InvalidArgument: content is no digest.
        """
        with self._open() as store:
            store.leases(namespace).get(id)
            store.leases(namespace).remove(id, _checked(type), check_resource(type, resource))

    def resources(self, namespace: str, id: str) -> Sequence[tuple[str, str]]:
        """What the lease holds: types and ids."""
        with self._open() as store:
            held = store.leases(namespace).get(id).resources
        return [(type, id) for type, ids in sorted(held.items()) for id in sorted(ids)]


def _checked(type: str) -> str:
    if type.partition("/")[0] not in _KINDS:
        raise Unimplemented(f"resource type '{type[:80]}' is not supported")
    return type
