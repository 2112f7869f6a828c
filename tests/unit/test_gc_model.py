"""gc against reachability as its rules say it, computed the slow way, over random worlds."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from imgtool.digest import Digest
from imgtool.disk import open_store
from imgtool.memory import MemoryStore
from imgtool.model import Lease, Namespace
from imgtool.oci import media
from imgtool.ops import gc
from imgtool.stores import Store

from .gc_world import BACK, EXPIRE, FLAT, NS, OTHER, REF, ROOT, add, entry, index, label, manifest, tag

SPACES = (NS, OTHER)
PAST, FUTURE = "2001-01-01T00:00:00Z", "2201-01-01T00:00:00+01:00"
EDGES = [REF, f"{REF}.l.0", f"{REF}/x"]
NO_EDGE = f"{REF}x"


@dataclass(frozen=True)
class Piece:
    """Content, and what its bytes refer to: pieces made before it, by number."""

    data: bytes
    media_type: str = media.OCTETS
    children: frozenset[int] = frozenset()
    subject: int | None = None


@dataclass(frozen=True)
class Holder:
    """A lease: its time, whether it is flat, the pieces and the ingests that it holds."""

    expire: str
    flat: bool
    pieces: list[int]


@dataclass(frozen=True)
class Begun:
    """An ingest: held by nothing, by its own time, or by the first lease; and the piece it expects."""

    held: str
    expects: int | None


@dataclass
class Space:
    """One namespace: which pieces are recorded there, their labels, and the roots."""

    pieces: set[int] = field(default_factory=set)
    labels: dict[int, dict[str, int]] = field(default_factory=dict)
    marked: set[int] = field(default_factory=set)
    images: list[tuple[int, bool, int]] = field(default_factory=list)
    leases: list[Holder] = field(default_factory=list)
    ingests: list[Begun] = field(default_factory=list)


@dataclass
class World:
    pieces: list[Piece]
    spaces: dict[str, Space]

    def digest(self, number: int) -> Digest:
        return Digest.of(self.pieces[number].data)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Blobs, manifests and indexes of them, referrers; labels across all of it; roots of every kind."""
    pieces: list[Piece] = []
    for i in range(draw(st.integers(1, 9))):
        pieces.append(draw(_pieces(pieces, i)))
    number = st.integers(0, len(pieces) - 1)
    labels = st.dictionaries(st.sampled_from([*EDGES, NO_EDGE, BACK, f"{BACK}.subject"]), number, max_size=2)
    space = st.builds(
        Space,
        st.sets(number),
        st.dictionaries(number, labels, max_size=4),
        st.sets(number, max_size=1),
        st.lists(st.tuples(number, st.booleans(), number), max_size=2),
        st.lists(
            st.builds(
                Holder,
                st.sampled_from(["", PAST, FUTURE, "some day"]),
                st.booleans(),
                st.lists(number, max_size=3),
            ),
            max_size=2,
        ),
        st.lists(
            st.builds(Begun, st.sampled_from(["time", "nothing", "lease"]), st.none() | number), max_size=2
        ),
    )
    return World(pieces, {name: draw(space) for name in SPACES})


@st.composite
def _pieces(draw: st.DrawFn, made: list[Piece], i: int) -> Piece:
    kind = draw(st.sampled_from(["blob", "manifest", "index"] if made else ["blob"]))
    blobs = [n for n, piece in enumerate(made) if piece.media_type == media.OCTETS]
    children = draw(
        st.lists(
            st.sampled_from(blobs if kind == "manifest" else list(range(i)) or [0]), min_size=1, max_size=3
        )
    )
    if kind == "blob":
        return Piece(bytes([i]))
    digests = [Digest.of(made[n].data) for n in children]
    if kind == "index":
        entries = [entry(d, made[n].media_type) for d, n in zip(digests, children, strict=True)]
        return Piece(index(*entries) + b" " * i, media.OCI_INDEX, frozenset(children))
    subject = draw(st.none() | st.integers(0, i - 1))
    about = None if subject is None else Digest.of(made[subject].data)
    return Piece(
        manifest(*digests, subject=about, annotations={"n": str(i)}),
        media.OCI_MANIFEST,
        frozenset(children),
        subject,
    )


