"""Namespaces: the store and the publisher of events, joined."""

from __future__ import annotations

from collections.abc import Sequence

from imgtool.errors import NotFound
from imgtool.model import Namespace
from imgtool.serve.contracts import Open, Publisher


class LocalNamespaces:
    """See `stores.NamespaceStore` for errors and the meaning of `paths`."""

    def __init__(self, open: Open, events: Publisher) -> None:
        self._open = open
        self._events = events

    def get(self, name: str) -> Namespace:
        """An absent one has no labels, and that is no error: clients ask before anything is there."""
        with self._open() as store:
            try:
                return store.namespaces.get(name)
            except NotFound:
                return Namespace(name)

    def list(self, filters: Sequence[str]) -> Sequence[Namespace]:
        with self._open() as store:
            return list(store.namespaces.list(*filters))

    def create(self, namespace: Namespace, caller: str) -> Namespace:
        """
        Args:
            namespace: which.
            caller: the namespace in which the client works; the event is told there.
        """
        with self._events.changing(namespace.name, caller, "/namespaces/create"), self._open() as store:
            return store.namespaces.create(namespace)

    def update(self, namespace: Namespace, paths: Sequence[str], caller: str) -> Namespace:
        """
        Args:
            namespace: which; it need not exist.
            paths: see above.
            caller: as in `create`.
        """
        with self._events.changing(namespace.name, caller, "/namespaces/update"), self._open() as store:
            return store.namespaces.update(namespace, *paths)

    def delete(self, name: str) -> None:
        with self._open() as store:
            store.namespaces.delete(name)
        self._events.changed(name)
