"""The namespaces of a store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from imgtool import clock, filters
from imgtool.errors import AlreadyExists, FailedPrecondition, NotFound
from imgtool.fieldpaths import merge_labels
from imgtool.memory.space import matching
from imgtool.model import Namespace, replace, without_empty
from imgtool.names import check_labels, check_namespace
from imgtool.stores import OnError

if TYPE_CHECKING:
    from imgtool.memory.store import MemoryStore


class MemoryNamespaces:
    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    def get(self, name: str) -> Namespace:
        record = self._store.space(check_namespace(name)).record
        if record is None:
            raise NotFound(f"namespace '{name}' not found")
        return record

    def create(self, namespace: Namespace) -> Namespace:
        check_namespace(namespace.name)
        check_labels(namespace.labels)
        if self._store.space(namespace.name).record is not None:
            raise AlreadyExists(f"namespace '{namespace.name}' already exists")
        return self._write(replace(namespace, labels=without_empty(namespace.labels), created=clock.now()))

    def update(self, namespace: Namespace, *paths: str) -> Namespace:
        name = check_namespace(namespace.name)
        old = self._store.space(name).record or Namespace(name, created=clock.now())
        labels = merge_labels(old.labels, namespace.labels, paths, f"namespace '{name}'")
        check_labels(labels)
        return self._write(replace(old, labels=labels))

    def delete(self, name: str) -> None:
        self.get(name)
        space = self._store.space(name)
        for what, records in (("images", space.images), ("content", space.content)):
            if records:
                raise FailedPrecondition(f"namespace '{name}' must be empty, but it still has {what}")
        del self._store.spaces[name]
        self._store.tell(name, "namespace", name, space.record, None)
        for id, lease in sorted(space.leases.items()):
            self._store.tell(name, "lease", id, lease, None)

    def list(self, *filters_: str, on_error: OnError = None) -> Iterator[Namespace]:
        found = {name: s.record for name, s in self._store.spaces.items() if s.record is not None}
        return matching(found, filters.namespace_fields, filters_)

    def _write(self, namespace: Namespace) -> Namespace:
        space = self._store.space(namespace.name)
        old, space.record = space.record, namespace
        self._store.tell(namespace.name, "namespace", namespace.name, old, namespace)
        return namespace
