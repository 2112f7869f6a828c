"""What a namespace gets of what only another one has, by every store: containerd's policies `shared` and
`isolated`, and its label `containerd.io/namespace.shareable`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from imgtool import clock
from imgtool.digest import Digest
from imgtool.errors import (
    AlreadyExists,
    FailedPrecondition,
    ImgtoolError,
    InvalidArgument,
    NotFound,
    Unavailable,
)
from imgtool.model import Lease, Namespace
from imgtool.ops import gc
from imgtool.stores import Commit, ContentStore, Garbage, Put, Store

from .things import ABSENT, NS, OTHER, add, begin, image, read, ticking, time_is_between, unchanged

DATA = bytes(range(256)) * 100
SIZE = len(DATA)
D = Digest.of(DATA)
SHAREABLE = "containerd.io/namespace.shareable"


@pytest.fixture(params=["shared", "shareable"])
def lending(request: pytest.FixtureRequest, make_store: Callable[..., Store]) -> Store:
    """A store whose namespace OTHER has DATA and lends it: by the policy, or by its label where the policy
    is not to.
    """
    store = make_store("shared" if request.param == "shared" else "isolated")
    labels = {SHAREABLE: "true"} if request.param == "shareable" else {}
    store.namespaces.create(Namespace(OTHER, labels))
    add(store, DATA, OTHER, whose="theirs")
    return store


@pytest.fixture(params=["", "false", "True"])
def isolated(request: pytest.FixtureRequest, make_store: Callable[..., Store]) -> Store:
    """A store whose namespace OTHER has DATA, and does not lend it."""
    store = make_store("isolated")
    store.namespaces.create(Namespace(OTHER, {SHAREABLE: request.param}))
    add(store, DATA, OTHER)
    return store


@pytest.fixture
def content(lending: Store) -> ContentStore:
    """A namespace that does not exist yet."""
    return lending.content(NS)


def theirs_is_untouched(store: Store) -> bool:
    there = store.content(OTHER)
    return read(there, D) == DATA and there.info(D).labels == {"whose": "theirs"}


def remove_object(store: Store) -> None:
    """What gc does with an object that nothing needs, after OTHER has deleted its record."""
    store.content(OTHER).delete(D)
    with store.removing() as remove:
        remove(Garbage({}, {}, {D: SIZE}, []))


# What is lent


@pytest.mark.parametrize("size", [None, 0, SIZE], ids=["unsaid", "zero", "said"])
def test_a_digest_that_another_namespace_has_obtains_the_bytes(
    lending: Store, content: ContentStore, size: int | None
) -> None:
    """The client sees that nothing is left to send, and commits."""
    with ticking() as opening, content.writer("ref", size=size, expected=D) as writer:
        status = writer.status()
        with pytest.raises(NotFound):
            content.info(D)
        with ticking() as times:
            info = writer.commit(size=SIZE, expected=D, labels={"whose": "ours"})
    assert (status.ref, status.offset, status.total, status.expected) == ("ref", SIZE, SIZE, D)
    assert time_is_between(status.started, opening)
    assert (info.digest, info.size, info.labels) == (D, SIZE, {"whose": "ours"})
    assert times[0] <= info.created == info.updated <= times[1]
    assert content.info(D) == info
    assert read(content, D) == DATA
    assert theirs_is_untouched(lending)
    assert list(content.statuses()) == []
    assert list(lending.objects()) == [(D, SIZE)]


def test_a_commit_without_arguments_takes_what_is_lent(content: ContentStore) -> None:
    """Neither size nor digest need be said twice."""
    with content.writer("ref", expected=D) as writer:
        assert writer.commit().digest == D


def test_what_is_lent_can_be_read_and_has_its_digest(content: ContentStore) -> None:
    """As if it had been written."""
    with content.writer("ref", expected=D) as writer:
        assert writer.digest() == D
        with writer.reader() as reader:
            assert (reader.size, reader.read_at(3, 4), reader.read()) == (SIZE, DATA[4:7], DATA)
        writer.finish()
        assert writer.commit().digest == D


def test_empty_content_is_lent_too(lending: Store, content: ContentStore) -> None:
    """Which looks like a write that has no bytes yet."""
    empty = add(lending, b"", OTHER)
    with content.writer("ref", expected=empty) as writer:
        assert (writer.status().offset, writer.digest()) == (0, empty)
        assert writer.commit(size=0, expected=empty).size == 0
    assert read(content, empty) == b""


def test_nothing_to_write_leaves_it_lent(content: ContentStore) -> None:
    """A client that copies from the offset on sends an empty rest."""
    fd = os.memfd_create("empty")
    try:
        with content.writer("ref", expected=D) as writer:
            assert writer.write(b"") == 0
            assert writer.copy_from(fd) == 0
            assert writer.status().offset == SIZE
            assert writer.commit(size=SIZE, expected=D).digest == D
    finally:
        os.close(fd)


def test_what_is_lent_is_published_with_an_image(lending: Store, content: ContentStore) -> None:
    """In one step with content that was sent, which alone is new among the objects."""
    with (
        content.writer("ref", expected=D) as lent,
        content.stage(algorithm="sha256") as sent,
    ):
        sent.write(b"sent")
        needs = frozenset({D, Digest.of(b"sent")})
        outcome = lending.publish(
            NS, [Commit(lent, SIZE, D, {"k": "v"}), Commit(sent)], [Put(image("x", DATA), needs=needs)]
        )
    assert [info.digest for info in outcome.content] == [D, Digest.of(b"sent")]
    assert outcome.images == [lending.images(NS).get("x")]
    assert content.info(D).labels == {"k": "v"}
    assert read(content, D) == DATA
    assert theirs_is_untouched(lending)


# What is not


def test_isolated_gives_nothing_for_a_digest(isolated: Store) -> None:
    """All bytes must be sent; then they are one object."""
    content = isolated.content(NS)
    with content.writer("ref", size=SIZE, expected=D) as writer:
        status = writer.status()
        assert (status.offset, status.total, status.expected) == (0, SIZE, D)
        assert writer.digest() == Digest.of(b"")
        writer.write(DATA)
        assert writer.commit(size=SIZE, expected=D).labels == {}
    assert read(content, D) == DATA
    assert list(isolated.objects()) == [(D, SIZE)]


@pytest.mark.parametrize("sent", [b"", DATA[:-1]], ids=["nothing", "too-little"])
def test_isolated_takes_no_commit_without_the_bytes(isolated: Store, sent: bytes) -> None:
    """Naming a digest is no proof of having what it names; nor does the answer tell who has it."""
    content = isolated.content(NS)
    messages = []
    for expected in (D, ABSENT):
        with content.writer("ref", expected=expected) as writer:
            writer.replay()
            writer.write(sent)
            with pytest.raises(FailedPrecondition) as caught:
                writer.commit(expected=expected)
        messages.append(caught.value.message.replace(expected, "D"))
        with pytest.raises(NotFound):
            content.info(expected)
    assert messages[0] == messages[1]


def test_nothing_is_lent_where_the_sizes_differ(content: ContentStore) -> None:
    """One of the two is wrong, which commit tells when it has the bytes."""
    with content.writer("ref", size=SIZE + 1, expected=D) as writer:
        assert (writer.status().offset, writer.status().total) == (0, SIZE + 1)
        writer.write(DATA)
        with pytest.raises(FailedPrecondition):
            writer.commit(size=SIZE + 1, expected=D)


@pytest.mark.parametrize(
    "expected", [ABSENT, Digest.of(DATA, "sha512"), None], ids=["absent", "algorithm", "none"]
)
def test_nothing_is_lent_but_what_was_asked_for(content: ContentStore, expected: Digest | None) -> None:
    """The same bytes under a digest of another algorithm are another object."""
    with content.writer("ref", expected=expected) as writer:
        assert writer.status().offset == 0


def test_nothing_is_lent_that_no_namespace_has(lending: Store, content: ContentStore) -> None:
    """An object that waits for gc is nobody's to give."""
    lending.content(OTHER).delete(D)
    with content.writer("ref", expected=D) as writer:
        assert writer.status().offset == 0


