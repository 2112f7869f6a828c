"""The stores in dicts: a double for tests, and the shortest description of what a store does.

Behaves as `imgtool.disk` does, as far as `imgtool.stores` says, and passes the same suites in
`tests/conformance/`. It is for one thread, and keeps nothing when the process ends.
"""

from __future__ import annotations

import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, cast

from imgtool import clock, filters
from imgtool.digest import SHA256, Digest, new_hasher
from imgtool.errors import (
    AlreadyExists,
    FailedPrecondition,
    ImgtoolError,
    InvalidArgument,
    NotFound,
    Unavailable,
    from_oserror,
)
from imgtool.fieldpaths import merge_image, merge_labels
from imgtool.model import (
    ContentInfo,
    Happening,
    Image,
    IngestStatus,
    Lease,
    Namespace,
    Settings,
    Target,
    check_image,
    is_root_no_more,
    lets_go,
    replace,
    without_empty,
)
from imgtool.names import (
    EXPIRE,
    check_labels,
    check_name,
    check_namespace,
    check_ref,
    check_resource,
    for_gc,
    is_past,
)
from imgtool.stores import (
    Commit,
    ContentStore,
    Garbage,
    ImageStore,
    Inventory,
    LeaseStore,
    Litter,
    NamespaceStore,
    OnError,
    Published,
    Put,
    Reader,
    Store,
    Writer,
    check_live,
    check_seen,
    check_unheld,
    renewed,
)

if TYPE_CHECKING:
    from typing import Self

    from typing_extensions import Buffer

T = TypeVar("T")

CONTENT = "content"
IMAGES = "images"
INGESTS = "ingests"


@dataclass
class _Ingest:
    ref: str
    total: int
    started: int
    updated: int
    expires: int | None = None
    expected: Digest | None = None
    lease: str | None = None
    data: bytearray = field(default_factory=bytearray)
    busy: bool = False

    def status(self) -> IngestStatus:
        return IngestStatus(
            self.ref, len(self.data), self.total, self.started, self.updated, self.expires, self.expected
        )


@dataclass
class _Space:
    """What one namespace has."""

    record: Namespace | None = None
    images: dict[str, Image] = field(default_factory=dict)
    content: dict[Digest, ContentInfo] = field(default_factory=dict)
    leases: dict[str, Lease] = field(default_factory=dict)
    ingests: dict[str, _Ingest] = field(default_factory=dict)


