"""What `stores.Ingester` and `stores.Writer` promise, by every store."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imgtool import clock
from imgtool.digest import ALGORITHMS, Digest
from imgtool.errors import (
    AlreadyExists,
    FailedPrecondition,
    ImgtoolError,
    InvalidArgument,
    NotFound,
    Unavailable,
)
from imgtool.model import Lease
from imgtool.names import EXPIRE
from imgtool.stores import ContentStore, Store, Writer

from .things import ABSENT, NS, OTHER, add, begin, read, ticking, unchanged

DATA = bytes(range(256)) * 200
TOO_MUCH = {"k": "v" * 4096}


def test_bytes_are_published_under_their_digest(content: ContentStore) -> None:
    """What commit returns is the record; the write is over and its name free."""
    with content.writer("ref") as writer:
        for start in range(0, len(DATA), 1000):
            piece = DATA[start : start + 1000]
            assert writer.write(piece) == len(piece)
        assert writer.digest() == Digest.of(DATA)
        with ticking() as times:
            info = writer.commit(labels={"k": "v", "gone": ""})
    assert (info.digest, info.size, info.labels) == (Digest.of(DATA), len(DATA), {"k": "v"})
    assert times[0] <= info.created == info.updated <= times[1]
    assert content.info(info.digest) == info
    assert read(content, info.digest) == DATA
    assert list(content.statuses()) == []


def test_write_takes_whatever_holds_bytes(content: ContentStore) -> None:
    """And not a view that changes later."""
    buffer = bytearray(b"cdef")
    with content.writer("ref") as writer:
        written = [writer.write(b"ab"), writer.write(memoryview(buffer)[:2]), writer.write(b"")]
        buffer[:] = b"xxxx"
        assert written == [2, 2, 0]
        assert read(content, writer.commit().digest) == b"abcd"


def test_nothing_is_visible_before_commit(store: Store, content: ContentStore) -> None:
    """Neither to readers nor in lists."""
    with content.writer("ref", expected=Digest.of(b"abc")) as writer:
        writer.write(b"abc")
        assert list(content.list()) == []
        with pytest.raises(NotFound):
            content.reader(Digest.of(b"abc"))


def test_empty_content_can_be_committed(content: ContentStore) -> None:
    """containerd does so; only an image may not point to it."""
    with content.writer("ref") as writer:
        assert writer.commit(size=0).digest == Digest.of(b"")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_algorithm_is_chosen_by_what_is_expected_else_by_name(
    content: ContentStore, algorithm: str
) -> None:
    """sha256 unless said."""
    with content.writer("a", expected=Digest.of(b"x", algorithm)) as writer:
        writer.write(b"x")
        assert writer.digest() == Digest.of(b"x", algorithm)
        assert writer.commit().digest == Digest.of(b"x", algorithm)
    with content.writer("b", algorithm=algorithm) as writer:
        writer.write(b"y")
        assert writer.commit().digest == Digest.of(b"y", algorithm)
    with content.stage(algorithm=algorithm) as writer:
        writer.write(b"z")
        assert writer.commit().digest == Digest.of(b"z", algorithm)
    with content.writer("c") as writer:
        assert writer.digest() == Digest.of(b"")


def test_an_unknown_algorithm_is_refused(content: ContentStore) -> None:
    """Before anything is begun."""
    with pytest.raises(InvalidArgument):
        content.writer("ref", algorithm="md5")
    with pytest.raises(InvalidArgument):
        content.stage(algorithm="md5")
    assert list(content.statuses()) == []


def test_content_that_is_expected_and_here_needs_no_write(store: Store, content: ContentStore) -> None:
    """The client is spared the upload."""
    here = add(store, b"here")
    with unchanged(store), pytest.raises(AlreadyExists):
        content.writer("ref", expected=here)
    assert list(content.statuses()) == []


# Resuming


def test_a_named_write_is_resumed_where_it_was_left(content: ContentStore) -> None:
    """Total and start are remembered, and the digest is that of all bytes."""
    begin(content, "ref", DATA[:1000], size=len(DATA))
    started = content.status("ref").started
    with content.writer("ref") as writer:
        status = writer.status()
        assert (status.offset, status.total, status.started) == (1000, len(DATA), started)
        assert writer.digest() == Digest.of(DATA[:1000])
        writer.write(DATA[1000:])
        assert writer.commit(size=len(DATA), expected=Digest.of(DATA)).size == len(DATA)
    assert read(content, Digest.of(DATA)) == DATA


@pytest.mark.parametrize("size", [500, 5000, 50000])
@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("way", ["append", "truncate", "replay"])
def test_every_way_to_resume_gives_the_same_content(
    content: ContentStore, size: int, part: float, way: str
) -> None:
    """containerd's own suite: sizes, parts that were kept, and what the client does about them."""
    data = DATA[:size]
    kept = int(size * part)
    options: dict[str, Any] = {"size": size, "expected": Digest.of(data)}
    begin(content, "ref", data[:kept], **options)
    with content.writer("ref", **options) as writer:
        assert writer.status().offset == kept
        if way == "truncate":
            writer.truncate(0)
        elif way == "replay":
            writer.replay()
        left = data[kept:] if way == "append" else data
        for start in range(0, len(left), 1024):
            writer.write(left[start : start + 1024])
        info = writer.commit(**options)
    assert (info.digest, info.size, info.labels) == (Digest.of(data), size, {})
    assert read(content, info.digest) == data


