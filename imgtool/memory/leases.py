"""The leases of a namespace."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from imgtool import clock, filters
from imgtool.digest import Digest
from imgtool.errors import AlreadyExists, NotFound
from imgtool.fieldpaths import merge_labels
from imgtool.memory.space import Bound, matching
from imgtool.model import Lease, replace, without_empty
from imgtool.names import check_labels, check_name, check_resource
from imgtool.rules import check_live, check_needs
from imgtool.stores import OnError


class MemoryLeases(Bound):
    kind = "lease"

    def get(self, id: str) -> Lease:
        lease = self._space.leases.get(check_name(id, "lease id"))
        if lease is None:
            raise NotFound(f"lease '{id}' not found")
        return lease

    def create(self, lease: Lease) -> Lease:
        lease = check_lease(lease)
        if lease.id in self._space.leases:
            raise AlreadyExists(f"lease '{lease.id}' already exists")
        self._store.appear(self._namespace)
        return self._write(replace(lease, created=clock.now()))

    def update(self, lease: Lease, *paths: str) -> Lease:
        old = self.get(lease.id)
        labels = merge_labels(old.labels, lease.labels, paths, f"lease '{lease.id}'")
        return self._write(check_lease(replace(old, labels=labels)))

    def delete(self, id: str) -> None:
        self._tell(id, self._space.leases.pop(self.get(id).id), None)

    def add(self, id: str, type: str, *resources: str, needs: Iterable[Digest] = ()) -> None:
        held = check_live(self.get(id)).resources
        checked = [check_resource(type, resource) for resource in resources]
        check_needs(needs, self._namespace, self._space.content.get, self._store.object_size)
        self._hold(id, type, (*held.get(type, ()), *checked))

    def remove(self, id: str, type: str, *resources: str) -> None:
        held = self.get(id).resources
        self._hold(id, type, [r for r in held.get(type, ()) if r not in resources])

    def land(self, id: str, ref: str, digest: Digest) -> None:
        """An ingest under the lease becomes `digest` under it."""
        lease = self.get(id)
        held = {**lease.resources, "ingests": [r for r in lease.resources.get("ingests", ()) if r != ref]}
        held["content"] = [*held.get("content", ()), digest]
        self._write(check_lease(replace(lease, resources=held)))

    def list(self, *filters_: str, on_error: OnError = None) -> Iterator[Lease]:
        return matching(self._space.leases, filters.lease_fields, filters_)

    def _hold(self, id: str, type: str, resources: Iterable[str]) -> None:
        old = self.get(id)
        self._write(check_lease(replace(old, resources={**old.resources, type: tuple(resources)})))

    def _write(self, lease: Lease) -> Lease:
        old = self._space.leases.get(lease.id)
        self._space.leases[lease.id] = lease
        self._tell(lease.id, old, lease)
        return lease


def check_lease(lease: Lease) -> Lease:
    """`lease` as a store holds it: each resource once, no empty labels, no type without resources."""
    check_name(lease.id, "lease id")
    check_labels(lease.labels, limited=False)
    for type, ids in lease.resources.items():
        for text in (type, *ids):
            check_name(text, "lease resource")
    resources = {type: tuple(dict.fromkeys(ids)) for type, ids in lease.resources.items() if ids}
    return replace(lease, labels=without_empty(lease.labels), resources=resources)
