"""Writes that are under way on disk: `imgtool.disk.writer`. What every store promises of a writer is in
`tests/conformance/test_ingester.py`; here is what files, system calls and faults add to it.
"""

from __future__ import annotations

import errno
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from imgtool.digest import ALGORITHMS, Digest
from imgtool.disk import DiskStore, atomic, copying, open_store
from imgtool.errors import (
    AlreadyExists,
    FailedPrecondition,
    ImgtoolError,
    InvalidArgument,
    ResourceExhausted,
    Unavailable,
)
from imgtool.stores import Commit, Writer

NS = "default"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DiskStore]:
    with open_store(str(tmp_path / "store"), lock_timeout=0.05) as opened:
        yield opened


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """Run as a user whom modes bind, in a directory of his own."""
    with tempfile.TemporaryDirectory() as path:
        root = os.geteuid() == 0
        if root:
            os.chown(path, 65534, 65534)
            os.seteuid(65534)
        try:
            yield Path(path)
        finally:
            if root:
                os.seteuid(0)


def read(store: DiskStore, digest: Digest) -> bytes:
    with store.content(NS).reader(digest) as reader:
        return reader.read()


def intercept(monkeypatch: pytest.MonkeyPatch, name: str, *acts: Callable[..., Any] | int | None) -> None:
    """Let the next calls called `name` act so: None as always, a number fails with it."""
    left, do = list(acts), atomic._do

    def intercepting(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        act = left.pop(0) if call.__name__ == name and left else None
        if isinstance(act, int):
            raise OSError(act, os.strerror(act))
        return do(call, *args, **kwargs) if act is None else act(*args, **kwargs)

    monkeypatch.setattr(atomic, "_do", intercepting)


# Streams that are repeated


BLOCK = 1 << 20


@pytest.mark.parametrize("at", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK - 1, 2 * BLOCK, 2 * BLOCK + 4])
@pytest.mark.parametrize("size", [1, 65_536, 3 * BLOCK])
def test_a_replay_that_differs_anywhere_is_the_new_stream(store: DiskStore, at: int, size: int) -> None:
    """Compared in blocks, which do not end where writes do."""
    old = bytes(2 * BLOCK + 5)
    new = old[:at] + b"\1" + old[at + 1 :] + b"and more"
    with store.content(NS).writer("ref") as writer:
        writer.write(old)
    with store.content(NS).writer("ref") as writer:
        writer.replay()
        for begin in range(0, len(new), size if size > 1 else len(new)):
            writer.write(new[begin : begin + (size if size > 1 else len(new))])
        assert writer.digest() == Digest.of(new)
        writer.commit(size=len(new), expected=Digest.of(new))
    assert read(store, Digest.of(new)) == new