def test_a_write_is_resumed_with_another_algorithm(content: ContentStore) -> None:
    """The bytes are hashed from the start."""
    begin(content, "ref", b"abc")
    with content.writer("ref", algorithm="sha512") as writer:
        assert writer.digest() == Digest.of(b"abc", "sha512")
        writer.write(b"def")
        assert writer.commit().digest == Digest.of(b"abcdef", "sha512")


def test_a_write_of_another_size_starts_over(content: ContentStore) -> None:
    """It is another write, whose bytes must not be mixed with these."""
    begin(content, "ref", b"abc", size=10)
    with content.writer("ref", size=20) as writer:
        assert (writer.status().offset, writer.status().total) == (0, 20)
        assert writer.digest() == Digest.of(b"")
        writer.write(b"x")
        assert writer.commit().digest == Digest.of(b"x")


def test_a_size_that_was_not_said_differs_from_none(content: ContentStore) -> None:
    """Only two sizes that are known can contradict each other."""
    begin(content, "a", b"abc", size=10)
    begin(content, "b", b"abc")
    for ref, size in (("a", None), ("a", 10), ("b", None), ("b", 10)):
        with content.writer(ref, size=size) as writer:
            assert writer.status().offset == 3


def test_sizes_and_digests_said_at_open_are_not_checked_at_commit(content: ContentStore) -> None:
    """containerd's store leaves that to commit's own arguments."""
    with content.writer("ref", size=10, expected=ABSENT) as writer:
        writer.write(b"abc")
        assert writer.commit().digest == Digest.of(b"abc")


def test_a_ref_that_is_open_is_unavailable(store: Store, content: ContentStore) -> None:
    """Until it is closed; in its namespace only."""
    with content.writer("ref") as writer:
        writer.write(b"abc")
        with pytest.raises(Unavailable):
            content.writer("ref")
        store.content(OTHER).writer("ref").close()
        content.writer("another").close()
        assert content.status("ref").offset == 3
    content.writer("ref").close()
    with content.writer("ref") as writer:
        writer.commit()
        content.writer("ref").close()


def test_close_keeps_a_named_write_and_drops_an_anonymous_one(content: ContentStore) -> None:
    """Closing twice, or after commit, does nothing more."""
    named, anonymous = content.writer("ref"), content.stage(algorithm="sha256")
    for writer in (named, anonymous):
        writer.write(b"abc")
        writer.close()
        writer.close()
    assert [(s.ref, s.offset) for s in content.statuses()] == [("ref", 3)]
    assert list(content.list()) == []
    again = content.writer("ref")
    again.commit()
    again.close()
    assert content.info(Digest.of(b"abc")).size == 3


def test_an_error_in_the_block_closes_without_commit(content: ContentStore) -> None:
    """`with` is the rule."""

    def broken() -> None:
        with content.writer("ref") as writer:
            writer.write(b"abc")
            raise KeyError

    with pytest.raises(KeyError):
        broken()
    assert content.status("ref").offset == 3
    content.writer("ref").close()


