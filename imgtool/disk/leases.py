"""The leases of a namespace, one record a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

from imgtool import clock
from imgtool.digest import Digest
from imgtool.disk.engine import LEASE, Edit, Engine
from imgtool.disk.images import require
from imgtool.disk.publish import holding, letting_go
from imgtool.errors import AlreadyExists, DataLoss, NotFound
from imgtool.fieldpaths import merge_labels
from imgtool.model import Lease, replace, without_empty
from imgtool.names import check_labels, check_name, check_resource
from imgtool.stores import OnError


class DiskLeases:
    """LeaseStore on files; see `imgtool.stores`."""

    def __init__(self, engine: Engine, namespace: str) -> None:
        self._engine = engine
        self._ns = namespace

    def get(self, id: str) -> Lease:
        lease = self._engine.load(LEASE, self._ns, _check_id(id))
        if lease is None:
            raise NotFound(f"lease '{id}' not found")
        return lease

    def list(self, *filters: str, on_error: OnError = None) -> Iterator[Lease]:
        from imgtool.filters import compile, lease_fields

        matches = compile(filters).matches
        for lease in self._engine.scan(LEASE, self._ns, self._engine.layout.leases(self._ns), on_error):
            if matches(lease_fields(lease)):
                yield lease

    def create(self, lease: Lease) -> Lease:
        check_labels(lease.labels, limited=False)

        def change(old: Lease | None) -> Lease:
            if old is not None:
                raise AlreadyExists(f"lease '{lease.id}' already exists")
            return replace(lease, labels=without_empty(lease.labels), created=clock.now())

        return self._changed(lease.id, change)

    def update(self, lease: Lease, *paths: str) -> Lease:
        check_labels(lease.labels, limited=False)

        def change(old: Lease | None) -> Lease:
            if old is None:
                raise NotFound(f"lease '{lease.id}' not found")
            return replace(old, labels=merge_labels(old.labels, lease.labels, paths, f"lease '{lease.id}'"))

        return self._changed(lease.id, change)

    def delete(self, id: str) -> None:
        self._expect(id)

        def change(old: Lease | None) -> None:
            if old is None:
                self._expect(id)

        self._engine.change(self._ns, Edit(LEASE, id, change, heals=True))

    def add(self, id: str, type: str, *resources: str, needs: Iterable[Digest] = ()) -> None:
        hold = holding(id, type, [check_resource(type, resource) for resource in resources])
        needed = tuple(needs)

        def change(old: Lease | None) -> Lease:
            lease = hold(old)
            require(self._engine, self._ns, needed)
            return lease

        self._changed(id, change)

    def remove(self, id: str, type: str, *resources: str) -> None:
        self._changed(id, letting_go(id, type, resources))

    def _expect(self, id: str) -> None:
        """
        Raises:
            NotFound: there is no record, not even one that cannot be read.
        """
        with suppress(DataLoss):
            self.get(id)

    def _changed(self, id: str, change: Callable[[Lease | None], Lease]) -> Lease:
        lease = self._engine.change(self._ns, Edit(LEASE, _check_id(id), change))
        assert lease is not None
        return lease


def _check_id(id: str) -> str:
    return check_name(id, "lease id")
