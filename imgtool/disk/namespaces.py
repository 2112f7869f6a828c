"""The namespaces of a store: directories that hold a `namespace.toml`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from imgtool import clock
from imgtool.disk import read
from imgtool.disk.engine import LEASE, NAMESPACE, Edit, Engine
from imgtool.disk.layout import is_record
from imgtool.errors import AlreadyExists, DataLoss, FailedPrecondition, InvalidArgument, NotFound, Unavailable
from imgtool.fieldpaths import merge_labels
from imgtool.model import Namespace, replace, without_empty
from imgtool.names import check_labels, check_namespace

if TYPE_CHECKING:
    from imgtool.stores import OnError


class DiskNamespaces:
    """NamespaceStore on files; see `imgtool.stores`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def get(self, name: str) -> Namespace:
        namespace = self._engine.load(NAMESPACE, check_namespace(name), name)
        if namespace is None:
            raise _not_found(name)
        return namespace

    def list(self, *filters: str, on_error: OnError = None) -> Iterator[Namespace]:
        from imgtool.filters import compile, namespace_fields

        matches = compile(filters).matches
        for name in read.entries(self._engine.layout.namespaces):
            try:
                namespace = self._listed(name)
            except DataLoss as error:
                if on_error is None:
                    raise
                on_error(error)
                continue
            if namespace is not None and matches(namespace_fields(namespace)):
                yield namespace

    def _listed(self, name: str) -> Namespace | None:
        """What is in the directory `name`; None where the namespace was deleted, of which the log
        stays, or where it is not ours.
        """
        try:
            if read.is_directory(self._engine.layout.namespace(check_namespace(name))):
                return self.get(name)
            return None
        except InvalidArgument:
            return None
        except NotFound:
            left = self._left(name)
            namespace = self._engine.load(NAMESPACE, name, name)  # it may just have come into being
            if left and namespace is None:
                raise DataLoss(
                    f"namespace '{name}' has {left} but no namespace.toml",
                    hint=f"imgtool namespace create {name} makes it anew",
                ) from None
            return namespace

    def _left(self, name: str) -> str:
        """What must go before a namespace may: `images`, `content` or both; empty if there is nothing."""
        layout = self._engine.layout
        images = any(map(is_record, read.entries(layout.images(name))))
        content = any(True for _ in read.walk_fan_out(layout.content(name)))
        return " and ".join(["images"] * images + ["content"] * content)

    def create(self, namespace: Namespace) -> Namespace:
        check_labels(namespace.labels)

        def change(old: Namespace | None) -> Namespace:
            if old is not None:
                raise AlreadyExists(f"namespace '{namespace.name}' already exists")
            return replace(namespace, labels=without_empty(namespace.labels), created=clock.now())

        return self._changed(namespace.name, change)

    def update(self, namespace: Namespace, *paths: str) -> Namespace:
        check_labels(namespace.labels)

        def change(old: Namespace | None) -> Namespace:
            old = old or Namespace(namespace.name, created=clock.now())
            labels = merge_labels(old.labels, namespace.labels, paths, f"namespace '{namespace.name}'")
            return replace(old, labels=labels)

        return self._changed(namespace.name, change)

    def delete(self, name: str) -> None:
        from imgtool.disk import ingests

        self.get(name)
        engine = self._engine

        def change(old: Namespace | None) -> None:
            if old is None:
                raise _not_found(name)
            if left := self._left(name):
                raise FailedPrecondition(
                    f"namespace '{name}' must be empty, but it still has {left}",
                    hint="delete its images, then run imgtool gc",
                )

        def edits() -> Iterator[Edit[Any]]:
            yield Edit(NAMESPACE, name, change)
            for lease, _ in engine.named(LEASE, engine.layout.leases(name), None):
                yield Edit(LEASE, lease, lambda old: None)

        engine.apply(name, edits())
        for _, status in list(ingests.statuses(engine, name)):
            # One that is being written ends as it will; its commit makes the namespace anew.
            with suppress(NotFound, Unavailable):
                engine.abort(name, status.ref)

    def _changed(self, name: str, change: Callable[[Namespace | None], Namespace]) -> Namespace:
        namespace = self._engine.change(check_namespace(name), Edit(NAMESPACE, name, change))
        assert namespace is not None
        return namespace


def _not_found(name: str) -> NotFound:
    return NotFound(f"namespace '{name}' not found")