def test_a_write_that_has_bytes_goes_on_with_them(content: ContentStore) -> None:
    """It was begun before the other namespace had them all."""
    begin(content, "ref", DATA[:100])
    with content.writer("ref", size=SIZE, expected=D) as writer:
        assert (writer.status().offset, writer.digest()) == (100, Digest.of(DATA[:100]))


def test_content_of_the_own_namespace_exists_already(lending: Store, content: ContentStore) -> None:
    """Lending is for those who have no record."""
    add(lending, DATA)
    with unchanged(lending), pytest.raises(AlreadyExists):
        content.writer("ref", expected=D)


# Commits that fail, writes that end otherwise


@pytest.mark.parametrize(
    ("wanted", "error"),
    [
        ({"size": SIZE - 1}, FailedPrecondition),
        ({"size": 0}, FailedPrecondition),
        ({"expected": ABSENT}, FailedPrecondition),
        ({"expected": Digest.of(b"other", "blake3")}, FailedPrecondition),
        ({"labels": {"k": "v" * 4096}}, InvalidArgument),
    ],
    ids=["shorter", "empty", "digest", "algorithm", "labels"],
)
def test_a_commit_of_what_is_lent_is_compared(
    lending: Store, content: ContentStore, wanted: dict[str, Any], error: type[ImgtoolError]
) -> None:
    """The ingest stays, and a commit with what is right ends it."""
    with content.writer("ref", expected=D) as writer:
        with pytest.raises(error):
            writer.commit(**wanted)
        with pytest.raises(NotFound):
            content.info(D)
    assert [status.ref for status in content.statuses()] == ["ref"]
    with content.writer("ref", expected=D) as writer:
        assert writer.commit(size=SIZE, expected=D).size == SIZE
    assert theirs_is_untouched(lending)


