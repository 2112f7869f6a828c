"""Garbage: what no root reaches any more, and removing it.

The rules are containerd's (`core/metadata/gc.go`): mark and sweep over records, each namespace for
itself, edges from labels. Beyond those, manifests and indexes are read here, so that an image
without labels keeps its parts, and a manifest with a `subject` lives as long as its subject.

Whatever cannot be read might be what something hangs on: then nothing at all is removed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from imgtool import clock
from imgtool.digest import Digest
from imgtool.errors import DataLoss, InvalidArgument, NotFound
from imgtool.oci import blob, descriptor, manifest, media
from imgtool.oci.strictjson import LIMIT
from imgtool.ops.hold import EXPIRE
from imgtool.stores import Garbage

if TYPE_CHECKING:
    from imgtool.model import ContentInfo, Lease
    from imgtool.oci.manifest import Manifest
    from imgtool.stores import Provider, Store

ROOT = "containerd.io/gc.root"
FLAT = "containerd.io/gc.flat"
BACK = "containerd.io/gc.bref.content"

# What is known of content before it is opened: the media type of a manifest or index, or one of these.
_LEAF = "leaf"
_UNKNOWN = "unknown"

_Node = tuple[Digest, str]


def find(store: Store) -> Garbage:
    """What a gc of `store`, as it is now, removes. Takes no lock and writes nothing.

    Raises:
        DataLoss: a record, or a manifest that a root reaches, cannot be read; content is recorded
            whose object is missing or has another size.
    """
    return _find(store, _Documents())


def collect(store: Store, *, dry_run: bool = False) -> Garbage:
    """Remove the garbage of `store`, and return it: only what is garbage still when no other command
    can change the store. Where there is none, nothing is locked and nothing written.

    Args:
        dry_run: return what `find` does, and remove nothing.

    Raises:
        DataLoss: as `find`; nothing was removed.
        Unavailable: others do not stop changing the store; nothing was removed.
    """
    documents = _Documents()
    with store.remembering():
        garbage = _find(store, documents)
        if dry_run or not any(garbage):
            return garbage
        with store.removing() as remove:
            garbage = _find(store, documents)
            remove(garbage)
        return garbage


def _find(store: Store, documents: _Documents) -> Garbage:
    now = clock.wall()
    spaces = [_Space(store, namespace.name, documents, now) for namespace in store.namespaces.list()]
    objects = dict(store.objects())
    for space in spaces:
        space.compare(objects)
        space.mark()
    live = set[Digest]().union(*(space.live() for space in spaces))
    return Garbage(
        content={space.name: dead for space in spaces if (dead := space.dead())},
        leases={space.name: space.expired for space in spaces if space.expired},
        objects={digest: size for digest, size in objects.items() if digest not in live},
        litter=store.litter(frozenset((space.name, ref) for space in spaces for ref in space.held)),
    )


class _Space:
    """One namespace: what it has, and what of that is reached.

    Args:
        now: leases and ingests whose time is up by then are no roots.
    """

    def __init__(self, store: Store, name: str, documents: _Documents, now: int) -> None:
        self.name = name
        self._documents = documents
        self._content = store.content(name)
        self._records = {info.digest: info for info in self._content.list()}
        self._roots: list[_Node] = []
        self._flat: set[Digest] = set()
        self._expected: set[Digest] = set()
        self._marked: set[_Node] = set()
        self._reached: set[Digest] = set()
        self._back: dict[Digest, list[Digest]] = {}
        self.held: set[str] = set()
        self.expired: list[str] = []

        for image in store.images(name).list():
            self._roots.append((image.target.digest, _kind(image.target.media_type)))
            self._roots += _unknown(references(image.labels))
        for info in self._records.values():
            if ROOT in info.labels:
                self._roots.append((info.digest, _UNKNOWN))
            for parent in references(info.labels, BACK):
                self._back.setdefault(parent, []).append(info.digest)
        for lease in store.leases(name).list():
            if _is_expired(lease, now):
                self.expired.append(lease.id)
                continue
            self.held.update(lease.resources.get("ingests", ()))
            content = list(_digests(lease.resources.get("content", ())))
            if FLAT in lease.labels:
                self._flat.update(content)
            else:
                self._roots += _unknown(content)
        for status in self._content.statuses():
            alive = status.ref in self.held or (status.expires is not None and status.expires > now)
            if alive and status.expected is not None:
                self._expected.add(status.expected)
        self._roots += _unknown(self._expected)

    def compare(self, objects: Mapping[Digest, int]) -> None:
        """Compare the records with the objects that there are and their sizes.

        Raises:
            DataLoss: an object is missing or has another size.
        """
        for digest, info in list(self._records.items()):
            if objects.get(digest) != info.size:
                try:
                    self._content.reader(digest).close()
                except NotFound:
                    del self._records[digest]  # removed since it was read

    def mark(self) -> None:
        """Reach what the roots reach; then the referrers of what is reached that no label tells of."""
        self._mark(self._roots)
        found: list[Digest] = []
        for digest, info in self._records.items():
            if digest in self._reached:
                continue
            document = self._read_unreached(info)
            if document and document.subject:
                self._back.setdefault(document.subject, []).append(digest)
                if document.subject in self._reached:
                    found.append(digest)
        self._mark(_unknown(found))

    def live(self) -> set[Digest]:
        """What this namespace keeps."""
        return self._expected | self._reached | (self._flat & self._records.keys())

    def dead(self) -> list[Digest]:
        """The records that nothing reaches, what refers before what it refers to."""
        live = self.live()
        return _referrers_first([digest for digest in self._records if digest not in live], self._refers_to)

    def _mark(self, nodes: Iterable[_Node]) -> None:
        todo = list(nodes)
        while todo:
            node = todo.pop()
            digest, kind = node
            info = self._records.get(digest)
            if info is None or node in self._marked:
                continue
            self._marked.add(node)
            self._reached.add(digest)
            children = document.children if (document := self._read(info, kind)) else ()
            todo += children
            known = {child for child, _ in children}
            todo += _unknown(child for child in references(info.labels) if child not in known)
            todo += _unknown(self._back.get(digest, ()))

    def _refers_to(self, digest: Digest) -> list[Digest]:
        info = self._records[digest]
        document = self._read(info, _UNKNOWN)
        found = [child for child, _ in document.children] if document else []
        if document and document.subject:
            found.append(document.subject)
        return [*found, *references(info.labels), *references(info.labels, BACK)]

    def _read_unreached(self, info: ContentInfo) -> _Document | None:
        try:
            return self._read(info, _UNKNOWN)
        except DataLoss as error:
            raise DataLoss(
                f"cannot tell what is garbage: {error.message}, and it may be about an image",
                hint=f"ingest it again, which heals it; or give it up with imgtool content rm {info.digest}",
            ) from None

    def _read(self, info: ContentInfo, kind: str) -> _Document | None:
        try:
            return self._documents.read(self._content, info, kind)
        except NotFound:
            return None  # removed since it was listed


class _Document(NamedTuple):
    """What a manifest or index refers to."""

    children: tuple[_Node, ...]
    subject: Digest | None


class _Documents:
    """Manifests and indexes, each read once, however often it is met and in however many namespaces."""

    def __init__(self) -> None:
        self._known: dict[_Node, _Document | None] = {}

    def read(self, provider: Provider, info: ContentInfo, kind: str) -> _Document | None:
        """What the content refers to; None if it is a leaf.

        Raises:
            NotFound: `provider` does not have it.
            DataLoss: it has other bytes, or a manifest is malformed.
        """
        if kind == _LEAF or (kind == _UNKNOWN and not 0 < info.size <= LIMIT):
            return None
        node = info.digest, kind
        if node not in self._known:
            self._known[node] = _read(provider, info.digest, kind)
        return self._known[node]


def _read(provider: Provider, digest: Digest, kind: str) -> _Document | None:
    if kind == _UNKNOWN:
        with provider.reader(digest) as reader:
            if not _may_be_json(reader.read(1)):
                return None
    try:
        raw = blob.read(provider, digest)
        media_type = manifest.detect(raw) if kind == _UNKNOWN else kind
        if media_type is None:
            return None
        return _document(manifest.parse(raw, media_type, f"manifest {digest}"))
    except InvalidArgument as error:
        raise DataLoss(
            f"cannot tell what is garbage: {error.message}",
            hint="gc removes nothing until the images or leases that reach it are deleted",
        ) from None


def _may_be_json(start: bytes) -> bool:
    """Whether a document may begin so, were one bit of it right that is wrong: then it is read, and
    its digest shows the damage. White space is allowed before JSON, and nobody writes it there.
    """
    return start in (b" ", b"\t", b"\r", b"\n") or (start[0] ^ ord("{")).bit_count() <= 1


def _document(found: Manifest) -> _Document:
    children: list[_Node] = []
    todo = [found]
    while todo:
        for child in todo.pop().children():
            kind = _kind(child.media_type)
            children.append((child.digest, kind))
            inline = descriptor.inline(child)
            if inline is not None and media.has_children(kind):
                todo.append(manifest.parse(inline, kind, f"manifest {child.digest}"))
    return _Document(tuple(children), found.subject and found.subject.digest)


def _kind(media_type: str) -> str:
    if media.has_children(media_type):
        return media_type
    return _LEAF if media.is_layer(media_type) or media.is_config(media_type) else _UNKNOWN


def _unknown(digests: Iterable[Digest]) -> Iterator[_Node]:
    return ((digest, _UNKNOWN) for digest in digests)


def references(labels: Mapping[str, str], key: str = media.GC_REF) -> Iterator[Digest]:
    """The digests in the labels `key`, `key.…` and `key/…`."""
    return _digests(
        value
        for name, value in labels.items()
        if name.startswith(key) and name[len(key) :][:1] in ("", ".", "/")
    )


def _digests(texts: Iterable[str]) -> Iterator[Digest]:
    """Those of `texts` that are digests; what is none names nothing that there is."""
    for text in texts:
        try:
            yield Digest.parse(text)
        except InvalidArgument:
            continue


def _is_expired(lease: Lease, now: int) -> bool:
    try:
        return clock.parse_time(lease.labels[EXPIRE]) <= now
    except (KeyError, InvalidArgument):
        return False


def _referrers_first(digests: list[Digest], references: Callable[[Digest], Iterable[Digest]]) -> list[Digest]:
    """`digests` so that each comes before those of them that it refers to; a cycle is cut somewhere."""
    order: list[Digest] = []
    unseen = set(digests)
    for start in reversed(digests):
        stack: list[tuple[Digest, Iterator[Digest]]] = []
        following: Digest | None = start if start in unseen else None
        while stack or following is not None:
            if following is not None:
                unseen.discard(following)
                stack.append((following, iter(references(following))))
            following = next((digest for digest in stack[-1][1] if digest in unseen), None)
            if following is None:
                order.append(stack.pop()[0])
    return order[::-1]
