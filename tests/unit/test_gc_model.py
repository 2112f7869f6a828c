"""gc against what its rules say, computed the slow way, over random worlds.

With `follow = "labels"` the rules are containerd's alone (`core/metadata/gc.go` of 2.x): `Model` knows
nothing of documents then. With `follow = "graph"` it adds an edge for each part of a document, and one
from each subject to its referrer.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgtool.digest import Digest
from imgtool.disk import open_store
from imgtool.memory import MemoryStore
from imgtool.model import Lease, Namespace, Settings
from imgtool.oci import media
from imgtool.ops import gc, why
from imgtool.stores import Store

from .gc_world import (
    BACK,
    BACK_IMAGE,
    EXPIRE,
    FLAT,
    NS,
    OTHER,
    REF,
    REF_IMAGE,
    ROOT,
    add,
    add_told,
    entry,
    index,
    label,
    manifest,
    tag,
)

SPACES = (NS, OTHER)
PAST, FUTURE = "2001-01-01T00:00:00Z", "2201-01-01T00:00:00+01:00"
SUFFIXES = ("", ".", ".l.0", "/x")
KEYS = [key + suffix for key in (REF, REF_IMAGE, BACK, BACK_IMAGE) for suffix in SUFFIXES]
NO_KEYS = [f"{REF}x", f"{REF_IMAGE}s", f"{BACK}-", f"{BACK_IMAGE}_"]
ROOTS = [ROOT, f"{ROOT}.by-hand", f"{ROOT}/x"]
IMAGES = ("i0", "i1", "i2")
UNHEARD_OF = "application/x-unheard-of"

Labels = dict[str, int | str]
"""By key: the number of a piece, or a text."""

Thing = tuple[str, int | str]
"""A node of the model: "content", "flat content" or "ingest", with a number; "image", "flat image"."""


@dataclass(frozen=True)
class Piece:
    """Content, and what its bytes refer to: pieces made before it, by number; and whether its record tells
    that too.
    """

    data: bytes
    media_type: str = media.OCTETS
    children: frozenset[int] = frozenset()
    subject: int | None = None
    told: bool = False


@dataclass(frozen=True)
class Tagged:
    """An image: its target, whether the record has the target's type, its time, its labels."""

    target: int
    typed: bool
    expire: str
    labels: Labels


@dataclass(frozen=True)
class Holder:
    """A lease: its time, whether it is flat, the pieces and the images that it holds."""

    expire: str
    flat: bool
    pieces: list[int]
    images: list[str]


@dataclass(frozen=True)
class Begun:
    """An ingest: held by nothing, by its own time, or by the first lease; and the piece it expects."""

    held: str
    expects: int | None


@dataclass
class Space:
    """One namespace: which pieces are recorded there, their labels, and the rest."""

    pieces: set[int] = field(default_factory=set)
    labels: dict[int, Labels] = field(default_factory=dict)
    images: dict[str, Tagged] = field(default_factory=dict)
    leases: list[Holder] = field(default_factory=list)
    ingests: list[Begun] = field(default_factory=list)