def test_a_commit_under_another_algorithm_hashes_what_is_lent(lending: Store, content: ContentStore) -> None:
    """It becomes a second object, and the first stays where it is."""
    expected = Digest.of(DATA, "blake3")
    with content.writer("ref", expected=D) as writer:
        assert writer.commit(size=SIZE, expected=expected).digest == expected
    assert read(content, expected) == DATA
    assert theirs_is_untouched(lending)
    with pytest.raises(NotFound):
        content.info(D)


def test_content_that_came_meanwhile_exists_already(lending: Store, content: ContentStore) -> None:
    """Another client of the same namespace was first; its record stands."""
    with content.writer("ref", expected=D) as writer:
        mine = add(lending, DATA, k="first")
        with pytest.raises(AlreadyExists):
            writer.commit(labels={"k": "second"})
    assert content.info(mine).labels == {"k": "first"}
    assert list(content.statuses()) == []


def test_a_write_of_what_is_lent_is_listed_and_aborted(lending: Store, content: ContentStore) -> None:
    """It has no bytes of its own."""
    with content.writer("ref", size=SIZE, expected=D), pytest.raises(Unavailable):
        content.writer("ref", expected=D)
    (status,) = content.statuses()
    assert status == content.status("ref")
    assert (status.ref, status.offset, status.total, status.expected) == ("ref", 0, SIZE, D)
    content.abort("ref")
    assert list(content.statuses()) == []
    assert theirs_is_untouched(lending)


def test_a_write_of_what_is_lent_is_resumed(content: ContentStore) -> None:
    """Who names the digest again has it again; who does not, has an empty write."""
    for _ in range(2):
        with content.writer("ref", expected=D) as writer:
            assert writer.status().offset == SIZE
    with content.writer("ref") as writer:
        assert (writer.status().offset, writer.digest()) == (0, Digest.of(b""))
        writer.write(b"abc")
        assert writer.commit().digest == Digest.of(b"abc")


# Writing


def test_what_is_written_follows_what_is_lent(lending: Store, content: ContentStore) -> None:
    """containerd's CrossNamespaceAppend: the sum is new content, and the other's stays as it is."""
    both = Digest.of(DATA + b"more")
    with content.writer("ref", size=SIZE, expected=D) as writer:
        assert writer.write(b"mo") == 2
        assert (writer.status().offset, writer.digest()) == (SIZE + 2, Digest.of(DATA + b"mo"))
        writer.write(b"re")
        with pytest.raises(FailedPrecondition):
            writer.commit(size=SIZE, expected=D)
    with content.writer("ref", expected=both) as writer:
        assert writer.commit(size=SIZE + 4, expected=both).digest == both
    assert read(content, both) == DATA + b"more"
    assert theirs_is_untouched(lending)


