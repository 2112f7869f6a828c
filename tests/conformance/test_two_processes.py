"""What one process has done, another sees at once: nothing is kept back, and nothing is out of date."""

from __future__ import annotations

import pytest

from imgtool.digest import Digest
from imgtool.errors import AlreadyExists, FailedPrecondition, NotFound, Unavailable
from imgtool.model import ContentInfo, Lease, Namespace
from imgtool.stores import Commit, Put, Store

from .things import NS, OTHER, add, begin, image, read, records


def test_every_kind_of_change_is_seen(store: Store, elsewhere: Store) -> None:
    """A change that returned is done, whoever asks."""
    digest = add(store, b"x", k="v")
    store.images(NS).create(image("a"))
    store.leases(NS).create(Lease("l"))
    store.leases(NS).add("l", "content", digest)
    store.namespaces.update(Namespace(NS, {"k": "v"}))
    begin(store.content(NS), "ref", b"abc", size=6)
    assert records(elsewhere) == records(store)
    assert all(records(elsewhere))
    assert read(elsewhere.content(NS), digest) == b"x"
    assert list(elsewhere.content(NS).statuses()) == list(store.content(NS).statuses())


def test_two_processes_take_turns(store: Store, elsewhere: Store) -> None:
    """Each works on what the other left."""
    for turn, (here, there) in enumerate([(store, elsewhere), (elsewhere, store)] * 3):
        data = bytes([turn])
        digest = add(here, data)
        there.content(NS).update(ContentInfo(digest, 1, {"turn": str(turn)}))
        assert here.content(NS).info(digest).labels == {"turn": str(turn)}
        here.images(NS).create(image("a", data))
        with pytest.raises(AlreadyExists):
            there.images(NS).create(image("a", data))
        with pytest.raises(FailedPrecondition):
            there.images(NS).update(image("a", b"new"), if_target=Digest.of(b"new"))
        there.images(NS).update(image("a", b"new"), if_target=digest)
        assert here.images(NS).rename("a", f"b{turn}").target.digest == Digest.of(b"new")
        assert there.images(NS).names() == [f"b{turn}"]
        there.images(NS).delete(f"b{turn}")
        with pytest.raises(NotFound):
            here.images(NS).get(f"b{turn}")


def test_a_write_of_one_process_is_locked_for_the_other_and_resumed_by_it(
    store: Store, elsewhere: Store
) -> None:
    """By its ref, with all the bytes that it has."""
    content = elsewhere.content(NS)
    with store.content(NS).writer("ref", size=6) as writer:
        writer.write(b"abc")
        assert content.status("ref").offset == 3
        with pytest.raises(Unavailable):
            content.writer("ref")
        with pytest.raises(Unavailable):
            content.abort("ref")
    with content.writer("ref") as writer:
        assert (writer.status().offset, writer.status().total) == (3, 6)
        writer.write(b"def")
        assert writer.commit(size=6).digest == Digest.of(b"abcdef")
    assert read(store.content(NS), Digest.of(b"abcdef")) == b"abcdef"
    assert list(store.content(NS).statuses()) == []


def test_what_was_published_together_is_seen_together(store: Store, elsewhere: Store) -> None:
    """And a namespace that is deleted is gone for both."""
    with store.content(OTHER).stage(algorithm="sha256") as writer:
        writer.write(b"x")
        store.publish(OTHER, [Commit(writer)], [Put(image("a"))], hold=Lease("l"))
    assert records(elsewhere, OTHER) == records(store, OTHER)
    elsewhere.images(OTHER).delete("a")
    elsewhere.content(OTHER).delete(Digest.of(b"x"))
    elsewhere.namespaces.delete(OTHER)
    assert not any(records(store, OTHER))