# Truncating and replaying


def test_truncate_starts_over(content: ContentStore) -> None:
    """The bytes are gone at once."""
    begin(content, "ref", b"abc")
    with content.writer("ref") as writer:
        writer.write(b"def")
        writer.truncate(0)
        assert writer.status().offset == content.status("ref").offset == 0
        assert writer.digest() == Digest.of(b"")
        writer.write(b"x")
        assert writer.commit().digest == Digest.of(b"x")


@pytest.mark.parametrize("size", [-1, 1, 3, 99])
def test_truncate_to_anything_else_is_refused(content: ContentStore, size: int) -> None:
    """As containerd does; the bytes stay."""
    with content.writer("ref") as writer:
        writer.write(b"abc")
        with pytest.raises(InvalidArgument):
            writer.truncate(size)
        assert writer.commit().digest == Digest.of(b"abc")


def test_a_replay_keeps_what_is_there_until_it_differs(content: ContentStore) -> None:
    """A stream that breaks again earlier than before has lost nothing."""
    begin(content, "ref", b"abcdef")
    with content.writer("ref") as writer:
        writer.replay()
        assert writer.digest() == Digest.of(b"")
        writer.write(b"abc")
        assert writer.digest() == Digest.of(b"abc")
    assert content.status("ref").offset == 6
    with content.writer("ref") as writer:
        writer.replay()
        writer.write(b"abX")
        assert writer.digest() == Digest.of(b"abX")
    assert content.status("ref").offset == 3
    with content.writer("ref") as writer:
        assert writer.digest() == Digest.of(b"abX")


def test_a_shorter_replay_commits_only_what_it_brought(content: ContentStore) -> None:
    """What is kept from before is no part of this stream."""
    begin(content, "ref", b"abcdef")
    with content.writer("ref") as writer:
        writer.replay()
        writer.write(b"abc")
        assert writer.commit(size=3).digest == Digest.of(b"abc")
    assert read(content, Digest.of(b"abc")) == b"abc"


def test_a_replay_can_be_replayed(content: ContentStore) -> None:
    """Also in the middle of one, and of what was written just now."""
    with content.writer("ref") as writer:
        writer.write(b"abcdef")
        writer.replay()
        writer.write(b"abc")
        writer.replay()
        writer.write(b"abcdefg")
        assert writer.commit().digest == Digest.of(b"abcdefg")


@settings(
    max_examples=30,
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    kept=st.lists(st.sampled_from([b"a", b"ab", b"abc", b""]), max_size=4),
    stream=st.lists(st.sampled_from([b"a", b"ab", b"abc", b"b", b""]), max_size=6),
)
def test_no_two_streams_are_ever_mixed(content: ContentStore, kept: list[bytes], stream: list[bytes]) -> None:
    """Whatever was there: after a replay exactly the new stream is committed."""
    begin(content, "ref", b"".join(kept))
    with content.writer("ref") as writer:
        writer.replay()
        for piece in stream:
            writer.write(piece)
        info = writer.commit()
    whole = b"".join(stream)
    assert info.digest == Digest.of(whole)
    assert read(content, info.digest) == whole
    content.delete(info.digest)


# Copying


def source(tmp_path: Path, data: bytes = DATA) -> int:
    path = tmp_path / "source"
    path.write_bytes(data)
    return os.open(path, os.O_RDONLY)


def pipe(data: bytes) -> int:
    """The reading end of a pipe that holds `data`."""
    reader, writer = os.pipe()
    os.write(writer, data)
    os.close(writer)
    return reader


def copied(writer: Writer, fd: int, limit: int | None = None) -> int:
    try:
        return writer.copy_from(fd, limit)
    finally:
        os.close(fd)