def test_a_file_is_copied_behind_what_is_lent(lending: Store, content: ContentStore) -> None:
    """By whatever way the store copies files."""
    fd = os.memfd_create("more")
    try:
        os.write(fd, DATA * 20)
        os.lseek(fd, 0, os.SEEK_SET)
        with content.writer("ref", expected=D) as writer:
            assert writer.copy_from(fd) == 20 * SIZE
            assert writer.commit(size=21 * SIZE).digest == Digest.of(DATA * 21)
    finally:
        os.close(fd)
    assert theirs_is_untouched(lending)


@pytest.mark.parametrize("stream", [b"other bytes", DATA[:100] + b"x" * SIZE, DATA, DATA[:100], b""])
@pytest.mark.parametrize("way", ["truncate", "replay"])
def test_a_write_that_starts_over_has_its_own_bytes(
    lending: Store, content: ContentStore, way: str, stream: bytes
) -> None:
    """None of which reach the object that was lent."""
    with content.writer("ref", expected=D) as writer:
        if way == "truncate":
            writer.truncate(0)
        else:
            writer.replay()
        assert (writer.status().offset, writer.digest()) == (0, Digest.of(b""))
        for start in range(0, len(stream), 1000):
            writer.write(stream[start : start + 1000])
        assert writer.digest() == Digest.of(stream)
        info = writer.commit(size=len(stream), expected=Digest.of(stream))
    assert read(content, info.digest) == stream
    assert theirs_is_untouched(lending)


# Gc and leases


def test_an_ingest_keeps_what_it_expects_though_only_others_had_it(
    lending: Store, content: ContentStore
) -> None:
    """Also in a namespace that has nothing else yet."""
    with content.writer("ref", expected=D) as writer:
        lending.content(OTHER).delete(D)
        gc.collect(lending)
        assert list(lending.objects()) == [(D, SIZE)]
        assert writer.commit(size=SIZE, expected=D).digest == D
    assert read(content, D) == DATA


def test_without_a_commit_what_is_lent_goes_with_the_ingest(lending: Store, content: ContentStore) -> None:
    """It keeps the object no longer than itself."""
    with content.writer("ref", expected=D):
        lending.content(OTHER).delete(D)
    content.abort("ref")
    gc.collect(lending)
    assert list(lending.objects()) == []


def test_a_commit_of_what_has_gone_is_unavailable(lending: Store, content: ContentStore) -> None:
    """The ingest outlived its time, and gc came by. The client begins anew, and sends the bytes."""
    with content.writer("ref", expected=D) as writer:
        remove_object(lending)
        with pytest.raises(Unavailable):
            writer.commit(size=SIZE, expected=D)
    with pytest.raises(NotFound):
        content.info(D)
    with content.writer("ref", expected=D) as writer:
        assert (writer.status().offset, writer.digest()) == (0, Digest.of(b""))
        writer.write(DATA)
        assert writer.commit(size=SIZE, expected=D).digest == D
    assert read(content, D) == DATA


def test_nothing_is_published_beside_what_has_gone(lending: Store, content: ContentStore) -> None:
    """A step is whole, or is not."""
    with content.writer("ref", expected=D) as lent, content.writer("sent") as sent:
        sent.write(b"sent")
        remove_object(lending)
        with pytest.raises(Unavailable):
            lending.publish(NS, [Commit(sent), Commit(lent, SIZE, D)], [Put(image("x", b"sent"))])
    assert list(content.list()) == []
    assert list(lending.images(NS).list()) == []
    assert [status.ref for status in content.statuses()] == ["ref", "sent"]


def test_what_is_lent_comes_under_the_lease(lending: Store, content: ContentStore) -> None:
    """First the ingest, then the content, as with bytes that are sent."""
    leases = lending.leases(NS)
    leases.create(Lease("l"))
    with content.writer("ref", expected=D, lease="l") as writer:
        assert leases.get("l").resources == {"ingests": ("ref",)}
        lending.content(OTHER).delete(D)
        gc.collect(lending)
        writer.commit()
    assert leases.get("l").resources == {"content": (str(D),)}
    gc.collect(lending)
    assert read(content, D) == DATA


def test_an_ingest_past_its_time_keeps_nothing(
    lending: Store, content: ContentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever forgot it does not hold the space for ever."""
    with content.writer("ref", expected=D):
        lending.content(OTHER).delete(D)
    later = clock.wall() + 25 * clock.HOUR
    monkeypatch.setattr(clock, "wall", lambda: later)
    gc.collect(lending)
    assert list(lending.objects()) == []
    assert list(content.statuses()) == []
