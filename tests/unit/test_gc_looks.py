"""What gc remembers from one look to the next, and from one gc to the next, is what there is.

Whatever is changed between two looks: the later one finds what one finds that remembers nothing.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgtool.digest import Digest
from imgtool.disk import DiskStore, cache, open_store, read
from imgtool.errors import ImgtoolError
from imgtool.model import ContentInfo, Descriptor, Image, Lease
from imgtool.oci import media
from imgtool.ops import documents, gc
from imgtool.stores import Garbage

from .gc_world import BACK, NS, OTHER, REF, ROOT, add, add_told, entry, index, manifest

TICK = 0.012  # seconds, in which the clock of the file system goes on
BLOBS = [b"blob %d" % n for n in range(3)]
_PARTS = [Digest.of(data) for data in BLOBS]
MANIFESTS = [manifest(_PARTS[0], _PARTS[1]), manifest(_PARTS[1], _PARTS[2])]
_TOPS = [Digest.of(data) for data in MANIFESTS]
DOCUMENTS = [
    *MANIFESTS,
    manifest(_PARTS[2], subject=_TOPS[0]),
    index(*(entry(top, media.OCI_MANIFEST) for top in _TOPS)),
]
PIECES = [*BLOBS, *DOCUMENTS]
DIGESTS = [Digest.of(data) for data in PIECES]
TYPES = [*[media.OCTETS] * len(BLOBS), *[media.OCI_MANIFEST] * 3, media.OCI_INDEX]
LABELS = [f"{REF}.l.0", f"{REF}.l.1", f"{REF}.config", BACK, ROOT]

Change = Callable[[DiskStore, str, int, int], object]
Doing = tuple[Change, str, int, int]
NONE = Garbage(content={}, leases={}, objects={}, litter=(), images={})


def put(store: DiskStore, ns: str, a: int, b: int) -> None:
    """Content; of a document its record may tell what it refers to."""
    data = PIECES[a % len(PIECES)]
    (add_told if data in DOCUMENTS and b % 2 else add)(store, data, ns)


def name(store: DiskStore, ns: str, a: int, b: int) -> None:
    """An image of it, which may be there with another target; its record may have waited to be put there."""
    n = b % len(DIGESTS)
    image = Image(f"image {a % 3}", Descriptor(TYPES[n], DIGESTS[n], len(PIECES[n])))
    try:
        store.images(ns).create(image)
    except ImgtoolError:
        store.images(ns).update(image, "target")
    if a % 2:
        os.utime(store.engine.layout.image(ns, image.name), ns=(1, 1))


def unname(store: DiskStore, ns: str, a: int, b: int) -> None:
    store.images(ns).delete(f"image {a % 3}")


def label(store: DiskStore, ns: str, a: int, b: int) -> None:
    """One more label, one less, or those that the document says."""
    digest, key = DIGESTS[a % len(DIGESTS)], LABELS[b % len(LABELS)]
    value = DIGESTS[b % len(DIGESTS)] if b % 3 else ""
    labels = {key: value}
    if digest in _TOPS and b % 2:
        parts = _PARTS[_TOPS.index(digest) :]
        labels = {f"{REF}.config": parts[0], f"{REF}.l.0": parts[1], f"{REF}.l.1": ""}
    store.content(ns).update(ContentInfo(digest, 0, labels), *(f"labels.{key}" for key in labels))


def hold(store: DiskStore, ns: str, a: int, b: int) -> None:
    leases = store.leases(ns)
    with suppress(ImgtoolError):
        leases.create(Lease("lease"))
    leases.add("lease", "content", DIGESTS[a % len(DIGESTS)])


def let_go(store: DiskStore, ns: str, a: int, b: int) -> None:
    store.leases(ns).delete("lease")


def drop(store: DiskStore, ns: str, a: int, b: int) -> None:
    store.content(ns).delete(DIGESTS[a % len(DIGESTS)])


def touch(store: DiskStore, ns: str, a: int, b: int) -> None:
    """Another mtime on a record or a directory, as a record has that was written long before it was
    renamed into place, or a store that was copied with its times.
    """
    paths = sorted(Path(store.engine.layout.namespaces, ns).rglob("*"))
    if paths:
        path = paths[a % len(paths)]
        os.utime(path, ns=[(1, 1), (path.stat().st_ctime_ns,) * 2][b % 2])


CHANGES: list[Change] = [put, name, name, name, unname, label, label, hold, let_go, drop, touch, touch]
CHANGE = st.tuples(
    st.sampled_from(CHANGES), st.sampled_from([NS, NS, OTHER]), st.integers(0, 11), st.integers(0, 11)
)


def do(store: DiskStore, changes: list[Doing]) -> None:
    """What is refused was none."""
    for change, ns, a, b in changes:
        with suppress(ImgtoolError):
            change(store, ns, a, b)
    time.sleep(TICK)


def fresh(root: str) -> Garbage:
    """The garbage, by a look that knows nothing."""
    with open_store(root) as store:
        return gc.find(store)


class Meddled(DiskStore):
    """A store that somebody changes between the two looks."""

    def __init__(self, root: str, changes: list[Doing]) -> None:
        with open_store(root) as store:
            super().__init__(store.engine)
        self._root, self._changes = root, changes
        self.garbage: Garbage | None = None

    @contextmanager
    def removing(self, about: int = 0) -> Iterator[Callable[[Garbage], None]]:
        with open_store(self._root) as other:
            do(other, self._changes)
        self.garbage = fresh(self._root)
        with super().removing(about) as remove:
            yield remove


def the_same(one: Garbage, other: Garbage) -> bool:
    """But for temporary files: the look itself has some."""
    return one._replace(litter=()) == other._replace(litter=())


@pytest.fixture(autouse=True, scope="module")
def eager() -> Iterator[None]:
    """Settled is what was so for two ticks; everything is worth keeping."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(read, "_SETTLED", int(TICK * 0.75e9))
        patch.setattr(cache, "_FEW", 0)
        patch.setattr(documents, "_FEW", 0)
        yield


def furnish(store: DiskStore, number: int) -> None:
    """All pieces, some of them under a name; and garbage, so that there is a second look."""
    for n in range(len(PIECES)):
        put(store, NS, n, n + number)
        put(store, OTHER, n, n)
    for n in range(3):
        name(store, NS, n, n + 3 + number)
    add(store, b"garbage %d" % number)


@given(*[st.lists(CHANGE, max_size=6)] * 4)
@settings(derandomize=True, max_examples=150, deadline=None)
def test_a_later_look_finds_what_there_is(
    before: list[Doing], between: list[Doing], after: list[Doing], again: list[Doing]
) -> None:
    """The second of one gc, and both of the next, which has the cache of the first."""
    with tempfile.TemporaryDirectory() as directory:
        root = f"{directory}/store"
        for number, (first, second) in enumerate([(before, between), (after, again)]):
            with open_store(root) as store:
                furnish(store, number)
                do(store, first)
            with Meddled(root, second) as store:
                removed = gc.collect(store)
            assert store.garbage
            assert the_same(removed, store.garbage)
            assert the_same(fresh(root), NONE)
            time.sleep(TICK)