def test_a_file_is_copied_from_its_position(content: ContentStore, tmp_path: Path) -> None:
    """And appended to what is there."""
    fd = source(tmp_path)
    os.lseek(fd, 100, os.SEEK_SET)
    with content.writer("ref") as writer:
        writer.write(b"abc")
        assert copied(writer, fd) == len(DATA) - 100
        writer.write(b"def")
        whole = b"abc" + DATA[100:] + b"def"
        assert writer.digest() == Digest.of(whole)
        assert writer.commit(size=len(whole)).digest == Digest.of(whole)
    assert read(content, Digest.of(whole)) == whole


def test_a_pipe_is_copied_to_its_end(content: ContentStore) -> None:
    """It has no size and cannot seek."""
    with content.writer("ref") as writer:
        assert copied(writer, pipe(DATA)) == len(DATA)
        assert writer.commit().digest == Digest.of(DATA)


def test_an_empty_source_gives_nothing(content: ContentStore, tmp_path: Path) -> None:
    """A file or a pipe at its end; files of /proc only look empty."""
    with content.writer("ref") as writer:
        assert copied(writer, source(tmp_path, b"")) == copied(writer, pipe(b"")) == 0
        assert copied(writer, os.open("/proc/self/status", os.O_RDONLY)) > 0


@pytest.mark.parametrize(("limit", "count"), [(0, 1), (4, 5), (9, 10), (10, 10), (99, 10)])
@pytest.mark.parametrize("kind", ["file", "pipe"])
def test_a_copy_reads_one_byte_past_its_limit(
    content: ContentStore, tmp_path: Path, limit: int, count: int, kind: str
) -> None:
    """Too much is noticed, and not read to its end."""
    with content.writer("ref") as writer:
        writer.write(b"abc")
        fd = source(tmp_path, DATA[:10]) if kind == "file" else pipe(DATA[:10])
        assert copied(writer, fd, limit) == count
        assert writer.digest() == Digest.of(b"abc" + DATA[:count])


@pytest.mark.parametrize("kind", ["file", "pipe"])
@pytest.mark.parametrize("kept", [DATA[:1000], DATA[:1000] + b"other", DATA + b"more"])
def test_a_replay_compares_what_it_copies(
    content: ContentStore, tmp_path: Path, kept: bytes, kind: str
) -> None:
    """The same promise as for write."""
    begin(content, "ref", kept)
    with content.writer("ref") as writer:
        writer.replay()
        fd = source(tmp_path) if kind == "file" else pipe(DATA)
        assert copied(writer, fd) == len(DATA)
        assert writer.commit().digest == Digest.of(DATA)
    assert read(content, Digest.of(DATA)) == DATA


def test_a_source_that_cannot_be_read_is_an_error_of_ours(content: ContentStore, tmp_path: Path) -> None:
    """A directory, for one."""
    with content.writer("ref") as writer, pytest.raises(ImgtoolError):
        copied(writer, os.open(tmp_path, os.O_RDONLY))


# Committing


def test_a_finished_write_can_be_committed_or_left(content: ContentStore) -> None:
    """So that thousands can wait for their publishing without an open file each."""
    for ref in ("a", "b"):
        with content.writer(ref) as writer:
            writer.write(ref.encode())
            writer.finish()
            writer.finish()
            assert writer.digest() == Digest.of(ref.encode())
            assert writer.status().offset == 1
            if ref == "a":
                assert writer.commit(size=1, expected=Digest.of(b"a", "blake3")).size == 1
    assert [(s.ref, s.offset) for s in content.statuses()] == [("b", 1)]
    with content.writer("b") as writer:
        writer.write(b"c")
        assert writer.commit().digest == Digest.of(b"bc")


def test_what_a_replay_did_not_reach_is_not_in_a_finished_write(content: ContentStore) -> None:
    """All bytes are written, it says."""
    begin(content, "ref", b"abcdef")
    with content.writer("ref") as writer:
        writer.replay()
        writer.write(b"abc")
        writer.finish()
        assert writer.commit(size=3, expected=Digest.of(b"abc", "sha512")).size == 3
    assert read(content, Digest.of(b"abc", "sha512")) == b"abc"


