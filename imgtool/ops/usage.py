"""Who holds the space: what each image, repository or namespace keeps alone, and what with others.

An object is kept by an image, a lease, a label or an ingest, as gc sees it; and by several of them once
for each, whatever the number of ways. Counted are objects, never records.

Only records and documents are read. What cannot be read is passed over: it may keep more than is told.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from imgtool.digest import Digest
from imgtool.errors import DataLoss, ImgtoolError
from imgtool.oci.references import repository_of
from imgtool.ops.documents import Document, Documents
from imgtool.ops.labels import BACK, BACK_IMAGE, IMAGE
from imgtool.ops.mark import FLAT_IMAGE, INGEST, Node, Space, spaces
from imgtool.ops.retention import NAMESPACE, REPOSITORY

if TYPE_CHECKING:
    from imgtool.stores import OnError, Provider, Store

Held = frozenset[Digest]


class Part(NamedTuple):
    """An image, repository or namespace, and bytes of objects.

    `unique`: what gc would free were it gone. `shared`: what something else keeps as well. `total`: all
    that it reaches; which is the sum of both, unless an image is past its time and gc is about to take it.
    All three are None where a document cannot be read.
    """

    namespace: str
    name: str
    unique: int | None
    shared: int | None
    total: int | None


class Totals(NamedTuple):
    """Bytes in the store. `objects` is the sum of the three behind it.

    `images`: what any image keeps. `held`: what only leases, labels and ingests keep. `garbage`: what
    nothing keeps. `litter`: what unfinished writes have left, which gc takes too.
    """

    objects: int
    images: int
    held: int
    garbage: int
    litter: int


class Survey:
    """What a store holds.

    Args:
        store: what to look at; no lock is taken.
        on_error: called for each record, document and object that cannot be read; None raises at the first.

    Raises:
        DataLoss: one cannot be read.
    """

    def __init__(self, store: Store, *, on_error: OnError = None) -> None:
        self._store = store
        self._documents = _Tolerant(store.settings.follow, on_error)
        self._spaces = spaces(store, documents=self._documents, on_error=on_error)
        self._objects: dict[Digest, int] = dict(store.objects())
        for space in self._spaces:
            space.recorded.compare(self._objects, self._documents.report)
        self._kept = {space.name: _content(space, space.nodes()) for space in self._spaces}

    def parts(self, by: str) -> Iterator[Part]:
        """What is held, of all namespaces, in byte order of namespace and name.

        Args:
            by: IMAGE, REPOSITORY (of the images of one namespace) or NAMESPACE.
        """
        groups = [group for space in self._spaces for group in self._groups(space, by)]
        holders = Counter[Digest]()
        for held, times in Counter(group.held for group in groups).items():
            for digest in held:
                holders[digest] += times
        sizes: dict[tuple[Held, Held], tuple[int, int, int]] = {}
        for group in groups:
            if group.name is None:
                continue
            if not self._documents.broken.isdisjoint(group.reached):
                yield Part(group.namespace, group.name, None, None, None)
                continue
            key = group.held, group.reached
            if key not in sizes:
                alone = [digest for digest in group.held if holders[digest] == 1]
                kept = [digest for digest in group.reached if holders[digest]]
                unique = self._size(alone)
                sizes[key] = unique, self._size(kept) - unique, self._size(group.reached)
            yield Part(group.namespace, group.name, *sizes[key])

    def totals(self) -> Totals:
        """What is held by whom, and what nothing holds."""
        kept, of_images = set[Digest](), set[Digest]()
        held = set[tuple[str, str]]()
        for space in self._spaces:
            kept |= self._kept[space.name]
            of_images |= _content(space, _walk(space, _live_images(space)))
            held.update((space.name, ref) for ref in space.held)
        objects, all_kept, images = (self._size(digests) for digests in (self._objects, kept, of_images))
        return Totals(
            objects=objects,
            images=images,
            held=all_kept - images,
            garbage=objects - all_kept,
            litter=sum(item.size for item in self._store.litter(frozenset(held))),
        )

    def _groups(self, space: Space, by: str) -> Iterator[_Group]:
        """The parts of a namespace, and nameless what something else keeps in it."""
        if by == NAMESPACE:
            yield _Group(space.name, space.name, self._kept[space.name], self._kept[space.name])
            return
        live = set(_live_images(space))
        found: dict[tuple[frozenset[Node], bool], Held] = {}

        def content(starts: Iterable[Node], *, through: bool) -> Held:
            # Many names of one image are one walk, and one set.
            key = frozenset(starts), through
            if key not in found:
                found[key] = _content(space, _walk(space, key[0], () if through else live))
            return found[key]

        for name, images in _named(space, by).items():
            nodes = [(image, IMAGE) for image in images]
            below = [node for image in nodes for node, _ in space.edges(image)]
            # An image that another refers to, or a lease lists, keeps its content by its own name.
            held = content(
                (
                    node
                    for image in nodes
                    if image in live
                    for node, by in space.edges(image)
                    if not (_is_back(by) and node in live)
                ),
                through=False,
            )
            yield _Group(space.name, name, held, content(below, through=True))
        others = (root.node for root in space.roots if root.kind != IMAGE)
        held = content(others, through=False)
        yield _Group(space.name, None, held, held)

    def _size(self, digests: Iterable[Digest]) -> int:
        return sum(self._objects.get(digest, 0) for digest in digests)


class _Group(NamedTuple):
    """`held` is kept by it, whatever else keeps it; `reached` is all that it leads to."""

    namespace: str
    name: str | None
    held: Held
    reached: Held


class _Tolerant(Documents):
    """Documents of which those that cannot be read are reported, once, and lead nowhere."""

    def __init__(self, follow: str, on_error: OnError) -> None:
        super().__init__(follow)
        self.broken: set[str] = set()
        self._reported: set[str] = set()
        self._on_error = on_error

    def read(self, provider: Provider, digest: str, size: int, kind: str) -> Document | None:
        if digest in self.broken:
            return None
        try:
            return super().read(provider, digest, size, kind)
        except DataLoss as error:
            self.broken.add(digest)
            self.report(digest, error)
            return None

    def report(self, digest: str, error: ImgtoolError) -> None:
        """Tell of content that cannot be read.

        Raises:
            DataLoss: nobody listens.
        """
        if self._on_error is None:
            raise error
        if digest not in self._reported:
            self._reported.add(digest)
            self._on_error(error)


def _named(space: Space, by: str) -> Mapping[str, list[str]]:
    """The images of a namespace by the names of the parts that they belong to."""
    found: dict[str, list[str]] = {}
    for image in space.images:
        found.setdefault(repository_of(image) if by == REPOSITORY else image, []).append(image)
    return {
        name: found[name] for name in sorted(found, key=lambda name: name.encode("utf-8", "surrogatepass"))
    }


def _live_images(space: Space) -> list[Node]:
    return [root.node for root in space.roots if root.kind == IMAGE]


def _is_back(by: str) -> bool:
    """Whether the edge is a back reference: a label of what it leads to, which stands where what it comes
    from is gone.
    """
    return by.startswith((BACK, BACK_IMAGE))


def _walk(space: Space, starts: Iterable[Node], without: Collection[Node] = ()) -> set[Node]:
    """All that `starts` lead to, and themselves.

    Args:
        without: nodes of images that are to lead on as if their records were not there.
    """
    marked = set(starts)
    todo = list(marked)
    while todo:
        here = todo.pop()
        for node, by in space.edges(here):
            gone = node if _is_back(by) else here
            if node not in marked and not (gone[1] in (IMAGE, FLAT_IMAGE) and (gone[0], IMAGE) in without):
                marked.add(node)
                todo.append(node)
    return marked


def _content(space: Space, nodes: Iterable[Node]) -> Held:
    """The content that is kept where `nodes` are reached."""
    found = set[Digest]()
    for name, kind in nodes:
        if kind == INGEST:
            if expected := space.ingests.get(name):
                found.add(expected)
        elif kind not in (IMAGE, FLAT_IMAGE) and name in space.recorded.sizes:
            found.add(Digest(name))
    return frozenset(found)
