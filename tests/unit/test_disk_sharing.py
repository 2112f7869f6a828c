"""What one namespace lends another, as files: `imgtool.disk.content`, `imgtool.disk.writer`."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imgtool.digest import Digest
from imgtool.disk import DiskStore, atomic, open_store
from imgtool.disk.writer import FileWriter
from imgtool.errors import ResourceExhausted, Unavailable
from imgtool.model import Namespace

NS = "default"
OTHER = "other"
DATA = bytes(range(256)) * 100
D = Digest.of(DATA)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DiskStore]:
    """A store whose namespace OTHER has DATA."""
    with open_store(str(tmp_path / "store"), lock_timeout=0.05) as opened:
        with opened.content(OTHER).writer("ref") as writer:
            writer.write(DATA)
            writer.commit()
        yield opened


def the_object(store: DiskStore) -> Path:
    return Path(store.engine.layout.object(D))


def the_ingest(store: DiskStore) -> Path:
    return Path(store.engine.layout.ingest(NS, "ref"))


def record(store: DiskStore) -> Path:
    return Path(store.engine.layout.content_record(OTHER, D))


def borrow(store: DiskStore) -> FileWriter:
    return store.content(NS).writer("ref", expected=D)


def offset(store: DiskStore) -> int:
    with borrow(store) as writer:
        return writer.status().offset


def spoil(path: Path, data: bytes) -> None:
    path.chmod(0o600)
    path.write_bytes(data)


def test_nothing_is_copied_or_linked_for_a_commit(store: DiskStore) -> None:
    """A gigabyte is there as fast as a byte, and no name leads to the object but its own."""
    before = the_object(store).stat()
    with borrow(store) as writer:
        assert sorted(entry.name for entry in the_ingest(store).iterdir()) == ["data", "lock", "ref.toml"]
        assert (the_ingest(store) / "data").stat().st_size == 0
        writer.commit(size=len(DATA), expected=D)
    after = the_object(store).stat()
    assert (after.st_ino, after.st_nlink, after.st_ctime_ns) == (before.st_ino, 1, before.st_ctime_ns)
    assert not the_ingest(store).exists()


EACH_CHANGE = [
    [("write", b"more")],
    [("truncate", 0)],
    [("truncate", 0), ("write", b"other")],
    [("replay",), ("write", DATA[:-1] + b"x")],
    [("write", b"more"), ("truncate", 0), ("write", b"other")],
    [("finish",)],
]


@pytest.mark.parametrize("change", EACH_CHANGE)
@pytest.mark.parametrize("end", ["commit", "close", "drop"])
def test_no_write_reaches_the_object(store: DiskStore, change: list[tuple[Any, ...]], end: str) -> None:
    """It is another namespace's content, whatever becomes of the write."""
    before = the_object(store).stat()
    with borrow(store) as writer:
        for name, *arguments in [*change, (end,)]:
            getattr(writer, name)(*arguments)
    after = the_object(store).stat()
    assert the_object(store).read_bytes() == DATA
    assert (after.st_ino, after.st_nlink, after.st_mode) == (before.st_ino, 1, before.st_mode)
    assert after.st_mtime_ns == before.st_mtime_ns


@pytest.mark.parametrize("left", [None, b"", DATA[:-1], DATA + b"x"])
def test_a_damaged_object_is_not_lent_and_the_bytes_that_are_sent_heal_it(
    store: DiskStore, left: bytes | None
) -> None:
    """Its size, which the other's record tells, shows it."""
    if left is None:
        the_object(store).unlink()
    else:
        spoil(the_object(store), left)
    with borrow(store) as writer:
        assert writer.status().offset == 0
        writer.write(DATA)
        writer.commit(size=len(DATA), expected=D)
    with store.content(OTHER).reader(D) as reader:
        assert reader.read() == DATA


@pytest.mark.parametrize("what", ["content", "namespace"])
def test_what_cannot_be_read_is_no_reason_to_fail(store: DiskStore, what: str) -> None:
    """The damage is the other namespace's; here the bytes are sent."""
    path = record(store) if what == "content" else Path(store.engine.layout.namespace_record(OTHER))
    spoil(path, b"damaged\n")
    assert offset(store) == 0


def test_a_directory_that_is_no_namespace_lends_nothing(store: DiskStore) -> None:
    """Whatever lies in it is somebody else's."""
    Path(store.engine.layout.namespace_record(OTHER)).unlink()
    assert offset(store) == 0


def test_what_is_lent_is_looked_at_while_no_gc_can_remove_it(store: DiskStore) -> None:
    """A gc that has not seen the ingest may be about to remove the object: the writer waits for its end."""
    store.namespaces.create(Namespace(NS))
    with open_store(store.engine.layout.root) as gc, gc.removing(), pytest.raises(Unavailable):
        borrow(store)
    assert offset(store) == len(DATA)


def test_bytes_that_are_gone_can_be_neither_read_nor_followed(store: DiskStore) -> None:
    """The ingest has outlived its time; the answer is the same as to a commit."""
    with borrow(store) as writer:
        the_object(store).unlink()
        for use in (writer.reader, lambda: writer.write(b"more"), writer.commit):
            with pytest.raises(Unavailable, match="no namespace has any more"):
                use()
        assert writer.status().offset == len(DATA)


@pytest.mark.parametrize("copied", [0, 1000])
def test_a_disk_that_is_full_leaves_the_bytes_lent(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch, copied: int
) -> None:
    """A write that failed has written nothing, and must not leave a part of what was to be copied."""
    copy_range = atomic.copy_range

    def full(source: int, target: int, count: int, at: int) -> int:
        if at < copied:
            return copy_range(source, target, min(count, copied), at)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def no_room(fd: int, data: object) -> None:
        raise ResourceExhausted("no space left")

    with borrow(store) as writer:
        with monkeypatch.context() as patched:
            patched.setattr(atomic, "copy_range", full)
            patched.setattr(atomic, "write", no_room)
            with pytest.raises(ResourceExhausted):
                writer.write(b"more")
        assert (writer.status().offset, writer.digest()) == (len(DATA), D)
        writer.write(b"more")
        assert writer.commit().digest == Digest.of(DATA + b"more")