def lay(store: Store, world: World) -> None:
    """Make `store` hold `world`."""
    for name, space in world.spaces.items():
        store.namespaces.create(Namespace(name))
        for i, lease in enumerate(space.leases):
            store.leases(name).create(
                Lease(
                    f"l{i}",
                    {EXPIRE: lease.expire, FLAT: "yes" if lease.flat else ""},
                    {"content": tuple(world.digest(n) for n in lease.pieces)},
                )
            )
        store.leases(name).create(Lease("short"))
        for i, ingest in enumerate(space.ingests):
            expected = None if ingest.expects is None else world.digest(ingest.expects)
            holder = {"time": None, "nothing": "short", "lease": "l0" if space.leases else None}
            with store.content(name).writer(f"r{i}", expected=expected, lease=holder[ingest.held]) as writer:
                writer.write(b"x")
        store.leases(name).delete("short")
        for piece in world.pieces:
            add(store, piece.data, name)
        for number, labels in space.labels.items():
            label(store, world.digest(number), {k: world.digest(n) for k, n in labels.items()}, name)
        for number in space.marked:
            label(store, world.digest(number), {ROOT: "x"}, name)
        for number in range(len(world.pieces)):
            if number not in space.pieces:
                store.content(name).delete(world.digest(number))
        for i, (number, typed, other) in enumerate(space.images):
            media_type = world.pieces[number].media_type if typed else "application/x-unheard-of"
            tag(store, f"i{i}", world.digest(number), media_type, name, labels={REF: world.digest(other)})


class Model:
    """What must be left of one namespace."""

    def __init__(self, world: World, space: Space) -> None:
        self._world, self._space = world, space
        valid = [lease.expire != PAST for lease in space.leases]
        self.leases = {f"l{i}" for i, lives in enumerate(valid) if lives}
        self.ingests: set[str] = set()
        self.expected: set[int] = set()
        for i, ingest in enumerate(space.ingests):
            leased = ingest.held == "lease" and space.leases
            if ingest.held != "nothing" and (not leased or valid[0]):
                self.ingests.add(f"r{i}")
                self.expected |= set() if ingest.expects is None else {ingest.expects}
        living = [lease for lease, lives in zip(space.leases, valid, strict=True) if lives]
        roots = {n for image in space.images for n in (image[0], image[2])}
        roots |= space.marked | self.expected
        roots |= {n for lease in living if not lease.flat for n in lease.pieces}
        flat = {n for lease in living if lease.flat for n in lease.pieces}
        reached = roots & space.pieces
        while more := {n for r in reached for n in self._neighbours(r)} & space.pieces - reached:
            reached |= more
        self.pieces = reached | (flat & space.pieces)

    def _neighbours(self, number: int) -> Iterator[int]:
        yield from self._world.pieces[number].children
        yield from (n for key, n in self._space.labels.get(number, {}).items() if key in EDGES)
        for other, labels in self._space.labels.items():
            yield from (other for key, n in labels.items() if key.startswith(BACK) and n == number)
        yield from (i for i, piece in enumerate(self._world.pieces) if piece.subject == number)


def judge(store: Store, world: World) -> None:
    """Lay out `world`, collect, and compare what is left with the model."""
    lay(store, world)
    told = gc.collect(store, dry_run=True)
    assert gc.collect(store) == told
    live: set[int] = set()
    for name, space in world.spaces.items():
        model = Model(world, space)
        live |= model.pieces | model.expected
        assert {info.digest for info in store.content(name).list()} == {*map(world.digest, model.pieces)}
        assert {lease.id for lease in store.leases(name).list()} == model.leases
        assert {status.ref for status in store.content(name).statuses()} == model.ingests
        assert [image.name for image in store.images(name).list()] == sorted(
            f"i{i}" for i in range(len(space.images))
        )
    assert {digest for digest, _ in store.objects()} == {*map(world.digest, live)}
    assert not any(gc.find(store))


@given(worlds())
@settings(max_examples=300, deadline=None)
def test_gc_leaves_exactly_what_its_rules_reach(world: World) -> None:
    """In memory, so that many worlds can be tried."""
    judge(MemoryStore(), world)


@given(worlds())
@settings(max_examples=8, deadline=None)
def test_gc_leaves_exactly_what_its_rules_reach_on_disk(world: World) -> None:
    """The same on files."""
    with tempfile.TemporaryDirectory() as directory, open_store(f"{directory}/store") as store:
        judge(store, world)
