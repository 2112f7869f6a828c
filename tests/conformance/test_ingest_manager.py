"""What `stores.IngestManager` promises, by every store."""

from __future__ import annotations

import time

import pytest

from imgtool import clock
from imgtool.digest import Digest
from imgtool.errors import InvalidArgument, NotFound, Unavailable
from imgtool.model import Lease
from imgtool.stores import ContentStore, Store

from .things import NS, OTHER, begin, ticking, time_is_between

REFS = ["a", "a/b", "../x", "A", ".", "é", "a b\n", "-rf", "x" * 1024]
NO_REFS = ["", "a\0b", "\udcff", "x" * 1025, "é" * 513]


def test_status_tells_what_was_begun(content: ContentStore) -> None:
    """While it is written, and when it has been left."""
    expected = Digest.of(b"abcdef")
    with ticking() as opening, content.writer("ref", size=6, expected=expected) as writer:
        opening.append(clock.wall())
        time.sleep(0.1)
        with ticking() as writing:
            writer.write(b"abc")
        for status in (writer.status(), content.status("ref")):
            assert (status.ref, status.offset, status.total, status.expected) == ("ref", 3, 6, expected)
            assert time_is_between(status.started, opening)
    left = content.status("ref")
    assert (left.ref, left.offset, left.total, left.expected) == ("ref", 3, 6, expected)
    assert time_is_between(left.updated, writing)


def test_a_total_that_nobody_said_is_0(content: ContentStore) -> None:
    """As in containerd's messages."""
    begin(content, "ref", b"abc")
    assert (content.status("ref").total, content.status("ref").expected) == (0, None)


def test_an_ingest_without_a_lease_expires_after_24_hours(content: ContentStore) -> None:
    """By the wall clock, from when it was opened; gc takes it then."""
    with ticking() as times:
        begin(content, "ref")
    expires = content.status("ref").expires
    assert expires is not None
    assert times[0] + clock.DAY <= expires <= times[1] + clock.DAY


def test_expiry_does_not_follow_source_date_epoch(
    content: ContentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a reproducible build would make ingests that are past their time at once."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    begin(content, "ref")
    expires = content.status("ref").expires
    assert expires is not None
    assert expires > clock.wall()


def test_a_leased_ingest_has_no_expiry(store: Store, content: ContentStore) -> None:
    """It lives as long as its lease."""
    store.leases(NS).create(Lease("l"))
    begin(content, "ref", lease="l")
    assert content.status("ref").expires is None


def test_an_absent_ingest_is_not_found(store: Store, content: ContentStore) -> None:
    """One of another namespace is absent here; so is one that was committed."""
    begin(store.content(OTHER), "there", b"abc")
    with content.writer("done") as writer:
        writer.commit()
    for ref in ("there", "none", "done"):
        with pytest.raises(NotFound):
            content.status(ref)
        with pytest.raises(NotFound):
            content.abort(ref)
    assert store.content(OTHER).status("there").offset == 3


@pytest.mark.parametrize("ref", NO_REFS)
def test_what_cannot_be_a_ref_is_refused(content: ContentStore, ref: str) -> None:
    """1 to 1,024 bytes of UTF-8."""
    for call in (content.status, content.abort, content.writer):
        with pytest.raises(InvalidArgument):
            call(ref)
    assert list(content.statuses()) == []


def test_statuses_are_in_byte_order_of_the_refs_and_filtered(content: ContentStore) -> None:
    """Any other text is a ref. Field: ref."""
    for i, ref in enumerate(REFS):
        begin(content, ref, bytes(i))
    assert [s.ref for s in content.statuses()] == sorted(REFS, key=str.encode)
    assert list(content.statuses()) == [content.status(s.ref) for s in content.statuses()]
    assert [s.ref for s in content.statuses("ref~=^a", 'ref=="."')] == [".", "a", "a b\n", "a/b"]
    assert [s.offset for s in content.statuses("ref==-rf")] == [7]
    with pytest.raises(InvalidArgument, match="filters"):
        list(content.statuses("ref=a"))


def test_the_same_ref_in_two_namespaces_is_two_ingests(store: Store) -> None:
    """Each with its own bytes."""
    for namespace, data in ((NS, b"abc"), (OTHER, b"defgh")):
        begin(store.content(namespace), "ref", data)
    assert [s.offset for s in store.content(NS).statuses()] == [3]
    store.content(NS).abort("ref")
    assert list(store.content(NS).statuses()) == []
    assert [s.offset for s in store.content(OTHER).statuses()] == [5]


def test_an_absent_namespace_has_no_ingests(store: Store) -> None:
    """And asking makes none."""
    assert list(store.content("nobody").statuses()) == []
    assert list(store.namespaces.list()) == []


def test_abort_drops_the_bytes(content: ContentStore) -> None:
    """The next write of that name starts at 0, with another total."""
    begin(content, "ref", b"abc", size=6)
    content.abort("ref")
    with pytest.raises(NotFound):
        content.status("ref")
    with content.writer("ref", size=9) as writer:
        assert (writer.status().offset, writer.status().total) == (0, 9)
        assert writer.digest() == Digest.of(b"")


def test_abort_leaves_what_the_lease_lists(store: Store, content: ContentStore) -> None:
    """Who aborts names no lease, and only who holds one changes it: a write of that name that comes again
    is held again, and a commit takes it off.
    """
    store.leases(NS).create(Lease("l"))
    for ref in ("a", "b"):
        begin(content, ref, b"abc", lease="l")
    before = store.leases(NS).get("l")
    content.abort("a")
    assert store.leases(NS).get("l") == before
    assert before.resources == {"ingests": ("a", "b")}
    with content.writer("a", lease="l") as writer:
        digest = writer.commit().digest
    assert store.leases(NS).get("l").resources == {"ingests": ("b",), "content": (digest,)}


def test_abort_of_a_write_under_way_is_unavailable(content: ContentStore) -> None:
    """Nobody's bytes are pulled away from under them."""
    with content.writer("ref") as writer:
        writer.write(b"abc")
        with pytest.raises(Unavailable):
            content.abort("ref")
        assert writer.commit().size == 3


def test_an_anonymous_write_is_not_among_the_ingests(content: ContentStore) -> None:
    """It has no name to resume or abort it by."""
    with content.stage(algorithm="sha256") as writer:
        writer.write(b"abc")
        assert list(content.statuses()) == []
        assert writer.ref == writer.status().ref == ""
        assert writer.status().offset == 3
