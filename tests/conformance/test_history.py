"""What `stores.Store.history` tells, of every store: what each record was, and what it became."""

from __future__ import annotations

import pytest

from imgtool.clock import SECOND
from imgtool.digest import Digest
from imgtool.errors import InvalidArgument
from imgtool.model import ContentInfo, Lease, Namespace, replace
from imgtool.names import EXPIRE
from imgtool.ops import gc
from imgtool.stores import Entry, Garbage, Put, Store

from .things import ABSENT, NS, OTHER, add, image

LONG_AGO = "2001-01-01T00:00:00Z"


def told(store: Store, namespace: str = NS) -> list[Entry]:
    """The history but for the times, oldest first."""
    return [entry._replace(time=0) for entry in store.history(namespace)][::-1]


@pytest.fixture
def begun(store: Store) -> int:
    """The namespace exists; how much is told of that."""
    store.namespaces.create(Namespace(NS))
    return len(told(store))


def test_of_nothing_nothing_is_told(store: Store) -> None:
    """And asking makes no namespace."""
    assert told(store) == []
    assert list(store.namespaces.list()) == []
    with pytest.raises(InvalidArgument):
        list(store.history("a/b"))


def test_a_namespace_begins_with_itself(store: Store) -> None:
    """Also one that comes into being with its first record."""
    made = store.images(NS).create(image("a"))
    assert told(store) == [
        Entry(0, "namespace", NS, None, store.namespaces.get(NS)),
        Entry(0, "image", "a", None, made),
    ]


def test_images_are_told_as_they_were_and_as_they_became(store: Store, begun: int) -> None:
    """In full: target, labels, times."""
    made = store.images(NS).create(image("a", labels={"k": "v"}, annotations={"x": "y"}))
    changed = store.images(NS).update(image("a", b"new", labels={"k": "w"}))
    renamed = store.images(NS).rename("a", "b")
    store.images(NS).delete("b")
    assert told(store)[begun:] == [
        Entry(0, "image", "a", None, made),
        Entry(0, "image", "a", made, changed),
        Entry(0, "image", "b", None, renamed),
        Entry(0, "image", "a", changed, None),
        Entry(0, "image", "b", renamed, None),
    ]


def test_content_leases_and_namespaces_are_told_too(store: Store, begun: int) -> None:
    """Of a lease also what it holds."""
    digest = add(store, b"x", k="v")
    made = store.content(NS).info(digest)
    changed = store.content(NS).update(ContentInfo(digest, 0, {"k": "w"}))
    store.content(NS).delete(digest)
    lease = store.leases(NS).create(Lease("l", {"k": "v"}))
    store.leases(NS).add("l", "content", digest)
    holding = store.leases(NS).get("l")
    store.leases(NS).delete("l")
    before = store.namespaces.get(NS)
    after = store.namespaces.update(Namespace(NS, {"k": "v"}))
    assert told(store)[begun:] == [
        Entry(0, "content", digest, None, made),
        Entry(0, "content", digest, made, changed),
        Entry(0, "content", digest, changed, None),
        Entry(0, "lease", "l", None, lease),
        Entry(0, "lease", "l", lease, holding),
        Entry(0, "lease", "l", holding, None),
        Entry(0, "namespace", NS, before, after),
    ]


def test_what_changes_nothing_is_not_told(store: Store) -> None:
    """Nor what was refused, or only tried."""
    digest = add(store, b"x")
    store.images(NS).create(image("a"))
    store.leases(NS).create(Lease("l", resources={"content": (digest,)}))
    before = told(store)
    add_again = Put(image("a"))
    store.publish(NS, puts=[add_again, Put(image("b"), needs=frozenset([ABSENT]))])
    store.leases(NS).add("l", "content", digest)
    store.namespaces.update(Namespace(NS))
    store.dry_run().images(NS).delete("a")
    assert told(store) == before


def test_times_are_those_of_the_changes_and_the_newest_comes_first(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks what happened last need not read everything."""
    for second in (1, 2, 3):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", str(second))
        store.images(NS).create(image(f"at-{second}"))
    times = [(entry.name, entry.time // SECOND) for entry in store.history(NS)]
    assert times == [("at-3", 3), ("at-2", 2), ("at-1", 1), (NS, 1)]
    assert next(store.history(NS)).name == "at-3"


def test_namespaces_have_their_own_history_which_stays_when_they_go(store: Store) -> None:
    """And goes on when one comes back. Its leases end with it."""
    store.images(NS).create(image("a"))
    leases = [store.leases(OTHER).create(Lease(id)) for id in ("l", "k")]
    namespace = store.namespaces.get(OTHER)
    here, there = told(store), told(store, OTHER)
    store.namespaces.delete(OTHER)
    gone = told(store, OTHER)
    assert gone == [
        *there,
        Entry(0, "namespace", OTHER, namespace, None),
        *(Entry(0, "lease", lease.id, lease, None) for lease in leases[::-1]),
    ]
    again = store.namespaces.create(Namespace(OTHER))
    assert told(store, OTHER) == [*gone, Entry(0, "namespace", OTHER, None, again)]
    assert told(store) == here


def test_of_what_gc_removes_the_names_are_told_and_of_images_all(store: Store) -> None:
    """Images go as if they were deleted."""
    digest = add(store, b"x")
    store.leases(NS).create(Lease("past", {EXPIRE: LONG_AGO}))
    old = store.images(NS).create(replace(image("old"), labels={EXPIRE: LONG_AGO}))
    before = told(store)
    gc.collect(store)
    assert told(store) == [
        *before,
        Entry(0, "image", "old", old, None),
        Entry(0, "lease", "past", by_gc=True),
        Entry(0, "content", digest, by_gc=True),
    ]


def test_what_one_gc_removes_is_told_in_the_order_of_its_removal(store: Store) -> None:
    """Images, leases, content; of each as gc has put them, what refers before what it refers to."""
    digests = [add(store, data) for data in (b"1", b"2", b"3")][::-1]
    for name in ("m", "l"):
        store.leases(NS).create(Lease(name))
    made = [store.images(NS).create(image(name)) for name in ("b", "a")]
    before, there = told(store), told(store, OTHER)
    garbage = Garbage({NS: digests}, {NS: ["m", "l"]}, {}, [], images={NS: ["b", "a"]})
    with store.removing() as remove:
        remove(garbage)
    assert told(store) == [
        *before,
        *(Entry(0, "image", gone.name, gone, None) for gone in made),
        *(Entry(0, "lease", id, by_gc=True) for id in ("m", "l")),
        *(Entry(0, "content", digest, by_gc=True) for digest in digests),
    ]
    assert told(store, OTHER) == there == []


def test_an_object_has_a_size_whoever_has_it(store: Store) -> None:
    """Also when nobody has it any more, until gc."""
    digest = add(store, b"four", OTHER)
    assert (store.object_size(digest), store.object_size(Digest.of(b"none"))) == (4, None)
    store.content(OTHER).delete(digest)
    assert store.object_size(digest) == 4
    gc.collect(store)
    assert store.object_size(digest) is None
