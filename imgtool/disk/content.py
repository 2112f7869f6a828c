"""The content of a namespace: records that make objects visible there, and the writes under way."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress

from imgtool import clock
from imgtool.digest import SHA256, Digest, new_hasher
from imgtool.disk import ingests, publish, read
from imgtool.disk.engine import CONTENT, LEASE, NAMESPACE, Edit, Engine
from imgtool.disk.reader import FileReader
from imgtool.disk.writer import FileWriter, Lent
from imgtool.errors import AlreadyExists, DataLoss, ImgtoolError, NotFound
from imgtool.fieldpaths import merge_labels
from imgtool.model import ContentInfo, IngestStatus, Lease, Namespace, replace
from imgtool.names import check_labels, check_namespace, check_ref
from imgtool.stores import Commit, Inventory, OnError


class DiskContent:
    """ContentStore on files; see `imgtool.stores`."""

    def __init__(self, engine: Engine, namespace: str) -> None:
        self._engine = engine
        self._ns = namespace

    # Manager

    def info(self, digest: Digest) -> ContentInfo:
        info = self._engine.load(CONTENT, self._ns, digest)
        if info is None:
            raise not_found(digest)
        return info

    def update(self, info: ContentInfo, *paths: str) -> ContentInfo:
        check_labels(info.labels)

        def change(old: ContentInfo | None) -> ContentInfo:
            if old is None:
                raise not_found(info.digest)
            labels = merge_labels(old.labels, info.labels, paths, f"content '{info.digest}'")
            return replace(old, labels=labels, updated=clock.now())

        changed = self._engine.change(self._ns, Edit(CONTENT, info.digest, change))
        assert changed is not None
        return changed

    def list(self, *filters: str, on_error: OnError = None) -> Iterator[ContentInfo]:
        found = self._engine.scan_content(self._ns, on_error)
        if not filters:
            yield from found
            return
        from imgtool.filters import compile, content_fields

        matches = compile(filters).matches
        for info in found:
            if matches(content_fields(info)):
                yield info

    def inventory(self, *, on_error: OnError = None) -> Inventory:
        return self._engine.inventory(self._ns, on_error)

    def delete(self, digest: Digest) -> None:
        with suppress(DataLoss):  # a record that cannot be read can be removed
            self.info(digest)
        self._engine.change(self._ns, Edit(CONTENT, digest, lambda old: None, heals=True))

    # Provider

    def reader(self, digest: Digest) -> FileReader:
        size = self._size(digest)
        for last in (False, False, True):
            try:
                fd, status = read.open_regular(self._engine.layout.object(digest))
                break
            except FileNotFoundError:
                # Deleted and collected since the record was read, and perhaps back again?
                size = self._size(digest)
                if last:
                    raise DataLoss(
                        f"object '{digest}' is missing from the store",
                        hint="ingest the content again: that heals it",
                    ) from None
        if status.st_size != size:
            os.close(fd)
            raise DataLoss(
                f"object '{digest}' has {status.st_size} bytes, its record says {size}",
                hint="ingest the content again: that heals it",
            )
        return FileReader(fd, size)

    def _size(self, digest: Digest) -> int:
        size = self._engine.recorded_size(self._ns, digest)
        if size is None:
            raise not_found(digest)
        return size

    # IngestManager

    def status(self, ref: str) -> IngestStatus:
        return ingests.status(self._engine, self._ns, check_ref(ref))

    def statuses(self, *filters: str) -> Iterator[IngestStatus]:
        from imgtool.filters import compile, ingest_fields

        matches = compile(filters).matches
        for _, status in ingests.statuses(self._engine, self._ns):
            if matches(ingest_fields(status)):
                yield status

    def abort(self, ref: str) -> None:
        self._engine.abort(self._ns, check_ref(ref))

    # Ingester

    def writer(
        self,
        ref: str,
        *,
        size: int | None = None,
        expected: Digest | None = None,
        algorithm: str | None = None,
        lease: str | None = None,
    ) -> FileWriter:
        check_ref(ref)
        check_namespace(self._ns)
        algorithm = expected.algorithm if expected is not None else algorithm or SHA256
        new_hasher(algorithm)
        if lease is not None:
            self._hold(lease, ref, expected)
        if expected is not None and self._engine.is_whole(self._ns, expected):
            raise AlreadyExists(f"content '{expected}' already exists")
        self._engine.ready()
        if self._engine.load(NAMESPACE, self._ns, self._ns) is None:
            # First: gc looks only into namespaces that are there for what a write expects.
            self._engine.change(self._ns, Edit(NAMESPACE, self._ns, self._appear))
        place, fd = ingests.open_named(self._engine, self._ns, ref, size=size, expected=expected, lease=lease)
        try:
            lent = None if expected is None or os.fstat(fd).st_size else self._borrow(expected, size)
        except BaseException:
            os.close(fd)
            place.release()
            raise
        return FileWriter(place, fd, algorithm, self._commit, lent)

    def stage(self, *, algorithm: str) -> FileWriter:
        new_hasher(algorithm)
        self._engine.ready()
        place = ingests.Anonymous(self._engine.workspace.new_path())
        return FileWriter(place, place.open(), algorithm, self._commit)

    def _appear(self, old: Namespace | None) -> Namespace:
        return old or Namespace(self._ns, created=clock.now())

    def _borrow(self, digest: Digest, size: int | None) -> Lent | None:
        """The object of which another namespace has a record that fits; None where it is not to be had."""
        lent = self._lendable(digest)
        if lent is None or (size and size != lent.size):
            return None
        # A gc that did not see what the ingest expects is over then, and the next one will.
        with self._engine.locks.changing():
            return self._lendable(digest)

    def _lendable(self, digest: Digest) -> Lent | None:
        engine = self._engine
        size = engine.object_size(digest)
        for ns in [] if size is None else read.entries(engine.layout.namespaces):
            with suppress(ImgtoolError):  # of what cannot be read, nothing is lent
                info = engine.load(CONTENT, ns, digest)
                if info is not None and info.size == size and self._lends(ns):
                    return Lent(engine.layout.object(digest), digest, info.size)
        return None

    def _lends(self, ns: str) -> bool:
        namespace, settings = self._engine.load(NAMESPACE, ns, ns), self._engine.setup.settings
        return namespace is not None and settings.lends(namespace)

    def _hold(self, lease: str, ref: str, expected: Digest | None) -> None:
        """Put the ingest under the lease; or the content, where that is here already."""

        def change(old: Lease | None) -> Lease:
            if expected is not None and self._engine.is_whole(self._ns, expected):
                here = publish.holding(lease, "content", (expected,))(old)
                return publish.letting_go(lease, "ingests", (ref,))(here)
            return publish.holding(lease, "ingests", (ref,))(old)

        self._engine.change(self._ns, Edit(LEASE, lease, change))

    def _commit(
        self, writer: FileWriter, *, size: int | None, expected: Digest | None, labels: Mapping[str, str]
    ) -> ContentInfo:
        outcome = publish.publish(self._engine, self._ns, [Commit(writer, size, expected, labels)], keep=True)
        if outcome.existed[0]:
            raise AlreadyExists(f"content '{outcome.published.content[0].digest}' already exists")
        return outcome.published.content[0]


def not_found(digest: Digest) -> NotFound:
    return NotFound(f"content '{digest}' not found")