@dataclass
class World:
    pieces: list[Piece]
    spaces: dict[str, Space]

    def digest(self, number: int) -> Digest:
        return Digest.of(self.pieces[number].data)

    def label_texts(self, labels: Labels) -> dict[str, str]:
        return {key: value if isinstance(value, str) else self.digest(value) for key, value in labels.items()}


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Blobs, manifests and indexes of them, referrers; labels across all of it; roots of every kind."""
    pieces: list[Piece] = []
    for i in range(draw(st.integers(1, 9))):
        pieces.append(draw(_pieces(pieces, i)))
    number = st.integers(0, len(pieces) - 1)
    space = st.builds(
        Space,
        st.sets(number),
        st.dictionaries(number, _labels(number, root=True), max_size=4),
        st.dictionaries(
            st.sampled_from(IMAGES),
            st.builds(Tagged, number, st.booleans(), _times, _labels(number)),
            max_size=3,
        ),
        st.lists(
            st.builds(
                Holder,
                _times,
                st.booleans(),
                st.lists(number, max_size=3),
                st.lists(st.sampled_from(IMAGES), max_size=2),
            ),
            max_size=2,
        ),
        st.lists(
            st.builds(Begun, st.sampled_from(["time", "nothing", "lease"]), st.none() | number), max_size=2
        ),
    )
    spaces = {name: draw(space) for name in SPACES}
    for i, piece in enumerate(pieces):  # as ingest labels them
        if piece.told and draw(st.booleans()):
            for found in spaces.values():
                found.labels[i] = {
                    REF + suffix: n for suffix, n in zip(SUFFIXES, sorted(piece.children), strict=False)
                }
    return World(pieces, spaces)


_times = st.sampled_from(["", PAST, FUTURE, "some day"])


@st.composite
def _labels(draw: st.DrawFn, number: st.SearchStrategy[int], *, root: bool = False) -> Labels:
    keys = draw(st.lists(st.sampled_from(KEYS) | st.sampled_from(NO_KEYS), max_size=3))
    labels: Labels = {}
    for key in keys:
        value: st.SearchStrategy[int | str] = st.sampled_from(IMAGES) if "ref.image" in key else number
        labels[key] = draw(value)
    if root and draw(st.integers(0, 7)) == 0:
        labels[draw(st.sampled_from([*ROOTS, f"{ROOT}s"]))] = "false"
    return labels


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
    told = draw(st.booleans())
    if kind == "index":
        entries = [entry(d, made[n].media_type) for d, n in zip(digests, children, strict=True)]
        return Piece(index(*entries) + b" " * i, media.OCI_INDEX, frozenset(children), told=told)
    subject = draw(st.none() | st.integers(0, i - 1))
    about = None if subject is None else Digest.of(made[subject].data)
    return Piece(
        manifest(*digests, subject=about, annotations={"n": str(i)}),
        media.OCI_MANIFEST,
        frozenset(children),
        subject,
        told,
    )


def lay(store: Store, world: World) -> None:
    """Make `store` hold `world`."""
    for name, space in world.spaces.items():
        store.namespaces.create(Namespace(name))
        for i, lease in enumerate(space.leases):
            store.leases(name).create(
                Lease(
                    f"l{i}",
                    {FLAT: "yes" if lease.flat else ""},
                    {"content": tuple(world.digest(n) for n in lease.pieces), "images": tuple(lease.images)},
                )
            )
        store.leases(name).create(Lease("short"))
        for i, ingest in enumerate(space.ingests):
            expected = None if ingest.expects is None else world.digest(ingest.expects)
            holder = {"time": None, "nothing": "short", "lease": "l0" if space.leases else None}
            with store.content(name).writer(f"r{i}", expected=expected, lease=holder[ingest.held]) as writer:
                writer.write(b"x")
        store.leases(name).delete("short")
        for i, lease in enumerate(space.leases):  # one that is past takes no ingest
            store.leases(name).update(Lease(f"l{i}", {EXPIRE: lease.expire}), f"labels.{EXPIRE}")
        for piece in world.pieces:
            (add_told if piece.told else add)(store, piece.data, name)
        for number, labels in space.labels.items():
            label(store, world.digest(number), world.label_texts(labels), name)
        for number in range(len(world.pieces)):
            if number not in space.pieces:
                store.content(name).delete(world.digest(number))
        for image, tagged in space.images.items():
            media_type = world.pieces[tagged.target].media_type if tagged.typed else UNHEARD_OF
            labels_of_image = {**world.label_texts(tagged.labels), EXPIRE: tagged.expire}
            tag(store, image, world.digest(tagged.target), media_type, name, labels=labels_of_image)


class Model:
    """What must be left of one namespace."""

    def __init__(self, world: World, space: Space, *, documents: bool) -> None:
        self._world, self._space, self._documents = world, space, documents
        valid = [lease.expire != PAST for lease in space.leases]
        self.leases = {f"l{i}" for i, lives in enumerate(valid) if lives}
        roots: set[Thing] = {("image", name) for name, i in space.images.items() if i.expire != PAST}
        roots |= {("content", n) for n, labels in space.labels.items() if labels.keys() & set(ROOTS)}
        roots -= {("content", n) for n in range(len(world.pieces)) if n not in space.pieces}
        for lease in (lease for lease, lives in zip(space.leases, valid, strict=True) if lives):
            flat = "flat " if lease.flat else ""
            roots |= {(f"{flat}content", n) for n in lease.pieces} | {
                (f"{flat}image", n) for n in lease.images
            }
        for i, ingest in enumerate(space.ingests):
            leased = ingest.held == "lease" and space.leases
            if ingest.held != "nothing" and (not leased or valid[0]):
                roots.add(("ingest", i))
        edges = set(self._edges())
        reached = roots
        while more := {to for start, to in edges if start in reached} - reached:
            reached = reached | more
        self.reached = reached
        self.pieces = {n for n in space.pieces if {("content", n), ("flat content", n)} & reached}
        self.images = {n for n in space.images if {("image", n), ("flat image", n)} & reached}
        self.ingests = {f"r{i}" for kind, i in reached if kind == "ingest"}
        expected = (e.expects for i, e in enumerate(space.ingests) if ("ingest", i) in reached)
        self.expected = {n for n in expected if n is not None}

    def _edges(self) -> Iterator[tuple[Thing, Thing]]:
        space = self._space
        for i, ingest in enumerate(space.ingests):
            if ingest.expects is not None:
                yield ("ingest", i), ("content", ingest.expects)
        for name, image in space.images.items():
            yield ("image", name), ("content", image.target)
            yield ("flat image", name), ("flat content", image.target)
            yield from _label_edges(("image", name), image.labels)
        for number in space.pieces:
            yield from _label_edges(("content", number), space.labels.get(number, {}))
            piece = self._world.pieces[number]
            if self._documents:
                yield from ((("content", number), ("content", child)) for child in piece.children)
                if piece.subject is not None:
                    yield ("content", piece.subject), ("content", number)


def _label_edges(owner: Thing, labels: Labels) -> Iterator[tuple[Thing, Thing]]:
    for key, value in labels.items():
        if key in KEYS:
            other = "image" if "ref.image" in key else "content", value
            yield (other, owner) if "gc.bref" in key else (owner, other)


def judge(store: Store, world: World, *, documents: bool) -> None:
    """Lay out `world`, collect, and compare what is left with the model."""
    lay(store, world)
    told = gc.collect(store, dry_run=True)
    assert gc.collect(store) == told
    live: set[int] = set()
    for name, space in world.spaces.items():
        model = Model(world, space, documents=documents)
        live |= model.pieces | model.expected
        assert {info.digest for info in store.content(name).list()} == {*map(world.digest, model.pieces)}
        assert {lease.id for lease in store.leases(name).list()} == model.leases
        assert {status.ref for status in store.content(name).statuses()} == model.ingests
        assert {image.name for image in store.images(name).list()} == model.images
    assert {digest for digest, _ in store.objects()} == {*map(world.digest, live)}
    assert not any(gc.find(store))


@pytest.mark.parametrize("follow", ["graph", "labels"])
@given(world=worlds())
@settings(max_examples=300, deadline=None)
def test_gc_leaves_exactly_what_its_rules_reach(follow: str, world: World) -> None:
    """In memory, so that many worlds can be tried."""
    judge(MemoryStore(Settings(follow=follow)), world, documents=follow == "graph")


@pytest.mark.parametrize("follow", ["graph", "labels"])
@given(world=worlds())
@settings(max_examples=6, deadline=None)
def test_gc_leaves_exactly_what_its_rules_reach_on_disk(follow: str, world: World) -> None:
    """The same on files."""
    with tempfile.TemporaryDirectory() as directory:
        with open_store(f"{directory}/store") as store:
            store.namespaces.create(Namespace(NS + "x"))
        with open(f"{directory}/store/imgtool.toml", "a") as config:
            config.write(f'[gc]\nfollow = "{follow}"\n')
        with open_store(f"{directory}/store") as store:
            judge(store, world, documents=follow == "graph")


@given(worlds(), st.sets(st.tuples(st.sampled_from(SPACES), st.sampled_from(IMAGES))))
@settings(max_examples=100, deadline=None)
def test_images_that_count_as_deleted_are_as_if_they_were(world: World, gone: set[tuple[str, str]]) -> None:
    """What `delete --dry-run` and the policies tell before anything is deleted."""
    store = MemoryStore()
    lay(store, world)
    told = gc.find(store, without=gone)
    for namespace, name in gone:
        if name in world.spaces[namespace].images:
            store.images(namespace).delete(name)
    assert gc.find(store) == told


@given(worlds())
@settings(max_examples=15, deadline=None)
def test_why_tells_of_all_that_is_kept_or_garbage(world: World) -> None:
    """As gc decides, whatever the shape; and a way that can be gone step by step, from a root."""
    with tempfile.TemporaryDirectory() as directory, open_store(f"{directory}/store") as store:
        lay(store, world)
        models = {name: Model(world, space, documents=True) for name, space in world.spaces.items()}
        for number in range(len(world.pieces)):
            there = {name for name, space in world.spaces.items() if number in space.pieces}
            if not there and world.digest(number) not in dict(store.objects()):
                continue
            answers = {answer.namespace: answer for answer in why.explain(store, world.digest(number))}
            for name, model in models.items():
                kept = number in model.pieces | model.expected
                reached = {("content", number), ("flat content", number)} & model.reached
                status = why.KEPT if kept else why.ABSENT if reached else why.GARBAGE if name in there else ""
                assert (answers[name].status if name in answers else "") == status
                if reached:
                    steps = answers[name].steps
                    assert steps[0].through == "root" or steps[0].through in ROOTS
                    assert steps[-1].name == world.digest(number)
                    assert len({(step.kind, step.name) for step in steps}) == len(steps)
