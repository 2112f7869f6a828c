"""What `stores.Store` promises to gc, by every store: what there is, and to remove what it is told to."""

from __future__ import annotations

import time

import pytest

from imgtool import clock
from imgtool.digest import Digest
from imgtool.errors import NotFound
from imgtool.model import Lease
from imgtool.stores import Garbage, Litter, Store

from .things import NS, OTHER, add, begin, image, read, records

NOTHING = Garbage(content={}, leases={}, objects={}, litter=[])


def tomorrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a day and an hour pass."""
    then = time.time_ns() + clock.DAY + clock.HOUR
    monkeypatch.setattr(time, "time_ns", lambda: then)


def test_objects_are_listed_once_and_in_order(store: Store) -> None:
    """Whichever namespaces have them, or none any more; what is unfinished is no object."""
    digests = [add(store, bytes(i)) for i in range(5)]
    add(store, bytes(1), OTHER)
    store.content(NS).delete(digests[2])
    begin(store.content(NS), "ref", b"unfinished")
    assert list(store.objects()) == sorted((digest, i) for i, digest in enumerate(digests))


def test_a_new_store_has_nothing(store: Store) -> None:
    """And looking makes nothing."""
    assert list(store.objects()) == []
    assert list(store.litter(frozenset())) == []
    assert list(store.namespaces.list()) == []


def test_an_ingest_past_its_time_is_litter(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until then it is not, whoever began it."""
    begin(store.content(NS), "a", b"abc")
    begin(store.content(OTHER), "a/b", b"")
    with store.content(NS).stage(algorithm="sha256") as writer:
        writer.write(b"abc")
        assert list(store.litter(frozenset())) == []
    tomorrow(monkeypatch)
    found = {(item.kind, item.namespace, item.name) for item in store.litter(frozenset())}
    assert found == {("ingest", NS, "a"), ("ingest", OTHER, "a/b")}
    assert all(item.size >= 3 for item in store.litter(frozenset()) if item.namespace == NS)


def test_an_ingest_that_is_written_or_held_is_no_litter(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However old."""
    begin(store.content(NS), "held")
    begin(store.content(OTHER), "held")
    with store.content(NS).writer("written"):
        tomorrow(monkeypatch)
        found = [(item.namespace, item.name) for item in store.litter(frozenset([(NS, "held")]))]
    assert found == [(OTHER, "held")]


def test_a_leased_ingest_is_litter_when_no_lease_holds_it(store: Store) -> None:
    """It has no expiry, so the lease is all that it has."""
    store.leases(NS).create(Lease("l"))
    begin(store.content(NS), "ref", lease="l")
    assert list(store.litter(frozenset([(NS, "ref")]))) == []
    assert [item.name for item in store.litter(frozenset())] == ["ref"]


def test_a_write_that_goes_on_is_young_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever resumes has a day more."""
    begin(store.content(NS), "ref")
    tomorrow(monkeypatch)
    begin(store.content(NS), "ref")
    assert list(store.litter(frozenset())) == []


def test_what_is_named_is_removed_and_nothing_else(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """By namespace: the same digest, lease or ref elsewhere stays."""
    for ns in (NS, OTHER):
        for data in (b"kept", b"gone"):
            add(store, data, ns)
        for name in ("kept", "gone"):
            store.leases(ns).create(Lease(name))
            begin(store.content(ns), name, b"abc")
        store.images(ns).create(image("a"))
        store.images(ns).create(image("old"))
    lonely = add(store, b"lonely")
    tomorrow(monkeypatch)
    gone = Digest.of(b"gone")
    other = records(store, OTHER)
    litter = [item for item in store.litter(frozenset()) if (item.namespace, item.name) == (NS, "gone")]
    with store.removing() as remove:
        remove(
            Garbage({NS: [gone, lonely]}, {NS: ["gone"]}, {lonely: 6}, litter, images={NS: ["old"]}),
        )
    assert [info.digest for info in store.content(NS).list()] == [Digest.of(b"kept")]
    assert [lease.id for lease in store.leases(NS).list()] == ["kept"]
    assert [status.ref for status in store.content(NS).statuses()] == ["kept"]
    assert store.images(NS).names() == ["a"]
    assert records(store, OTHER)[1:] == other[1:]
    assert [status.ref for status in store.content(OTHER).statuses()] == ["gone", "kept"]
    assert [digest for digest, _ in store.objects()] == sorted([gone, Digest.of(b"kept")])
    assert read(store.content(OTHER), gone) == b"gone"


def test_removed_content_can_be_written_again(store: Store) -> None:
    """Nothing of it is left to be in the way."""
    digest = add(store, b"x", k="v")
    with store.removing() as remove:
        remove(Garbage(content={NS: [digest]}, leases={}, objects={digest: 1}, litter=[]))
    with pytest.raises(NotFound):
        store.content(NS).info(digest)
    assert add(store, b"x") == digest
    assert store.content(NS).info(digest).labels == {}
    assert read(store.content(NS), digest) == b"x"


def test_reading_works_while_changes_are_shut_out(store: Store) -> None:
    """gc looks again before it removes."""
    digest = add(store, b"x")
    store.images(NS).create(image("a"))
    with store.removing() as remove:
        assert store.images(NS).names() == ["a"]
        assert [info.digest for info in store.content(NS).list()] == [digest]
        assert read(store.content(NS), digest) == b"x"
        assert list(store.objects()) == [(digest, 1)]
        remove(NOTHING)
    assert store.images(NS).get("a").target.digest == digest


def test_an_ingest_that_was_taken_up_meanwhile_stays(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was litter when gc looked; its writer has not lost a byte."""
    begin(store.content(NS), "ref", b"abc")
    tomorrow(monkeypatch)
    (litter,) = store.litter(frozenset())
    assert litter == Litter("ingest", NS, "ref", litter.size)
    with store.content(NS).writer("ref") as writer:
        writer.write(b"abc")
        with store.removing() as remove:
            remove(Garbage(content={}, leases={}, objects={}, litter=[litter]))
        assert [status.ref for status in store.content(NS).statuses()] == ["ref"]
        size = writer.status().offset
        assert size >= 3
        assert writer.commit().size == size


def test_what_is_gone_already_is_as_good_as_removed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user aborted, deleted or let go between gc's look and its removal; or a removal is repeated."""
    begin(store.content(NS), "ref", b"abc")
    digest = add(store, b"x")
    store.leases(NS).create(Lease("l"))
    store.images(NS).create(image("a"))
    tomorrow(monkeypatch)
    garbage = Garbage({NS: [digest]}, {NS: ["l"]}, {digest: 1}, store.litter(frozenset()), {NS: ["a"]})
    store.content(NS).abort("ref")
    for _ in range(2):
        with store.removing() as remove:
            remove(garbage)
    assert list(store.objects()) == []
    assert list(store.litter(frozenset())) == []
    assert list(store.content(NS).list()) == []
    assert list(store.leases(NS).list()) == []
    assert store.images(NS).names() == []