class MemoryStore:
    """A new, empty Store."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self.spaces: dict[str, _Space] = {}
        self.blobs: dict[Digest, bytes] = {}
        self._happened: list[Happening] = []
        self._kept: dict[str, str] = {}

    @property
    def namespaces(self) -> NamespaceStore:
        return _Namespaces(self)

    def images(self, namespace: str) -> ImageStore:
        return _Images(self, namespace)

    def content(self, namespace: str) -> ContentStore:
        return _Content(self, namespace)

    def leases(self, namespace: str) -> LeaseStore:
        return _Leases(self, namespace)

    def space(self, namespace: str) -> _Space:
        return self.spaces.setdefault(namespace, _Space())

    def appear(self, namespace: str) -> _Space:
        """The space of `namespace`, which exists from now on."""
        space = self.space(namespace)
        if space.record is None:
            space.record = Namespace(namespace, created=clock.now())
            self.tell(namespace)
        return space

    def tell(self, namespace: str, *, deletes: bool = False) -> None:
        """Keep in mind that a record was changed, or deleted."""
        self._happened.append(Happening(namespace, deletes))

    def lent(self, digest: Digest, size: int | None) -> bytes | None:
        """The bytes, if a namespace lends them and they are so many."""
        data = self.blobs.get(digest)
        if data is None or (size and size != len(data)):
            return None
        spaces = [space for space in self.spaces.values() if digest in space.content]
        return data if any(s.record and self.settings.lends(s.record) for s in spaces) else None

    def publish(
        self,
        namespace: str,
        commits: Sequence[Commit] = (),
        puts: Sequence[Put] = (),
        *,
        hold: Lease | None = None,
        lease: str | None = None,
    ) -> Published:
        check_namespace(namespace)
        writers = [cast("_Writer", commit.writer) for commit in commits]
        digests = [w.verified(c.size, c.expected) for w, c in zip(writers, commits, strict=True)]
        for commit in commits:
            check_labels(commit.labels)
        if hold is not None:
            hold = _check_lease(hold)
        if lease is not None and (hold is None or hold.id != lease):
            check_live(self.leases(namespace).get(lease))
        content = [
            self._commit(namespace, writer, digest, commit.labels)
            for writer, digest, commit in zip(writers, digests, commits, strict=True)
        ]
        if hold is not None:
            self._hold(namespace, hold)
        outcomes = [self._put(namespace, put) for put in puts]
        if lease is not None:
            named = [(i, p.needs) for p, i in zip(puts, outcomes, strict=True) if isinstance(i, Image)]
            needed = {digest for _, needs in named for digest in needs}
            leases = self.leases(namespace)
            leases.add(lease, CONTENT, *digests, *sorted(needed))
            leases.add(lease, IMAGES, *(image.name for image, _ in named if EXPIRE in image.labels))
        return Published(content, outcomes)

    def _commit(
        self, namespace: str, writer: _Writer, digest: Digest, labels: Mapping[str, str]
    ) -> ContentInfo:
        space, now = self.appear(namespace), clock.now()
        self.blobs[digest] = writer.take(digest)
        self.tell(namespace)
        old = space.content.get(digest, ContentInfo(digest, len(self.blobs[digest]), {}, now, now))
        merged = without_empty({**old.labels, **labels})
        if merged != old.labels:
            old = replace(old, labels=merged, updated=now)
        space.content[digest] = old
        return old

    def _hold(self, namespace: str, lease: Lease) -> None:
        leases = self.appear(namespace).leases
        leases[lease.id] = renewed(leases.get(lease.id) or replace(lease, created=clock.now()), lease)
        self.tell(namespace)

    def _put(self, namespace: str, put: Put) -> Image | ImgtoolError:
        images, there = self.images(namespace), self.space(namespace).images.get(put.image.name)
        try:
            if there is None:
                return images.create(put.image, needs=put.needs)
            if put.over(there) is there:
                return there
            return images.update(put.image, needs=put.needs)
        except ImgtoolError as error:
            return error

    def objects(self) -> Iterator[tuple[Digest, int]]:
        return iter([(digest, len(self.blobs[digest])) for digest in sorted(self.blobs)])

    def litter(self, held: frozenset[tuple[str, str]]) -> Sequence[Litter]:
        return [
            Litter("ingest", namespace, ref, len(ingest.data))
            for namespace, space in self.spaces.items()
            for ref, ingest in space.ingests.items()
            if not ingest.busy
            and (namespace, ref) not in held
            and (ingest.expires is None or is_past(ingest.expires, clock.wall()))
        ]

    def remembering(self, *, keep: bool = False) -> AbstractContextManager[None]:
        return nullcontext()

    def recall(self, name: str) -> Any:
        return json.loads(self._kept.get(name, "null"))

    def keep(self, name: str, value: Any) -> None:
        self._kept[name] = json.dumps(value)

    def since_gc(self) -> Iterator[Happening]:
        return reversed(self._happened)

    def looking(self) -> Callable[[], None]:
        before = Counter(happening.namespace for happening in self._happened)

        def looked() -> None:
            now = Counter(happening.namespace for happening in self._happened)
            self._happened = [h for h in self._happened if now[h.namespace] != before[h.namespace]]

        return looked

    @contextmanager
    def removing(self) -> Iterator[Callable[[Garbage], None]]:
        yield self._remove

    def _remove(self, garbage: Garbage) -> None:
        for namespace, names in garbage.images.items():
            for name in names:
                self.space(namespace).images.pop(name, None)
        for namespace, digests in garbage.content.items():
            for digest in digests:
                self.space(namespace).content.pop(digest, None)
        for namespace, ids in garbage.leases.items():
            for id in ids:
                self.space(namespace).leases.pop(id, None)
        for digest in garbage.objects:
            self.blobs.pop(digest, None)
        for item in garbage.litter:
            ingests = self.space(item.namespace).ingests
            if item.name in ingests and not ingests[item.name].busy:
                del ingests[item.name]
        self._happened.clear()


class _Bound:
    """A part of a store, of one namespace."""

    def __init__(self, store: MemoryStore, namespace: str) -> None:
        self._store = store
        self._namespace = check_namespace(namespace)

    @property
    def _space(self) -> _Space:
        return self._store.space(self._namespace)

    def _tell(self, *, deletes: bool = False) -> None:
        self._store.tell(self._namespace, deletes=deletes)


class _Images(_Bound):
    def get(self, name: str) -> Image:
        image = self._space.images.get(check_name(name))
        if image is None:
            raise NotFound(f"image '{name}' not found")
        return image

    def names(self, *, on_error: OnError = None) -> list[str]:
        return sorted(self._space.images)

    def create(self, image: Image, *, needs: Iterable[Digest] = ()) -> Image:
        image = check_image(image)
        if image.name in self._space.images:
            raise AlreadyExists(f"image '{image.name}' already exists")
        self._need(needs)
        now = clock.now()
        return self._write(replace(image, created=now, updated=now))

    def update(
        self, image: Image, *paths: str, if_target: Digest | None = None, needs: Iterable[Digest] = ()
    ) -> Image:
        old = self.get(image.name)
        _check_target(old, if_target)
        new = check_image(merge_image(old, image, paths))
        self._need(needs)
        return self._write(replace(new, updated=clock.now()))

    def rename(self, name: str, new: str, *, if_target: Digest | None = None) -> Image:
        images = self._space.images
        old, there = images.get(check_name(name)), images.get(check_name(new, "new image name"))
        if name == new:
            raise InvalidArgument(f"image '{name}' cannot be renamed to itself")
        image = old or there
        if image is None:
            raise NotFound(f"image '{name}' not found")
        _check_target(image, if_target)
        moved = replace(image, name=new, updated=clock.now())
        if there is None:
            there = self._write(moved)
        elif replace(there, created=moved.created, updated=moved.updated) != moved:
            raise AlreadyExists(f"image '{new}' already exists")
        if images.pop(name, None):
            self._tell(deletes=True)
        return there

    def delete(
        self, name: str, *, target: Digest | None = None, seen: Image | None = None, unless_held: bool = False
    ) -> Image:
        image = self.get(name)
        _check_target(image, target)
        check_seen(image, seen)
        if unless_held:
            check_unheld(name, self._space.leases.values())
        del self._space.images[name]
        self._tell(deletes=True)
        return image

    def list(self, *filters_: str, on_error: OnError = None) -> Iterator[Image]:
        return _matching(self._space.images, filters.image_fields, filters_)

    def targets(self, *, on_error: OnError = None) -> dict[str, Target]:
        return {
            image.name: Target(image.target.digest, image.target.media_type, for_gc(image.labels))
            for image in self.list(on_error=on_error)
        }

    def _write(self, image: Image) -> Image:
        self._store.appear(self._namespace).images[image.name] = image
        self._tell()
        return image

    def _need(self, digests: Iterable[Digest]) -> None:
        for digest in digests:
            if digest not in self._space.content:
                raise NotFound(f"content {digest} not found")


class _Content(_Bound):
    def info(self, digest: Digest) -> ContentInfo:
        info = self._space.content.get(Digest.parse(digest))
        if info is None:
            raise NotFound(f"content {digest} not found")
        return info

    def update(self, info: ContentInfo, *paths: str) -> ContentInfo:
        old = self.info(info.digest)
        labels = merge_labels(old.labels, info.labels, paths, f"content {info.digest}")
        check_labels(labels)
        new = replace(old, labels=labels, updated=clock.now())
        self._space.content[new.digest] = new
        self._tell(deletes=is_root_no_more(old.labels, new.labels))
        return new

    def delete(self, digest: Digest) -> None:
        del self._space.content[self.info(digest).digest]
        self._tell(deletes=True)

    def reader(self, digest: Digest) -> Reader:
        return _Reader(self._store.blobs[self.info(digest).digest])

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
            self._lease(lease, CONTENT, str(expected))
            raise AlreadyExists(f"content {expected} already exists")
        now = clock.now()
        self._store.appear(self._namespace)
        ingest = self._space.ingests.setdefault(ref, _Ingest(ref, size or 0, now, now))
        if ingest.busy:
            raise Unavailable(f"ref '{ref}' is being written")
        if size and ingest.total and size != ingest.total:
            ingest.data.clear()
        ingest.total = size or ingest.total
        ingest.expected = expected
        ingest.lease = lease or ingest.lease
        ingest.expires = clock.wall() + clock.DAY if ingest.lease is None else None
        ingest.busy = True
        self._lease(lease, INGESTS, ref)
        lent = self._store.lent(expected, size) if expected and not ingest.data else None
        return _Writer(self, ingest, algorithm, lent)

    def stage(self, *, algorithm: str) -> Writer:
        new_hasher(algorithm)
        now = clock.now()
        return _Writer(self, _Ingest("", 0, now, now, busy=True), algorithm)

    def status(self, ref: str) -> IngestStatus:
        return self._ingest(ref).status()

    def statuses(self, *filters_: str) -> Iterator[IngestStatus]:
        found = {ref: ingest.status() for ref, ingest in self._space.ingests.items()}
        return _matching(found, filters.ingest_fields, filters_)

    def abort(self, ref: str) -> None:
        ingest = self._ingest(ref)
        if ingest.busy:
            raise Unavailable(f"ref '{ref}' is being written")
        self.forget(ingest)

    def list(self, *filters_: str, on_error: OnError = None) -> Iterator[ContentInfo]:
        return _matching(self._space.content, filters.content_fields, filters_)

    def inventory(self, *, on_error: OnError = None) -> Inventory:
        records = list(self.list(on_error=on_error))
        return Inventory(
            {info.digest: info.size for info in records},
            {info.digest: info.labels for info in records if info.labels},
        )

    def publish(self, commit: Commit) -> ContentInfo:
        """What `Writer.commit` does, for which content that is there is an error."""
        writer = cast("_Writer", commit.writer)
        digest = writer.verified(commit.size, commit.expected)
        if digest in self._space.content:
            writer.take(digest)
            raise AlreadyExists(f"content {digest} already exists")
        return self._store.publish(self._namespace, [commit]).content[0]

    def blob(self, digest: Digest) -> bytes | None:
        """An object of the store, whoever has it."""
        return self._store.blobs.get(digest)

    def forget(self, ingest: _Ingest, digest: Digest | None = None) -> None:
        """Drop an ingest; its lease then holds `digest`, if any."""
        self._space.ingests.pop(ingest.ref, None)
        if ingest.lease in self._space.leases:
            _Leases(self._store, self._namespace).land(ingest.lease, ingest.ref, digest)

    def _ingest(self, ref: str) -> _Ingest:
        ingest = self._space.ingests.get(check_ref(ref))
        if ingest is None:
            raise NotFound(f"ingest '{ref}' not found")
        return ingest

    def _lease(self, lease: str | None, type: str, *resources: str) -> None:
        if lease is not None:
            self._store.leases(self._namespace).add(lease, type, *resources)


class _Writer:
    """Bytes up to `_offset` are this write's; what lies behind is kept from before, for `replay`. Or they
    are lent.
    """

    def __init__(self, content: _Content, ingest: _Ingest, algorithm: str, lent: bytes | None = None) -> None:
        self.ref = ingest.ref
        self._content = content
        self._ingest = ingest
        self._algorithm = algorithm
        self._lent = lent
        self._offset = len(ingest.data if lent is None else lent)

    def status(self) -> IngestStatus:
        total = self._ingest.total if self._lent is None else len(self._lent)
        return replace(self._ingest.status(), offset=self._offset, total=total)

    def digest(self) -> Digest:
        return self._digest(self._algorithm)

    def write(self, data: Buffer, /) -> int:
        new, kept = bytes(data), self._ingest.data
        if self._lent is not None and new:
            kept[:], self._lent = self._lent, None
        end = self._offset + len(new)
        if kept[self._offset : end] != new:
            kept[self._offset :] = new
        self._offset = end
        self._ingest.updated = clock.now()
        return len(new)

    def copy_from(self, fd: int, limit: int | None = None) -> int:
        start = self._offset
        while limit is None or self._offset - start <= limit:
            try:
                data = os.read(fd, 1 << 16 if limit is None else limit + 1 - (self._offset - start))
            except OSError as error:
                raise from_oserror(error, "cannot read the source") from error
            if not data:
                break
            self.write(data)
        return self._offset - start

    def truncate(self, size: int) -> None:
        if size != 0:
            raise InvalidArgument(f"cannot truncate ingest '{self.ref}' to {size} bytes, only to 0")
        self.replay()
        self._ingest.data.clear()

    def replay(self) -> None:
        self._lent = None
        self._offset = 0

    def reader(self) -> _Reader:
        return _Reader(self._bytes())

    def finish(self) -> None:
        pass

    def commit(
        self,
        *,
        size: int | None = None,
        expected: Digest | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> ContentInfo:
        return self._content.publish(Commit(self, size, expected, labels or {}))

    def close(self) -> None:
        self._ingest.busy = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def verified(self, size: int | None, expected: Digest | None) -> Digest:
        """The digest to publish under, compared as `commit` promises."""
        if size is not None and size != self._offset:
            raise FailedPrecondition(f"content for '{self.ref}' has {self._offset} bytes, expected {size}")
        found = self._digest(expected.algorithm if expected else self._algorithm)
        if expected is not None and found != expected:
            raise FailedPrecondition(f"content for '{self.ref}' is {found}, expected {expected}")
        if self._lent is not None and self._content.blob(self.digest()) is None:
            raise Unavailable(f"content for '{self.ref}' was to be {self.digest()}, which is gone")
        return found

    def take(self, digest: Digest) -> bytes:
        """End the write, whose bytes are `digest`, and hand over the bytes."""
        self._content.forget(self._ingest, digest)
        return self._bytes()

    def _digest(self, algorithm: str) -> Digest:
        return Digest.of(self._bytes(), algorithm)

    def _bytes(self) -> bytes:
        return bytes(self._ingest.data[: self._offset]) if self._lent is None else self._lent


class _Reader(io.BytesIO):
    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.size = len(data)

    def read_at(self, n: int, offset: int) -> bytes:
        return self.getvalue()[offset : offset + n]


class _Leases(_Bound):
    def get(self, id: str) -> Lease:
        lease = self._space.leases.get(check_name(id, "lease id"))
        if lease is None:
            raise NotFound(f"lease '{id}' not found")
        return lease

    def create(self, lease: Lease) -> Lease:
        lease = _check_lease(lease)
        if lease.id in self._space.leases:
            raise AlreadyExists(f"lease '{lease.id}' already exists")
        self._store.appear(self._namespace)
        return self._write(replace(lease, created=clock.now()))

    def update(self, lease: Lease, *paths: str) -> Lease:
        old = self.get(lease.id)
        labels = merge_labels(old.labels, lease.labels, paths, f"lease '{lease.id}'")
        return self._write(_check_lease(replace(old, labels=labels)))

    def delete(self, id: str) -> None:
        del self._space.leases[self.get(id).id]
        self._tell(deletes=True)

    def add(self, id: str, type: str, *resources: str, needs: Iterable[Digest] = ()) -> None:
        held = check_live(self.get(id)).resources
        checked = [check_resource(type, resource) for resource in resources]
        for digest in needs:
            if digest not in self._space.content:
                raise NotFound(f"content {digest} not found")
        self._hold(id, type, (*held.get(type, ()), *checked))

    def remove(self, id: str, type: str, *resources: str) -> None:
        held = self.get(id).resources
        self._hold(id, type, [r for r in held.get(type, ()) if r not in resources])

    def land(self, id: str, ref: str, digest: Digest | None) -> None:
        """An ingest under the lease ends, and becomes `digest` under it, if any."""
        lease = self.get(id)
        held = {**lease.resources, INGESTS: [r for r in lease.resources.get(INGESTS, ()) if r != ref]}
        if digest:
            held[CONTENT] = [*held.get(CONTENT, ()), digest]
        self._write(_check_lease(replace(lease, resources=held)))

    def list(self, *filters_: str, on_error: OnError = None) -> Iterator[Lease]:
        return _matching(self._space.leases, filters.lease_fields, filters_)

    def _hold(self, id: str, type: str, resources: Iterable[str]) -> None:
        old = self.get(id)
        self._write(_check_lease(replace(old, resources={**old.resources, type: tuple(resources)})))

    def _write(self, lease: Lease) -> Lease:
        old = self._space.leases.get(lease.id)
        self._space.leases[lease.id] = lease
        self._tell(deletes=old is not None and lets_go(old.resources, lease.resources))
        return lease


class _Namespaces:
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
        self._store.tell(name, deletes=bool(space.leases))

    def list(self, *filters_: str, on_error: OnError = None) -> Iterator[Namespace]:
        found = {name: s.record for name, s in self._store.spaces.items() if s.record is not None}
        return _matching(found, filters.namespace_fields, filters_)

    def _write(self, namespace: Namespace) -> Namespace:
        self._store.space(namespace.name).record = namespace
        self._store.tell(namespace.name)
        return namespace


def _matching(
    records: Mapping[str, T] | Mapping[Digest, T], fields: Callable[[T], filters.Adaptor], args: Sequence[str]
) -> Iterator[T]:
    """The records that match, in the order of their keys, as they are now."""
    found = filters.compile(args)
    ordered = [record for _, record in sorted(records.items(), key=lambda item: item[0])]
    return iter([record for record in ordered if found.matches(fields(record))])


def _check_target(image: Image, digest: Digest | None) -> None:
    if digest is not None and image.target.digest != digest:
        raise FailedPrecondition(f"image '{image.name}' is {image.target.digest}, not {digest}")


def _check_lease(lease: Lease) -> Lease:
    """`lease` as a store holds it: each resource once, no empty labels, no type without resources."""
    check_name(lease.id, "lease id")
    check_labels(lease.labels, limited=False)
    for type, ids in lease.resources.items():
        for text in (type, *ids):
            check_name(text, "lease resource")
    resources = {type: tuple(dict.fromkeys(ids)) for type, ids in lease.resources.items() if ids}
    return replace(lease, labels=without_empty(lease.labels), resources=resources)


if TYPE_CHECKING:
    _: Store = MemoryStore()
