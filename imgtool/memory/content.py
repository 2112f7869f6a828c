"""The content of a namespace, and the writes under way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from imgtool import clock, filters
from imgtool.digest import SHA256, Digest, new_hasher
from imgtool.errors import AlreadyExists, NotFound, Unavailable
from imgtool.fieldpaths import merge_labels
from imgtool.memory.leases import MemoryLeases
from imgtool.memory.space import Bound, matching
from imgtool.memory.writer import Ingest, MemoryReader, MemoryWriter
from imgtool.model import ContentInfo, IngestStatus, Referred, replace
from imgtool.names import check_labels, check_ref, for_gc
from imgtool.rules import are_labels_of, check_live
from imgtool.stores import Commit, Inventory, OnError, Reader, Writer


class MemoryContent(Bound):
    kind = "content"

    def info(self, digest: Digest) -> ContentInfo:
        info = self._space.content.get(Digest.parse(digest))
        if info is None:
            raise NotFound(f"content '{digest}' not found")
        return info

    def update(self, info: ContentInfo, *paths: str) -> ContentInfo:
        old = self.info(info.digest)
        labels = merge_labels(old.labels, info.labels, paths, f"content '{info.digest}'")
        check_labels(labels)
        new = replace(old, labels=labels, updated=clock.now())
        self._space.content[new.digest] = new
        self._tell(new.digest, old, new)
        return new

    def delete(self, digest: Digest) -> None:
        self._tell(digest, self._space.content.pop(self.info(digest).digest), None)

    def reader(self, digest: Digest) -> Reader:
        return MemoryReader(self._store.blobs[self.info(digest).digest])

    def writer(
        self,
        ref: str,
        *,
        size: int | None = None,
        expected: Digest | None = None,
        algorithm: str | None = None,
        lease: str | None = None,
    ) -> Writer:
        check_ref(ref)
        algorithm = expected.algorithm if expected else algorithm or SHA256
        new_hasher(algorithm)
        if lease is not None:
            check_live(self._store.leases(self._namespace).get(lease))
        if expected in self._space.content:
            self._lease(lease, "content", str(expected))
            raise AlreadyExists(f"content '{expected}' already exists")
        now = clock.now()
        self._store.appear(self._namespace)
        ingest = self._space.ingests.setdefault(ref, Ingest(ref, size or 0, now, now))
        if ingest.busy:
            raise Unavailable(f"ref '{ref}' is being written")
        if size and ingest.total and size != ingest.total:
            ingest.data.clear()
        ingest.total = size or ingest.total
        ingest.expected = expected
        ingest.lease = lease or ingest.lease
        ingest.expires = clock.wall() + clock.DAY if ingest.lease is None else None
        ingest.busy = True
        self._lease(lease, "ingests", ref)
        lent = self._store.lent(expected, size) if expected and not ingest.data else None
        return MemoryWriter(self, ingest, algorithm, lent)

    def stage(self, *, algorithm: str) -> Writer:
        new_hasher(algorithm)
        now = clock.now()
        return MemoryWriter(self, Ingest("", 0, now, now, busy=True), algorithm)

    def status(self, ref: str) -> IngestStatus:
        return self._ingest(ref).status()

    def statuses(self, *filters_: str) -> Iterator[IngestStatus]:
        found = {ref: ingest.status() for ref, ingest in self._space.ingests.items()}
        return matching(found, filters.ingest_fields, filters_)

    def abort(self, ref: str) -> None:
        ingest = self._ingest(ref)
        if ingest.busy:
            raise Unavailable(f"ref '{ref}' is being written")
        del self._space.ingests[ref]

    def list(self, *filters_: str, on_error: OnError = None) -> Iterator[ContentInfo]:
        return matching(self._space.content, filters.content_fields, filters_)

    def inventory(self, *, on_error: OnError = None) -> Inventory:
        records = list(self.list(on_error=on_error))
        references = {info.digest: _referred(info) for info in records if info.references}
        labelled = {digest for digest, told in references.items() if told.labelled}
        return Inventory(
            {info.digest: info.size for info in records},
            {info.digest: info.labels for info in records if info.labels and info.digest not in labelled},
            references,
        )

    def publish(self, commit: Commit) -> ContentInfo:
        """What `Writer.commit` does, for which content that is there is an error."""
        writer = cast("MemoryWriter", commit.writer)
        digest = writer.verified(commit.size, commit.expected)
        if digest in self._space.content:
            writer.take(digest)
            raise AlreadyExists(f"content '{digest}' already exists")
        return self._store.publish(self._namespace, [commit]).content[0]

    def blob(self, digest: Digest) -> bytes | None:
        """An object of the store, whoever has it."""
        return self._store.blobs.get(digest)

    def land(self, ingest: Ingest, digest: Digest) -> None:
        """The ingest ends, and becomes `digest`, also under its lease."""
        self._space.ingests.pop(ingest.ref, None)
        if ingest.lease in self._space.leases:
            MemoryLeases(self._store, self._namespace).land(ingest.lease, ingest.ref, digest)

    def _ingest(self, ref: str) -> Ingest:
        ingest = self._space.ingests.get(check_ref(ref))
        if ingest is None:
            raise NotFound(f"ingest '{ref}' not found")
        return ingest

    def _lease(self, lease: str | None, type: str, *resources: str) -> None:
        if lease is not None:
            self._store.leases(self._namespace).add(lease, type, *resources)


def _referred(info: ContentInfo) -> Referred:
    assert info.references
    told, labels = info.references.referred, for_gc(info.labels)
    return told._replace(labelled=bool(labels) and are_labels_of(told.digests, labels))