@pytest.mark.parametrize(
    "wanted",
    [
        {"size": 2},
        {"size": 4},
        {"size": 0},
        {"expected": ABSENT},
        {"size": 3, "expected": Digest.of(b"abd", "sha512")},
        {"size": 4, "expected": Digest.of(b"abc")},
    ],
)
def test_other_bytes_than_stated_are_not_published(
    store: Store, content: ContentStore, wanted: dict[str, Any]
) -> None:
    """The ingest stays as it is, and can be committed with the right values."""
    with content.writer("ref") as writer:
        writer.write(b"abc")
        with pytest.raises(FailedPrecondition):
            writer.commit(**wanted)
    assert list(content.list()) == []
    assert content.status("ref").offset == 3
    with content.writer("ref") as writer:
        assert writer.commit(size=3, expected=Digest.of(b"abc")).size == 3


def test_an_expected_digest_of_another_algorithm_is_computed_anew(content: ContentStore) -> None:
    """It is also the name under which the bytes are published."""
    with content.writer("ref", algorithm="blake3") as writer:
        writer.write(b"abc")
        assert writer.commit(expected=Digest.of(b"abc", "sha512")).digest == Digest.of(b"abc", "sha512")
    with pytest.raises(NotFound):
        content.info(Digest.of(b"abc", "blake3"))


def test_labels_that_do_not_fit_leave_the_ingest(content: ContentStore) -> None:
    """containerd's rule of 4,096 bytes, before anything is published."""
    with content.writer("ref") as writer:
        writer.write(b"abc")
        with pytest.raises(InvalidArgument):
            writer.commit(labels=TOO_MUCH)
    assert list(content.list()) == []
    assert content.status("ref").offset == 3


@pytest.mark.parametrize("expected", [None, Digest.of(b"abc")])
def test_bytes_that_are_here_already_end_the_ingest(
    store: Store, content: ContentStore, expected: Digest | None
) -> None:
    """AlreadyExists is a success to most clients; the record is as it was."""
    add(store, b"abc", k="v")
    with content.writer("ref") as writer:
        writer.write(b"abc")
        with unchanged(store), pytest.raises(AlreadyExists):
            writer.commit(size=3, expected=expected, labels={"k": "new", "l": "w"})
    assert list(content.statuses()) == []
    with content.writer("ref") as writer:
        assert writer.status().offset == 0


def test_bytes_that_only_another_namespace_has_get_a_record_here(store: Store, content: ContentStore) -> None:
    """With its own labels."""
    add(store, b"abc", OTHER, k="there")
    assert content.info(add(store, b"abc", k="here")).labels == {"k": "here"}
    assert store.content(OTHER).info(Digest.of(b"abc")).labels == {"k": "there"}


def test_a_commit_that_failed_can_be_mended(store: Store, content: ContentStore) -> None:
    """containerd's CommitErrorState: each failure, then success, then the same content again."""
    add(store, b"abc")
    cases: list[tuple[bytes, dict[str, Any], type[ImgtoolError]]] = [
        (b"abc", {"size": 3, "expected": Digest.of(b"abc")}, AlreadyExists),
        (b"abc", {"size": 3}, AlreadyExists),
        (b"abcmore", {"size": 7, "expected": ABSENT}, FailedPrecondition),
        (b"", {"size": 3}, FailedPrecondition),
    ]
    for data, wanted, error in cases:
        with content.writer("ref") as writer:
            writer.write(data)
            with pytest.raises(Unavailable):
                content.writer("ref")
            with pytest.raises(error):
                writer.commit(**wanted)
    with content.writer("ref") as writer:
        assert writer.commit(size=7).digest == Digest.of(b"abcmore")
    assert list(content.statuses()) == []


# Leases


def resources(store: Store, lease: str) -> dict[str, set[str]]:
    return {type: set(ids) for type, ids in store.leases(NS).get(lease).resources.items() if ids}


def test_a_lease_holds_the_ingest_and_then_the_content(store: Store, content: ContentStore) -> None:
    """No moment between, in which gc could take either."""
    store.leases(NS).create(Lease("l"))
    with content.writer("ref", lease="l") as writer:
        assert resources(store, "l") == {"ingests": {"ref"}}
        writer.write(b"abc")
        digest = writer.commit().digest
    assert resources(store, "l") == {"content": {digest}}