def test_a_replay_of_the_same_stream_writes_nothing(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is what resuming saves."""
    data = os.urandom(2 * BLOCK)
    with store.content(NS).writer("ref") as writer:
        writer.write(data)
    with store.content(NS).writer("ref") as writer:
        writer.replay()
        intercept(monkeypatch, "write", errno.EIO)
        writer.write(data)
        assert writer.digest() == Digest.of(data)


def test_a_resumed_write_is_hashed_from_the_file(store: DiskStore) -> None:
    """In whatever algorithm it is resumed, and whoever wrote what is there."""
    for algorithm in ALGORITHMS:
        with store.content(NS).writer("ref", algorithm=algorithm) as writer:
            writer.write(b"x" * (BLOCK + 1))
            digest = writer.digest()
        size = (ALGORITHMS.index(algorithm) + 1) * (BLOCK + 1)
        assert digest == Digest.of(b"x" * size, algorithm)


# Copies


SIZES = [0, 1, 4096, BLOCK, 33 * BLOCK + 7]


def copied(store: DiskStore, fd: int, limit: int | None = None) -> tuple[int, bytes]:
    with store.content(NS).stage(algorithm="sha256") as writer:
        count = writer.copy_from(fd, limit)
        with suppress(AlreadyExists):
            writer.commit(size=count)
        return count, read(store, writer.digest())


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Callable[[bytes], int]]:
    fds = []

    def make(data: bytes) -> int:
        (tmp_path / "source").write_bytes(data)
        fds.append(os.open(tmp_path / "source", os.O_RDONLY))
        return fds[-1]

    yield make
    for fd in fds:
        os.close(fd)


@pytest.mark.parametrize("size", SIZES)
def test_a_file_is_copied_whole(store: DiskStore, source: Callable[[bytes], int], size: int) -> None:
    """By the kernel, and hashed behind its back from what arrived."""
    data = os.urandom(size)
    assert copied(store, source(data)) == (size, data)


@pytest.mark.parametrize(
    ("number", "size"),
    [
        *((errno.EXDEV, size) for size in SIZES),
        *((number, 9) for number in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF)),
    ],
)
def test_where_the_kernel_cannot_copy_the_file_is_read(
    store: DiskStore, source: Callable[[bytes], int], size: int, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two file systems, or an old kernel."""
    intercept(monkeypatch, "copy_file_range", number)
    data = os.urandom(size)
    assert copied(store, source(data)) == (size, data)


def test_what_the_kernel_leaves_over_is_read(
    store: DiskStore, source: Callable[[bytes], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may say that there is no more, as it does of files in /proc and /sys that claim a size."""
    data = os.urandom(5 * BLOCK)
    some = lambda s, t, n, o, p: os.copy_file_range(s, t, 1000, o, p)  # noqa: E731
    for acts in ([lambda *a: 0], [some, lambda *a: 0], [some, some, None, lambda *a: 0]):
        intercept(monkeypatch, "copy_file_range", *acts)
        assert copied(store, source(data)) == (len(data), data)


@pytest.mark.parametrize(
    "path", ["/proc/self/status", "/proc/version", "/sys/kernel/mm/transparent_hugepage/enabled"]
)
def test_a_file_that_has_no_size_is_read_to_its_end(store: DiskStore, path: str) -> None:
    """/proc says 0, /sys says 4096."""
    if not os.path.exists(path):
        path = "/proc/version"
    fd = os.open(path, os.O_RDONLY)
    count, data = copied(store, fd)
    os.close(fd)
    assert count == len(data) > 10


@pytest.mark.parametrize("limit", [0, 1, 999, 1000, 1001])
@pytest.mark.parametrize("how", ["file", "pipe"])
def test_a_copy_stops_one_byte_past_its_limit(
    store: DiskStore, source: Callable[[bytes], int], limit: int, how: str
) -> None:
    """Enough to notice that there is too much (T5), and what is left over stays in the source."""
    data = os.urandom(1000)
    if how == "file":
        fd = source(data)
    else:
        fd, end = os.pipe()
        os.write(end, data)
        os.close(end)
    assert copied(store, fd, limit) == (min(limit + 1, 1000), data[: limit + 1])
    assert os.read(fd, 1000) == data[limit + 1 :]
    if how == "pipe":
        os.close(fd)


def test_a_file_that_is_rewritten_while_it_is_copied_is_what_arrived(
    store: DiskStore, source: Callable[[bytes], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The digest is of the stored bytes, never of those that somebody put there since."""
    fd = source(bytes(40 * BLOCK))

    def rewriting(s: int, t: int, n: int, o: Any, p: int) -> int:
        count = os.copy_file_range(s, t, n, o, p)
        with (tmp_path / "source").open("r+b") as file:
            file.write(os.urandom(BLOCK))
        return count

    intercept(monkeypatch, "copy_file_range", rewriting, rewriting, rewriting)
    with store.content(NS).stage(algorithm="sha256") as writer:
        writer.copy_from(fd)
        digest = writer.commit().digest
    assert Digest.of(read(store, digest)) == digest


def test_a_copy_that_fails_midway_says_so_and_stops_its_thread(
    store: DiskStore, source: Callable[[bytes], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """F4: exit 1, and nothing goes on behind the caller's back."""
    before = threading.active_count()
    intercept(monkeypatch, "copy_file_range", None, None, errno.EIO)
    with store.content(NS).stage(algorithm="sha256") as writer:
        with pytest.raises(ImgtoolError, match="cannot copy"):
            writer.copy_from(source(bytes(40 * BLOCK)))
        assert threading.active_count() == before
    assert not list(store.objects())


def test_a_source_that_cannot_be_read_says_so(store: DiskStore, tmp_path: Path) -> None:
    """A directory, and a descriptor that is only for writing."""
    for path, flags in ((tmp_path, os.O_RDONLY), (tmp_path / "new", os.O_WRONLY | os.O_CREAT)):
        fd = os.open(path, flags)
        writer = store.content(NS).stage(algorithm="sha256")
        with writer, pytest.raises(ImgtoolError, match="cannot read the source"):
            writer.copy_from(fd)
        os.close(fd)


# Failures


@pytest.mark.parametrize("anonymous", [True, False])
def test_what_a_failed_write_left_behind_is_not_in_the_object(
    store: DiskStore, anonymous: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the second write is in the file when the disk is full, and its caller is content with
    the first.
    """

    def half(fd: int, data: Any) -> int:
        return os.write(fd, data[:3])

    content = store.content(NS)
    with content.stage(algorithm="sha256") if anonymous else content.writer("ref") as writer:
        intercept(monkeypatch, "write", None, half, errno.ENOSPC)
        writer.write(b"first")
        with pytest.raises(ResourceExhausted):
            writer.write(b"second")
        assert writer.status().offset == 5
        assert writer.digest() == Digest.of(b"first")
        assert writer.commit(expected=Digest.of(b"first")).size == 5
    assert read(store, Digest.of(b"first")) == b"first"


def test_a_write_may_be_repeated_after_a_failure(store: DiskStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody has made room."""
    with store.content(NS).writer("ref") as writer:
        intercept(monkeypatch, "write", lambda fd, data: os.write(fd, data[:3]), errno.ENOSPC)
        with pytest.raises(ResourceExhausted):
            writer.write(b"0123456789")
        writer.write(b"0123456789")
        writer.commit(expected=Digest.of(b"0123456789"))


@pytest.mark.parametrize("anonymous", [True, False])
def test_a_file_whose_sync_failed_is_never_published(
    store: DiskStore, anonymous: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F4: Linux drops the bytes then and takes them for written, so the next fsync says that all is well."""
    content = store.content(NS)
    writer: Writer = content.stage(algorithm="sha256") if anonymous else content.writer("ref")
    with writer:
        writer.write(b"x")
        intercept(monkeypatch, "fsync", errno.EIO)
        with pytest.raises(ImgtoolError, match="cannot fsync"):
            writer.commit()
        with pytest.raises(FailedPrecondition, match="is closed"):
            writer.commit()
    assert not list(store.objects())
    if not anonymous:
        with content.writer("ref") as writer:
            assert writer.status().offset == 0


def test_where_one_of_many_syncs_fails_nothing_is_published(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And all have to be written anew."""
    writers = [store.content(NS).stage(algorithm="sha256") for _ in range(5)]
    for i, writer in enumerate(writers):
        writer.write(bytes([i]))
    intercept(monkeypatch, "fsync", None, None, errno.EIO)
    with pytest.raises(ImgtoolError):
        store.publish(NS, [Commit(writer) for writer in writers])
    assert not list(store.objects())
    for writer in writers:
        with pytest.raises(FailedPrecondition, match="is closed"):
            writer.write(b"x")


def test_a_commit_that_waited_in_vain_can_be_repeated(store: DiskStore) -> None:
    """The lock was not to be had: the ingest is as it was, and is committed later."""
    with store.content(NS).writer("ref") as writer:
        writer.write(b"x")
        with store.engine.locks.changing(NS), pytest.raises(Unavailable):
            writer.commit()
        assert store.content(NS).status("ref").offset == 1
        assert writer.commit().size == 1


def test_a_commit_that_failed_late_can_be_made_by_another_process(unprivileged: Path) -> None:
    """The file is read-only by then, also for its owner, who is not root."""
    with open_store(str(unprivileged / "store"), lock_timeout=0.05) as store:
        with store.content(NS).writer("ref") as writer:
            writer.write(b"x")
            with store.engine.locks.changing(NS), pytest.raises(Unavailable):
                writer.commit()
        with store.content(NS).writer("ref") as writer:
            assert writer.status().offset == 1
            writer.write(b"y")
            assert writer.commit().size == 2
        assert read(store, Digest.of(b"xy")) == b"xy"


@pytest.mark.parametrize("end", ["close", "finish", "commit"])
def test_a_write_that_has_ended_takes_no_more(store: DiskStore, end: str) -> None:
    """One clear error, whatever is tried."""
    with store.content(NS).writer("ref") as writer:
        getattr(writer, end)()
        fd = os.open("/dev/null", os.O_RDONLY)
        attempts: list[Callable[[], object]] = [
            lambda: writer.write(b"x"),
            lambda: writer.copy_from(fd),
            lambda: writer.truncate(0),
            lambda: writer.replay(),
        ]
        for attempt in attempts:
            with pytest.raises(FailedPrecondition, match="content for 'ref' is closed"):
                attempt()
        os.close(fd)
        if end != "finish":
            with pytest.raises(FailedPrecondition, match="content for 'ref' is closed"):
                writer.commit()


def test_an_expected_digest_of_another_algorithm_names_the_object(unprivileged: Path) -> None:
    """The bytes are hashed anew, whatever the umask made of the file's mode."""
    before = os.umask(0o777)
    try:
        with open_store(str(unprivileged / "store")) as store:
            for algorithm in ALGORITHMS:
                expected = Digest.of(algorithm.encode(), algorithm)
                with store.content(NS).stage(algorithm="sha256") as writer:
                    writer.write(algorithm.encode())
                    with pytest.raises(FailedPrecondition, match="expected"):
                        writer.commit(expected=Digest.of(b"other", algorithm))
                    assert writer.commit(expected=expected).digest == expected
                assert read(store, expected) == algorithm.encode()
    finally:
        os.umask(before)


def test_a_record_of_the_wrong_size_is_healed_with_its_object(store: DiskStore) -> None:
    """Else the content would stay damaged however often it is ingested."""
    with store.content(NS).stage(algorithm="sha256") as writer:
        writer.write(b"hello")
        digest = writer.commit(labels={"k": "v"}).digest
    record = Path(store.engine.layout.content_record(NS, digest))
    body = record.read_bytes().replace(b"size = 5", b"size = 6").rpartition(b"# sha256:")[0]
    record.unlink()
    record.write_bytes(body)
    with store.content(NS).stage(algorithm="sha256") as writer:
        writer.write(b"hello")
        with pytest.raises(AlreadyExists):
            writer.commit()
    assert read(store, digest) == b"hello"
    assert store.content(NS).info(digest).labels == {"k": "v"}


@pytest.mark.parametrize("algorithm", ["md5", "", "SHA256", "sha256:"])
def test_an_unknown_algorithm_leaves_nothing_open(store: DiskStore, algorithm: str) -> None:
    """Neither a descriptor nor a lock on the ref."""
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(InvalidArgument):
        store.content(NS).stage(algorithm=algorithm)
    with pytest.raises(InvalidArgument):
        store.content(NS).writer("ref", algorithm=algorithm or "-")
    assert len(os.listdir("/proc/self/fd")) == before
    assert list(store.content(NS).statuses()) == []


def test_an_ingest_that_cannot_be_hashed_leaves_nothing_open(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F4: a bad sector under the bytes that are kept."""
    with store.content(NS).writer("ref") as writer:
        writer.write(b"x")
    before = len(os.listdir("/proc/self/fd"))

    def unreadable(*args: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as broken:
        broken.setattr(os, "preadv", unreadable)
        with pytest.raises(ImgtoolError, match="input/output error"):
            store.content(NS).writer("ref")
    assert len(os.listdir("/proc/self/fd")) == before
    with store.content(NS).writer("ref") as again:
        assert again.status().offset == 1


def test_the_module_reads_in_blocks_of_the_size_that_is_tested_here() -> None:
    """Else the tests above would miss the borders."""
    assert copying.READ == BLOCK
