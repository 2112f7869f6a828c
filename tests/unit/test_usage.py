"""Who holds the space, against what the words say, computed the slow way over random stores."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgtool.digest import Digest
from imgtool.disk import open_store
from imgtool.errors import DataLoss, ImgtoolError
from imgtool.memory import MemoryStore
from imgtool.model import Lease, Settings
from imgtool.oci import media
from imgtool.ops import gc
from imgtool.ops.labels import IMAGE
from imgtool.ops.retention import NAMESPACE, REPOSITORY
from imgtool.ops.usage import Survey
from imgtool.stores import Store

from . import test_gc_model as gc_model
from .gc_world import EXPIRE, FLAT, NS, OTHER, REF, ROOT, add, entry, hold, index, label, manifest, tag

SPACES = (NS, OTHER)
NAMES = {
    "app:1": "app",
    "app:2": "app",
    "docker.io/library/app:1": "docker.io/library/app",
    "My file": "My file",
}
PAST = "2001-01-01T00:00:00Z"
EMPTY = b"{}"

Held = dict[Digest, int]


@dataclass(frozen=True)
class Piece:
    """Content: a layer, or a document about pieces made before it, by number."""

    kind: str
    parts: tuple[int, ...]
    subject: int | None
    spaces: frozenset[str]


@dataclass(frozen=True)
class World:
    pieces: tuple[Piece, ...]
    images: dict[tuple[str, str], tuple[int, str]]  # target, and "", "expired" or "label"
    leases: tuple[tuple[str, int, str], ...]  # namespace, content, and "", "flat" or "expired"
    roots: frozenset[tuple[str, int]]


@st.composite
def worlds(draw: st.DrawFn) -> World:
    pieces: list[Piece] = []
    for number in range(draw(st.integers(1, 7))):
        before = st.integers(0, number - 1) if number else st.nothing()
        pieces.append(
            Piece(
                draw(st.sampled_from(["layer", "manifest", "index"])),
                tuple(draw(st.lists(before, max_size=3))) if number else (),
                draw(st.none() | before) if number else None,
                draw(st.frozensets(st.sampled_from(SPACES), min_size=1)),
            )
        )
    some = st.integers(0, len(pieces) - 1)
    names = st.tuples(st.sampled_from(SPACES), st.sampled_from(sorted(NAMES)))
    plain = st.sampled_from(["", "", "expired", "label"])
    return World(
        tuple(pieces),
        draw(st.dictionaries(names, st.tuples(some, plain), max_size=6)),
        tuple(
            draw(
                st.lists(
                    st.tuples(st.sampled_from(SPACES), some, st.sampled_from(["", "flat", "expired"])),
                    max_size=2,
                )
            )
        ),
        draw(st.frozensets(st.tuples(st.sampled_from(SPACES), some), max_size=1)),
    )


class Model:
    """A world in a store, and what keeps what of it by definition: sets, computed anew for each question."""

    def __init__(self, store: Store, world: World) -> None:
        self.store = store
        self.world = world
        self.digests: list[Digest] = []
        self._types: list[str] = []
        for number, piece in enumerate(world.pieces):
            data, media_type = self._bytes(number, piece)
            self._types.append(media_type)
            self.digests.append(Digest.of(data))
            for space in sorted(piece.spaces):
                add(store, data, space)
        for (space, name), (target, how) in world.images.items():
            labels = {EXPIRE: PAST} if how == "expired" else {}
            if how == "label":
                labels = {f"{REF}.x": self.digests[0]}
            tag(store, name, self.digests[target], self._types[target], space, labels=labels)
        for number, (space, content, how) in enumerate(world.leases):
            labels = {"": {}, "flat": {FLAT: "1"}, "expired": {EXPIRE: PAST}}[how]
            store.leases(space).create(Lease(f"l{number}", labels, {"content": (self.digests[content],)}))
        for space, content in world.roots:
            if space in world.pieces[content].spaces:
                label(store, self.digests[content], {ROOT: "1"}, space)
        self.sizes: Held = dict(store.objects())

    def _bytes(self, number: int, piece: Piece) -> tuple[bytes, str]:
        subject = None if piece.subject is None else self.digests[piece.subject]
        if piece.kind == "layer":
            return b"%d" % number * (10 + number), "application/vnd.oci.image.layer.v1.tar"
        if piece.kind == "index":
            parts = [entry(self.digests[part], self._types[part]) for part in piece.parts]
            document = json.loads(index(*parts)) | {"annotations": {"n": str(number)}}
            if subject:
                document["subject"] = entry(subject)
            return json.dumps(document).encode(), media.OCI_INDEX
        layers = [self.digests[part] for part in piece.parts if self.world.pieces[part].kind == "layer"]
        config = Digest.of(EMPTY)
        return manifest(config, *layers, subject=subject, annotations={"n": str(number)}), media.OCI_MANIFEST

    def children(self, number: int) -> set[int]:
        piece = self.world.pieces[number]
        if piece.kind == "layer":
            return set()
        parts = set(piece.parts)
        return {p for p in parts if piece.kind == "index" or self.world.pieces[p].kind == "layer"}

    def reach(self, space: str, starts: Iterable[int]) -> set[Digest]:
        """What is recorded of all that `starts` lead to in a namespace."""
        pieces = self.world.pieces
        found, grown = set(starts), True
        while grown:
            more = {child for n in found if space in pieces[n].spaces for child in self.children(n)}
            more |= {
                n
                for n, piece in enumerate(pieces)
                if piece.subject in found and piece.kind != "layer" and space in piece.spaces
            }
            grown = not more <= found
            found |= more
        return {self.digests[n] for n in found if space in pieces[n].spaces}

    def image(self, key: tuple[str, str]) -> set[Digest]:
        target, how = self.world.images[key]
        return self.reach(key[0], {target, 0} if how == "label" else {target})

    def is_live(self, key: tuple[str, str]) -> bool:
        return self.world.images[key][1] != "expired"

    def held(self, space: str) -> set[Digest]:
        """What is kept in a namespace by what is no image."""
        found = self.reach(
            space, (n for s, n in self.world.roots if s == space and s in self.world.pieces[n].spaces)
        )
        for where, content, how in self.world.leases:
            if where == space and how == "":
                found |= self.reach(space, [content])
            elif where == space and how == "flat" and space in self.world.pieces[content].spaces:
                found.add(self.digests[content])
        return found

    def kept(self, spaces: Iterable[str], without: frozenset[tuple[str, str]] = frozenset()) -> set[Digest]:
        found: set[Digest] = set()
        for space in spaces:
            found |= self.held(space)
        for key in self.world.images:
            if key[0] in spaces and key not in without and self.is_live(key):
                found |= self.image(key)
        return found

    def size(self, digests: Iterable[Digest]) -> int:
        return sum(self.sizes.get(digest, 0) for digest in digests)


def groups(world: World, by: str) -> dict[tuple[str, str], frozenset[tuple[str, str]]]:
    """The images of each part."""
    found: dict[tuple[str, str], set[tuple[str, str]]] = {}
    for space, name in world.images:
        found.setdefault((space, NAMES[name] if by == REPOSITORY else name), set()).add((space, name))
    return {key: frozenset(images) for key, images in found.items()}


@settings(derandomize=True, max_examples=300, deadline=None)
@given(worlds(), st.sampled_from([IMAGE, REPOSITORY]))
def test_the_parts_are_what_the_words_say(world: World, by: str) -> None:
    """Unique is what goes with it; shared is what stays of it; total is all that it reaches."""
    model = Model(MemoryStore(), world)
    everything = model.kept(SPACES)
    expected = []
    for key, images in sorted(groups(world, by).items(), key=lambda item: item[0]):
        others = model.kept(SPACES, without=images)
        reached = set().union(*map(model.image, images))
        unique = model.size(everything - others)
        shared = model.size(reached & everything) - unique
        expected.append((*key, unique, shared, model.size(reached)))
    assert [tuple(part) for part in Survey(model.store).parts(by)] == expected


@settings(derandomize=True, max_examples=100, deadline=None)
@given(worlds())
def test_the_parts_of_namespaces_are_what_the_words_say(world: World) -> None:
    """A namespace holds what gc keeps in it; objects are of all namespaces."""
    model = Model(MemoryStore(), world)
    expected = []
    for namespace in model.store.namespaces.list():
        here = model.kept([namespace.name])
        elsewhere = model.kept([space for space in SPACES if space != namespace.name])
        sizes = model.size(here - elsewhere), model.size(here & elsewhere), model.size(here)
        expected.append((namespace.name, namespace.name, *sizes))
    assert [tuple(part) for part in Survey(model.store).parts(NAMESPACE)] == expected


@settings(derandomize=True, max_examples=100, deadline=None)
@given(worlds(), st.data())
def test_unique_is_what_gc_frees_when_the_image_is_gone(world: World, data: st.DataObject) -> None:
    """The promise of the column: beside what gc frees anyway."""
    model = Model(MemoryStore(), world)
    parts = {(part.namespace, part.name): part for part in Survey(model.store).parts(IMAGE)}
    if not parts:
        return
    gc.collect(model.store)
    before = model.size(dict(model.store.objects()))
    key = data.draw(st.sampled_from(sorted(parts)))
    if not model.is_live(key):
        assert parts[key].unique == 0
        return
    model.store.images(key[0]).delete(key[1])
    gc.collect(model.store)
    assert before - model.size(dict(model.store.objects())) == parts[key].unique


@pytest.mark.parametrize("follow", ["graph", "labels"])
@settings(derandomize=True, max_examples=150, deadline=None)
@given(world=gc_model.worlds())
def test_unique_is_what_gc_finds_without_the_image_whatever_refers_to_what(
    follow: str, world: gc_model.World
) -> None:
    """Labels may lead from content to images, and back, and to what is not there."""
    store = MemoryStore(Settings(follow=follow))
    gc_model.lay(store, world)
    survey, garbage = Survey(store), sum(gc.find(store).objects.values())
    assert survey.totals().garbage == garbage
    for part in survey.parts(IMAGE):
        if world.spaces[part.namespace].images[part.name].expire != gc_model.PAST:
            found = gc.find(store, without=[(part.namespace, part.name)])
            assert part.unique == sum(found.objects.values()) - garbage


@settings(derandomize=True, max_examples=30, deadline=None)
@given(worlds())
def test_the_sums_agree_with_the_store(world: World) -> None:
    """On a disk, where gc agrees with them too."""
    with tempfile.TemporaryDirectory() as directory, open_store(f"{directory}/store") as store:
        model = Model(store, world)
        totals = Survey(store).totals()
        images = set().union(*(model.image(key) for key in world.images if model.is_live(key)), set())
        assert totals.objects == sum(model.sizes.values())
        assert totals.images == model.size(images)
        assert totals.held == model.size(model.kept(SPACES) - images)
        garbage = gc.find(store)
        assert (totals.garbage, totals.litter) == (sum(garbage.objects.values()), 0)
        assert totals.objects == totals.images + totals.held + totals.garbage


def test_what_a_lease_holds_by_an_image_goes_with_the_image() -> None:
    """containerd 2.x: a lease lists the name, and the content hangs on the record."""
    store = MemoryStore()
    digest = add(store, b"layer")
    tag(store, "app", digest, "application/x")
    store.leases(NS).create(Lease("l", {}, {"images": ("app",)}))
    (part,) = Survey(store).parts(IMAGE)
    assert (part.unique, part.shared, part.total) == (5, 0, 5)
    assert gc.find(store, without=[(NS, "app")]).objects == {digest: 5}


def test_what_refers_back_to_a_name_that_a_lease_lists_stays_without_the_image() -> None:
    """As in containerd an edge may lead to what is not there."""
    store = MemoryStore()
    first, second = add(store, b"first"), add(store, b"second!")
    label(store, second, {"containerd.io/gc.bref.image": "app"})
    tag(store, "app", first, "application/x")
    store.leases(NS).create(Lease("l", {}, {"images": ("app",)}))
    (part,) = Survey(store).parts(IMAGE)
    assert (part.unique, part.shared) == (5, 7)
    assert gc.find(store, without=[(NS, "app")]).objects == {first: 5}


def test_what_refers_back_to_an_image_is_not_kept_by_what_that_refers_back_to() -> None:
    """The label of the image that leads there goes with the image."""
    store = MemoryStore()
    first, second = add(store, b"first"), add(store, b"second!")
    label(store, first, {"containerd.io/gc.bref.image": "a"})
    tag(store, "a", first, "application/x", labels={"containerd.io/gc.bref.image": "b"})
    tag(store, "b", second, "application/x")
    parts = {part.name: (part.unique, part.shared) for part in Survey(store).parts(IMAGE)}
    assert parts == {"a": (5, 0), "b": (7, 5)}
    assert gc.find(store, without=[(NS, "a")]).objects == {first: 5}


def test_what_hangs_on_a_label_of_the_image_goes_with_it() -> None:
    """The image refers back to content that stays, and other content back to the image."""
    store = MemoryStore()
    first, second = add(store, b"first", labels={ROOT: "1"}), add(store, b"second!")
    label(store, second, {"containerd.io/gc.bref.image": "app"})
    tag(store, "app", first, "application/x", labels={"containerd.io/gc.bref.content": first})
    (part,) = Survey(store).parts(IMAGE)
    assert (part.unique, part.shared) == (7, 5)
    assert gc.find(store, without=[(NS, "app")]).objects == {second: 7}


def test_what_one_image_refers_to_is_not_kept_by_it_without_that_image() -> None:
    """The label names a record; the content hangs on that."""
    store = MemoryStore()
    first, second = add(store, b"first"), add(store, b"second!")
    tag(store, "a", first, "application/x", labels={"containerd.io/gc.ref.image.x": "b"})
    tag(store, "b", second, "application/x")
    a, b = Survey(store).parts(IMAGE)
    assert (a.unique, a.shared, a.total) == (5, 7, 12)
    assert (b.unique, b.shared, b.total) == (7, 0, 7)


def test_a_referrer_counts_with_its_subject() -> None:
    """It lives as long, although nothing names it."""
    store = MemoryStore()
    config = add(store, EMPTY)
    image = add(store, manifest(config))
    signature = add(store, manifest(config, subject=image))
    tag(store, "app", image, media.OCI_MANIFEST)
    (part,) = Survey(store).parts(IMAGE)
    assert part.total == sum(dict(store.objects())[d] for d in (config, image, signature))


def test_what_cannot_be_read_is_told_once_and_the_rest_counted(tmp_path: Any) -> None:
    """Two names of one damaged image, and one that is whole."""
    with open_store(str(tmp_path / "store")) as store:
        config = add(store, EMPTY)
        damaged = add(store, manifest(config))
        whole = add(store, b"whole")
        for name in ("a", "b"):
            tag(store, name, damaged, media.OCI_MANIFEST)
        tag(store, "c", whole, "application/x")
        path = tmp_path / "store/objects/sha256" / damaged.encoded[:2] / damaged.encoded[2:]
        path.chmod(0o644)
        path.write_bytes(b" " * path.stat().st_size)
        told: list[ImgtoolError] = []
        parts = {part.name: part.total for part in Survey(store, on_error=told.append).parts(IMAGE)}
        assert parts == {"a": None, "b": None, "c": 5}
        assert [damaged in error.message for error in told] == [True]
        with pytest.raises(DataLoss, match=damaged):
            Survey(store)


def test_a_lease_holds_what_no_image_has() -> None:
    """It is told as a sum: a lease has no line of its own."""
    store = MemoryStore()
    shared, leased = add(store, b"shared"), add(store, b"leased!")
    tag(store, "app", shared, "application/x")
    hold(store, "l", [shared, leased])
    survey = Survey(store)
    (part,) = survey.parts(IMAGE)
    assert (part.unique, part.shared) == (0, 6)
    assert (survey.totals().images, survey.totals().held) == (6, 7)


def test_many_names_of_one_large_image_are_counted_once() -> None:
    """Else ten thousand tags of one image would be a walk and a set each."""
    store = MemoryStore()
    layers = [add(store, b"%d" % n) for n in range(2000)]
    image = add(store, manifest(add(store, EMPTY), *layers))
    for n in range(1000):
        tag(store, f"app:{n}", image, media.OCI_MANIFEST)
    started = time.monotonic()
    parts = list(Survey(store).parts(IMAGE))
    assert time.monotonic() - started < 2
    assert {(part.unique, part.total) for part in parts} == {(0, sum(dict(store.objects()).values()))}
