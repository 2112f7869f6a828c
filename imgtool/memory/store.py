"""Where the parts are joined: images, content, leases and namespaces over one dict of bytes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, cast

from imgtool import clock
from imgtool.digest import Digest
from imgtool.errors import ImgtoolError
from imgtool.memory.content import MemoryContent
from imgtool.memory.images import MemoryImages
from imgtool.memory.leases import MemoryLeases, check_lease
from imgtool.memory.namespaces import MemoryNamespaces
from imgtool.memory.space import Record, Space
from imgtool.memory.writer import MemoryWriter
from imgtool.model import (
    ContentInfo,
    Happening,
    Image,
    Lease,
    Namespace,
    Settings,
    is_root_no_more,
    lets_go,
    replace,
    without_empty,
)
from imgtool.names import EXPIRE, check_labels, check_namespace, is_past
from imgtool.rules import check_live, corrected, renewed
from imgtool.stores import (
    Commit,
    ContentStore,
    Entry,
    Garbage,
    ImageStore,
    LeaseStore,
    Litter,
    NamespaceStore,
    Published,
    Put,
    Records,
    Store,
)


class MemoryStore:
    """A new, empty Store."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self.spaces: dict[str, Space] = {}
        self.blobs: dict[Digest, bytes] = {}
        self._history: dict[str, list[Entry]] = {}
        self._happened: list[Happening] = []
        self._kept: dict[str, str] = {}

    @property
    def namespaces(self) -> NamespaceStore:
        return MemoryNamespaces(self)

    def images(self, namespace: str) -> ImageStore:
        return MemoryImages(self, namespace)

    def content(self, namespace: str) -> ContentStore:
        return MemoryContent(self, namespace)

    def leases(self, namespace: str) -> LeaseStore:
        return MemoryLeases(self, namespace)

    def space(self, namespace: str) -> Space:
        return self.spaces.setdefault(namespace, Space())

    def appear(self, namespace: str) -> Space:
        """The space of `namespace`, which exists from now on."""
        space = self.space(namespace)
        if space.record is None:
            space.record = Namespace(namespace, created=clock.now())
            self.tell(namespace, "namespace", namespace, None, space.record)
        return space

    def tell(self, namespace: str, kind: str, name: str, old: Record | None, new: Record | None) -> None:
        """Keep in mind what a record was, and what it is now."""
        if new != old:
            self.remember(namespace, Entry(clock.now(), kind, name, old, new))
            self._happened.append(Happening(namespace, _deletes(old, new)))

    def remember(self, namespace: str, entry: Entry) -> None:
        self._history.setdefault(namespace, []).append(entry)

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
        writers = [cast("MemoryWriter", commit.writer) for commit in commits]
        digests = [w.verified(c.size, c.expected) for w, c in zip(writers, commits, strict=True)]
        for commit in commits:
            check_labels(commit.labels)
        if hold is not None:
            hold = check_lease(hold)
        if lease is not None and (hold is None or hold.id != lease):
            check_live(self.leases(namespace).get(lease))
        content = [
            self._commit(namespace, writer, digest, commit)
            for writer, digest, commit in zip(writers, digests, commits, strict=True)
        ]
        if hold is not None:
            self._hold(namespace, hold)
        outcomes = [self._put(namespace, put) for put in puts]
        if lease is not None:
            named = [(i, p.needs) for p, i in zip(puts, outcomes, strict=True) if isinstance(i, Image)]
            needed = {digest for _, needs in named for digest in needs}
            leases = self.leases(namespace)
            leases.add(lease, "content", *digests, *sorted(needed))
            leases.add(lease, "images", *(image.name for image, _ in named if EXPIRE in image.labels))
        return Published(content, outcomes)

    def _commit(self, namespace: str, writer: MemoryWriter, digest: Digest, commit: Commit) -> ContentInfo:
        space, now = self.appear(namespace), clock.now()
        self.blobs[digest] = writer.take(digest)
        old = space.content.get(digest)
        new = old or ContentInfo(digest, len(self.blobs[digest]), {}, now, now)
        labels = without_empty({**new.labels, **commit.labels})
        references = corrected(new.references, commit.references, is_document=commit.is_document)
        if (labels, references) != (new.labels, new.references):
            new = replace(new, labels=labels, references=references, updated=now)
        space.content[digest] = new
        self.tell(namespace, "content", digest, old, new)
        return new

    def _hold(self, namespace: str, lease: Lease) -> None:
        leases = self.appear(namespace).leases
        old = leases.get(lease.id)
        leases[lease.id] = renewed(old or replace(lease, created=clock.now()), lease)
        self.tell(namespace, "lease", lease.id, old, leases[lease.id])

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

    def dry_run(self) -> Records:
        copy = MemoryStore(self.settings)
        copy.spaces, copy.blobs = {name: space.copy() for name, space in self.spaces.items()}, self.blobs
        return copy

    def history(self, namespace: str) -> Iterator[Entry]:
        return iter(self._history.get(check_namespace(namespace), [])[::-1])

    def object_size(self, digest: Digest) -> int | None:
        return len(self.blobs[digest]) if digest in self.blobs else None

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
    def removing(self, about: int = 0) -> Iterator[Callable[[Garbage], None]]:
        yield self._remove

    def _remove(self, garbage: Garbage) -> None:
        for namespace, names in garbage.images.items():
            for name in names:
                self.tell(namespace, "image", name, self.space(namespace).images.pop(name, None), None)
        for namespace, ids in garbage.leases.items():
            for id in ids:
                self.space(namespace).leases.pop(id, None)
                self.remember(namespace, Entry(clock.now(), "lease", id, by_gc=True))
        for namespace, digests in garbage.content.items():
            for digest in digests:
                self.space(namespace).content.pop(digest, None)
                self.remember(namespace, Entry(clock.now(), "content", digest, by_gc=True))
        for digest in garbage.objects:
            self.blobs.pop(digest, None)
        for item in garbage.litter:
            ingests = self.space(item.namespace).ingests
            if item.name in ingests and not ingests[item.name].busy:
                del ingests[item.name]
        self._happened.clear()


def _deletes(old: Record | None, new: Record | None) -> bool:
    """See `model.Happening`."""
    if new is None:
        return not isinstance(old, Namespace)
    if isinstance(old, ContentInfo):
        return is_root_no_more(old.labels, new.labels)
    return isinstance(old, Lease) and isinstance(new, Lease) and lets_go(old.resources, new.resources)


if TYPE_CHECKING:
    _: Store = MemoryStore()
