"""What a daemon sees of the namespace that it has as its content store: its own content, and nothing else.

A daemon keeps in a database of its own what it needs, and deletes all that it sees and does not need. So
each record that it has committed has the label HOLD, in the same step in which it appears: a root for
our gc. Deleting takes the label off. What the label is not on, the daemon does not see, and what other
clients have put into the namespace is neither its to delete nor harmed when it is; its unfinished writes
are kept apart in the same way, by the start of their refs.
"""

from __future__ import annotations

from collections.abc import Iterator

from imgtool.digest import Digest
from imgtool.errors import AlreadyExists, DataLoss, NotFound
from imgtool.model import ContentInfo, IngestStatus
from imgtool.serve.local.content import View, is_whole
from imgtool.stores import Commit, OnError, Reader, Store, Writer

HOLD = "containerd.io/gc.root.backend"
"""The label of content that a daemon has."""
REFS = "backend/"
"""What the refs of a daemon's writes begin with."""


def backend(store: Store, namespace: str) -> View:
    """See above. Leases are not ours to look at: the daemon has its own."""
    seen = Backend(store, namespace)
    return View(seen, seen.commit)


class Backend:
    """The content of `namespace`, as `content.Contents`."""

    def __init__(self, store: Store, namespace: str) -> None:
        self._store = store
        self._ns = namespace
        self._content = store.content(namespace)

    def info(self, digest: Digest) -> ContentInfo:
        info = self._content.info(digest)
        if HOLD not in info.labels:
            raise NotFound(f"content '{digest}' not found")
        return _bare(info)

    def update(self, info: ContentInfo, *paths: str) -> ContentInfo:
        self.info(info.digest)
        held = info._replace(labels={**info.labels, HOLD: "true"})
        return _bare(self._content.update(held, *paths))

    def list(self, *filters: str, on_error: OnError = None) -> Iterator[ContentInfo]:
        for info in self._content.list(*filters, on_error=on_error):
            if HOLD in info.labels:
                yield _bare(info)

    def delete(self, digest: Digest) -> None:
        try:
            self.info(digest)
        except DataLoss:
            self._content.delete(digest)
        else:
            self._content.update(ContentInfo(digest, 0), f"labels.{HOLD}")

    def reader(self, digest: Digest) -> Reader:
        self.info(digest)
        return self._content.reader(digest)

    def status(self, ref: str) -> IngestStatus:
        return _ours(self._content.status(REFS + ref))

    def statuses(self, *filters: str) -> Iterator[IngestStatus]:
        from imgtool.filters import compile, ingest_fields

        matches = compile(filters).matches
        for status in self._content.statuses():
            if status.ref.startswith(REFS) and matches(ingest_fields(_ours(status))):
                yield _ours(status)

    def abort(self, ref: str) -> None:
        self._content.abort(REFS + ref)

    def writer(
        self,
        ref: str,
        *,
        size: int | None = None,
        expected: Digest | None = None,
        lease: str | None = None,
    ) -> Writer:
        """What is expected counts only at commit: it may be here, and not be the daemon's."""
        if expected is not None and is_whole(self, expected):
            raise AlreadyExists(f"content '{expected}' already exists")
        algorithm = None if expected is None else expected.algorithm
        return self._content.writer(REFS + ref, size=size, algorithm=algorithm)

    def commit(self, commit: Commit) -> ContentInfo:
        """As `Writer.commit`, but held from the moment on in which it is there."""
        try:
            self.info(commit.expected or commit.writer.digest())
            labels, had = {HOLD: "true"}, True
        except (NotFound, DataLoss):
            labels, had = {**commit.labels, HOLD: "true"}, False
        info = self._store.publish(self._ns, [commit._replace(labels=labels)]).content[0]
        if had:
            raise AlreadyExists(f"content '{info.digest}' already exists")
        return _bare(info)


def _bare(info: ContentInfo) -> ContentInfo:
    return info._replace(labels={key: value for key, value in info.labels.items() if key != HOLD})


def _ours(status: IngestStatus) -> IngestStatus:
    return status._replace(ref=status.ref.removeprefix(REFS))
