"""Content: the store and the publisher of events, joined."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from itertools import chain
from typing import Literal, NamedTuple, Protocol, TypeVar

from imgtool.digest import Digest
from imgtool.errors import AlreadyExists, DataLoss, NotFound, Unavailable
from imgtool.model import EMPTY, ContentInfo, IngestStatus
from imgtool.serve.contracts import Open, OutOfRange, Publisher
from imgtool.serve.local.readers import Readers
from imgtool.stores import Commit, IngestManager, Manager, Provider, Store, Writer

CHUNK = 1 << 20  # of what is read: as containerd's
WAIT = 1.0  # seconds that a ref is waited for: a client's close is only half a close
_PAUSE = 0.02

T = TypeVar("T")
Action = Literal["stat", "write", "commit"]


class Contents(Manager, Provider, IngestManager, Protocol):
    """What is needed of a `stores.ContentStore`."""

    def writer(
        self,
        ref: str,
        *,
        size: int | None = None,
        expected: Digest | None = None,
        lease: str | None = None,
    ) -> Writer: ...


class View(NamedTuple):
    """The content of one namespace as some clients see it, and how what they write is published."""

    content: Contents
    commit: Callable[[Commit], ContentInfo]


def plain(store: Store, namespace: str) -> View:
    """All of it, as it is."""
    return View(
        store.content(namespace),
        lambda commit: commit.writer.commit(size=commit.size, expected=commit.expected, labels=commit.labels),
    )


class Step(NamedTuple):
    """What a client asks of its write. `total` and `expected` are remembered: 0 and None say nothing."""

    action: Action
    offset: int = 0
    data: bytes = b""
    total: int = 0
    expected: Digest | None = None
    labels: Mapping[str, str] = EMPTY


class Progress(NamedTuple):
    """Where the write stands after a step. Only "stat" tells times and total."""

    action: Action
    offset: int
    digest: Digest
    started: int = 0
    updated: int = 0
    total: int = 0


class LocalContent:
    """See `stores.ContentStore` for errors.

    Args:
        open: opens the store.
        events: told of changes.
        view: what clients see of a namespace.
    """

    def __init__(self, open: Open, events: Publisher, view: Callable[[Store, str], View] = plain) -> None:
        self._open = open
        self._events = events
        self._view = view
        self._readers = Readers(open, lambda store, namespace: view(store, namespace).content)

    def info(self, namespace: str, digest: Digest) -> ContentInfo:
        with self._open() as store:
            return self._view(store, namespace).content.info(digest)

    def update(self, namespace: str, info: ContentInfo, paths: Sequence[str]) -> ContentInfo:
        with self._open() as store:
            updated = self._view(store, namespace).content.update(info, *paths)
        self._events.changed(namespace)
        return updated

    def list(self, namespace: str, filters: Sequence[str]) -> Iterator[ContentInfo]:
        """
        Raises:
            DataLoss: a record cannot be read. Without it the list would be taken for whole.
        """
        with self._open() as store:
            yield from self._view(store, namespace).content.list(*filters)

    def delete(self, namespace: str, digest: Digest) -> None:
        with self._open() as store:
            self._view(store, namespace).content.delete(digest)
        self._events.changed(namespace)

    def read(self, namespace: str, digest: Digest, offset: int, size: int) -> Iterator[bytes]:
        """The bytes from `offset` on, in chunks.

        Args:
            namespace: where it is recorded.
            digest: the content.
            offset: where to begin; below 0 is 0, as in containerd.
            size: how many, or up to the end where that is nearer; 0 and below: up to the end.

        Raises:
            OutOfRange: `offset` lies beyond the end.
            DataLoss: the object has become shorter meanwhile.
        """
        with self._readers.reading(namespace, digest) as reader:
            at = max(offset, 0)
            if at > reader.size:
                raise OutOfRange(f"offset {at} is past the end of content '{digest}' at {reader.size}")
            end = min(at + size, reader.size) if size > 0 else reader.size
            while at < end:
                data = reader.read_at(min(CHUNK, end - at), at)
                if not data:
                    raise DataLoss(f"object '{digest}' ends at {at}, its record says {reader.size}")
                at += len(data)
                yield data

    def status(self, namespace: str, ref: str) -> IngestStatus:
        with self._open() as store:
            return self._view(store, namespace).content.status(ref)

    def statuses(self, namespace: str, filters: Sequence[str]) -> Sequence[IngestStatus]:
        with self._open() as store:
            return list(self._view(store, namespace).content.statuses(*filters))

    def abort(self, namespace: str, ref: str) -> None:
        with self._open() as store:
            content = self._view(store, namespace).content
            _waiting(lambda: content.abort(ref))

    def write(self, namespace: str, ref: str, steps: Iterable[Step], lease: str | None) -> Iterator[Progress]:
        """Do the steps of a client one by one, each when the progress of the one before was taken. The
        first opens the write. What ends without "commit" stays, to be resumed.

        Raises:
            AlreadyExists: what a step expects is recorded and whole: the write is gone, and `lease` holds
                the content.
            OutOfRange: a step's offset is not where the write stands; 0 begins anew.
        """
        steps = iter(steps)
        first = next(steps, None)
        if first is None:
            return
        with self._open() as store, ExitStack() as stack:
            content, commit = self._view(store, namespace)
            expected, total = first.expected, max(first.total, 0)
            with self._beginning(store, namespace):
                writer = _waiting(
                    lambda: content.writer(ref, size=total or None, expected=expected, lease=lease)
                )
                stack.enter_context(writer)
            for step in chain((first,), steps):
                if step.expected is not None and is_whole(content, step.expected):
                    writer.close()
                    content.abort(ref)
                    if lease is not None:
                        store.leases(namespace).add(lease, "content", step.expected)
                    raise AlreadyExists(f"content '{step.expected}' already exists")
                expected, total = step.expected or expected, max(step.total, 0) or total
                if step.action == "stat":
                    status = writer.status()
                    yield Progress(
                        "stat", status.offset, writer.digest(), status.started, status.updated, total
                    )
                    continue
                offset = _written(writer, step)
                if step.action == "commit":
                    info = commit(Commit(writer, total or None, expected, step.labels))
                    self._events.changed(namespace)
                    yield Progress("commit", offset, info.digest)
                    return
                yield Progress("write", offset, writer.digest())

    def _beginning(self, store: Store, namespace: str) -> AbstractContextManager[None]:
        """A namespace that begins with a write is no event in containerd; the log cannot tell it from one
        that was asked for.
        """
        try:
            store.namespaces.get(namespace)
        except NotFound:
            return self._events.changing(namespace, namespace, None)
        except DataLoss:
            pass  # is the store's to judge
        return nullcontext()


def _written(writer: Writer, step: Step) -> int:
    """Add the bytes of a step; returns where the write stands then.

    Raises:
        OutOfRange: they belong elsewhere.
    """
    offset = writer.status().offset
    if step.offset and step.offset != offset:
        raise OutOfRange(f"write at {step.offset}, which must be at {offset}")
    if offset and not step.offset:
        writer.truncate(0)
        offset = 0
    return offset + (writer.write(step.data) if step.data else 0)


def is_whole(content: Contents, digest: Digest) -> bool:
    """Whether it is recorded and there. What is damaged may be written anew, which heals it."""
    try:
        content.reader(digest).close()
    except (NotFound, DataLoss):
        return False
    return True


def _waiting(attempt: Callable[[], T]) -> T:
    """Try again for a while as long as another has the ref.

    Raises:
        Unavailable: it has it still.
    """
    deadline = time.monotonic() + WAIT
    while True:
        try:
            return attempt()
        except Unavailable:
            if time.monotonic() >= deadline:
                raise
        time.sleep(_PAUSE)