def test_a_resumed_write_stays_under_its_lease(store: Store, content: ContentStore) -> None:
    """Another client may finish what the leased one began."""
    store.leases(NS).create(Lease("l"))
    begin(content, "ref", b"abc", lease="l")
    with content.writer("ref") as writer:
        assert writer.status().expires is None
        digest = writer.commit().digest
    assert resources(store, "l") == {"content": {digest}}


def test_content_that_is_here_already_comes_under_the_lease(store: Store, content: ContentStore) -> None:
    """Its client takes AlreadyExists for success, and relies on the lease."""
    store.leases(NS).create(Lease("at-open"))
    store.leases(NS).create(Lease("at-commit"))
    digest = add(store, b"abc")
    with pytest.raises(AlreadyExists):
        content.writer("ref", expected=digest, lease="at-open")
    with content.writer("ref", lease="at-commit") as writer:
        writer.write(b"abc")
        with pytest.raises(AlreadyExists):
            writer.commit()
    assert resources(store, "at-open") == resources(store, "at-commit") == {"content": {digest}}


def test_an_absent_lease_is_not_found(store: Store, content: ContentStore) -> None:
    """Nothing is begun; a lease of another namespace is absent here."""
    store.leases(OTHER).create(Lease("l"))
    with pytest.raises(NotFound):
        content.writer("ref", lease="l")
    assert list(content.statuses()) == []


def test_a_lease_whose_time_is_up_meanwhile_still_gets_the_content(
    store: Store, content: ContentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in containerd; who renews it before the next gc has lost nothing."""
    in_an_hour = clock.wall() + clock.HOUR
    store.leases(NS).create(Lease("l", {EXPIRE: clock.format_time(in_an_hour)}))
    with content.writer("ref", lease="l") as writer:
        writer.write(b"abc")
        with monkeypatch.context() as patch:
            patch.setattr(clock, "wall", lambda: in_an_hour + 1)
            digest = writer.commit().digest
    assert resources(store, "l") == {"content": {digest}}


def test_a_lease_that_was_deleted_meanwhile_does_not_lose_the_content(
    store: Store, content: ContentStore
) -> None:
    """The bytes have been sent; what holds them is for gc to ask."""
    store.leases(NS).create(Lease("l"))
    with content.writer("ref", lease="l") as writer:
        writer.write(b"abc")
        store.leases(NS).delete("l")
        digest = writer.commit().digest
    assert read(content, digest) == b"abc"
    assert list(store.leases(NS).list()) == []


# Anonymous writes


def test_an_anonymous_write_is_committed_like_a_named_one(content: ContentStore) -> None:
    """Several at a time, as nothing tells them apart."""
    with content.stage(algorithm="blake3") as one, content.stage(algorithm="sha256") as two:
        one.write(b"one")
        two.write(b"two")
        assert one.commit(labels={"k": "v"}).labels == {"k": "v"}
        with pytest.raises(FailedPrecondition):
            two.commit(size=4)
        assert two.commit(size=3, expected=Digest.of(b"two", "sha512")).size == 3
    found = {info.digest for info in content.list()}
    assert found == {Digest.of(b"one", "blake3"), Digest.of(b"two", "sha512")}


def test_the_first_content_brings_its_namespace_into_being(store: Store) -> None:
    """Not an anonymous write that is under way."""
    with store.content("new").stage(algorithm="sha256") as writer:
        assert list(store.namespaces.list()) == []
        writer.commit()
    assert store.namespaces.get("new").name == "new"


def test_a_named_write_brings_its_namespace_into_being(store: Store) -> None:
    """As in containerd: it can be listed and aborted, and gc looks for what it expects."""
    with store.content("new").writer("ref"):
        assert [namespace.name for namespace in store.namespaces.list()] == ["new"]


def test_what_is_written_can_be_read_before_it_is_published(store: Store) -> None:
    """A pipe cannot be read twice: the manifest in the middle of an archive is read back from here."""
    content = store.content(NS)
    with content.stage(algorithm="sha256") as writer:
        writer.write(b"0123456789")
        writer.finish()
        with writer.reader() as reader:
            assert (reader.size, reader.read_at(3, 4), reader.read()) == (10, b"456", b"0123456789")
        assert list(content.list()) == []
