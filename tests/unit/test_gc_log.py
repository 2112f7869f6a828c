"""What the log of a namespace tells gc, and what gc writes there."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from imgtool import clock
from imgtool.disk import DiskStore, atomic, log, open_store
from imgtool.errors import ImgtoolError
from imgtool.model import Namespace
from imgtool.ops import gc
from imgtool.stores import Garbage

from .gc_world import EXPIRE, LAYER, NS, OTHER, add, tag


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DiskStore]:
    with open_store(str(tmp_path / "store"), lock_timeout=1) as store:
        yield store


def path(store: DiskStore, namespace: str = NS) -> Path:
    return Path(store.engine.layout.log(namespace))


def doubts(store: DiskStore) -> list[str]:
    return [happening.doubt for happening in store.since_gc() if happening.doubt]


def is_quiet(store: DiskStore) -> bool:
    return list(store.since_gc()) == []


def lines(file: Path) -> list[bytes]:
    return file.read_bytes().split(b"\n")[:-1]


# --- reading backwards -----------------------------------------------------------------------------


@pytest.mark.parametrize("block", [1, 2, 3, 7, 1 << 16])
@pytest.mark.parametrize(
    "data", [b"", b"torn", b"\n", b"a\n", b"a\nb\n", b"a\n\nlong line\ntorn", b"\n\n", b"long line\n"]
)
def test_lines_come_last_first_whatever_the_blocks_are(
    data: bytes, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line may begin in one block and end in another, or fill many."""
    monkeypatch.setattr(log, "_BLOCK", block)
    file = tmp_path / "log"
    file.write_bytes(data)
    assert list(log.newest_first(str(file))) == lines(file)[::-1]


def test_only_the_end_of_a_long_log_is_read(store: DiskStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log is as long as the store is old."""
    tag(store, "a", add(store, b"x"), LAYER)
    gc.collect(store)
    line = lines(path(store))[-2] + b"\n"
    path(store).write_bytes(line * 10_000 + path(store).read_bytes())
    read: list[int] = []
    pread = os.pread

    def counted(fd: int, count: int, offset: int) -> bytes:
        read.append(count)
        return pread(fd, count, offset)

    monkeypatch.setattr(os, "pread", counted)
    assert is_quiet(store)
    assert sum(read) <= 1 << 16
    for n in range(3):
        add(store, b"y%d" % n)
    read.clear()
    assert any(True for _ in store.since_gc())
    assert sum(read) <= 1 << 16


# --- what cannot be told ---------------------------------------------------------------------------


def damage(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-30] ^= 1
    file.write_bytes(data)


def follow(file: Path) -> None:
    target = file.with_name("elsewhere")
    file.rename(target)
    file.symlink_to(target)


@pytest.mark.parametrize("harm", [Path.unlink, lambda file: os.truncate(file, 0), damage, follow])
def test_what_cannot_be_told_is_a_doubt(store: DiskStore, harm: Callable[[Path], None]) -> None:
    """A log that was deleted, emptied, damaged or replaced by a link: then gc looks itself."""
    add(store, b"x")
    gc.collect(store)
    add(store, b"y")
    harm(path(store))
    assert len(doubts(store)) == 1


@pytest.mark.parametrize("harm", [Path.unlink, lambda file: os.truncate(file, 0), damage])
def test_after_the_next_gc_there_is_no_doubt(store: DiskStore, harm: Callable[[Path], None]) -> None:
    """What cannot be read lies before its line, and is not looked at any more."""
    tag(store, "a", add(store, b"x"), LAYER)
    harm(path(store))
    gc.collect(store)
    assert is_quiet(store)


@pytest.mark.parametrize("keep", [0, 1])
def test_a_log_that_has_lost_its_beginning_stays_a_doubt(store: DiskStore, keep: int) -> None:
    """Whatever is written to it: what was deleted before nobody tells any more."""
    tag(store, "a", add(store, b"x"), LAYER)
    gc.collect(store)
    store.images(NS).delete("a")
    last = lines(path(store))[-1] + b"\n"
    path(store).unlink()
    if keep:
        path(store).write_bytes(last)
    store.namespaces.update(Namespace(NS, {"y": "a"}))
    store.namespaces.update(Namespace(NS, {"y": "b"}))
    assert len(doubts(store)) == 1
    gc.collect(store)
    assert is_quiet(store)


def test_a_log_that_begins_with_its_namespace_or_with_a_gc_is_no_doubt(store: DiskStore) -> None:
    """Also where the namespace was deleted meanwhile and made again; or its owner cut off what is old."""
    store.namespaces.create(Namespace(NS))
    store.namespaces.create(Namespace(OTHER))
    store.namespaces.delete(OTHER)
    tag(store, "a", add(store, b"x", OTHER), LAYER, OTHER)
    assert not doubts(store)
    gc.collect(store)
    path(store).write_bytes(lines(path(store))[-1] + b"\n")
    tag(store, "a", add(store, b"x"), LAYER)
    assert not doubts(store)


def test_a_torn_last_line_is_no_doubt(store: DiskStore) -> None:
    """What it would have told was never done."""
    tag(store, "a", add(store, b"x"), LAYER)
    gc.collect(store)
    with path(store).open("ab") as file:
        file.write(b'{"op":"0123')
    assert is_quiet(store)


def test_a_directory_without_namespace_or_log_is_nothing(store: DiskStore) -> None:
    """Copying tools may leave one; nothing ever was in it."""
    add(store, b"x")
    gc.collect(store)
    path(store, OTHER).parent.mkdir()
    assert is_quiet(store)
    gc.collect(store)
    assert not path(store, OTHER).exists()


# --- gc's own lines --------------------------------------------------------------------------------


class Crash(BaseException):
    """The process ends here."""


def test_a_gc_that_dies_while_it_removes_is_due_again(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its line says what it is about to remove, not that it has."""
    add(store, b"x")
    unlink = os.unlink

    def dies(path: str) -> None:
        if "/objects/" in path:
            raise Crash
        unlink(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", dies)
        with pytest.raises(Crash):
            gc.collect(store)
    assert doubts(store) == ["a gc did not end"]
    assert gc.collect(store).objects
    assert is_quiet(store)


def test_a_gc_writes_once_that_it_has_ended(store: DiskStore) -> None:
    """However often it comes by: a log does not grow by looking."""
    tag(store, "a", add(store, b"x"), LAYER)
    gc.collect(store)
    assert log.is_end(lines(path(store))[-1])
    before = path(store).read_bytes()
    gc.collect(store)
    gc.collect(store)
    assert path(store).read_bytes() == before


def test_a_change_that_is_under_way_while_gc_looks_still_counts(store: DiskStore) -> None:
    """Its line is in the log already, and the image that it deletes still there."""
    tag(store, "a", add(store, b"x"), LAYER)
    Path(store.engine.layout.lock(f"ns-{NS}")).write_bytes(b"\0")
    looked = store.looking()
    Path(store.engine.layout.lock(f"ns-{NS}")).write_bytes(b"")
    looked()
    assert not is_quiet(store)


def test_a_writer_that_died_makes_gc_due_once_more_and_no_longer(store: DiskStore) -> None:
    """Nobody is left to say that its change is done: the gc itself takes the lock, and settles it."""
    tag(store, "a", add(store, b"x"), LAYER)
    Path(store.engine.layout.lock(f"ns-{NS}")).write_bytes(b"\0")
    gc.collect(store)
    assert not is_quiet(store)
    gc.collect(store)
    assert is_quiet(store)


def test_a_lock_that_somebody_has_is_not_waited_for(store: DiskStore) -> None:
    """A gc that has nothing to do must not fail for it, nor take half a minute to end."""
    tag(store, "a", add(store, b"x"), LAYER)
    with open_store(store.engine.layout.root) as other, other.engine.locks.changing(NS):
        assert not any(gc.collect(store))
    assert not is_quiet(store)
    gc.collect(store)
    assert is_quiet(store)


def full(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if call is os.write:
        raise OSError(errno.ENOSPC, "no space")
    return call(*args, **kwargs)


@pytest.mark.parametrize("has_garbage", [False, True])
def test_on_a_full_disk_gc_works_and_is_due_again(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch, has_garbage: bool
) -> None:
    """It is the way out of a full disk."""
    tag(store, "a", add(store, b"x"), LAYER)
    if has_garbage:
        add(store, b"y")
    with monkeypatch.context() as patch:
        patch.setattr(atomic, "_do", full)
        assert bool(gc.collect(store).objects) == has_garbage
    assert not is_quiet(store)
    gc.collect(store)
    assert is_quiet(store)


def delete(store: DiskStore) -> None:
    store.images(NS).delete("a")


def dies_when_gone(store: DiskStore, file: str, later: int = 0) -> None:
    """gc, at a later time, removes a record, and then the process ends."""
    sync = atomic.Batch.sync

    def dies(batch: atomic.Batch) -> None:
        sync(batch)
        if not os.path.exists(file):
            raise Crash

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock, "wall", lambda: time.time_ns() + later)
        patch.setattr(atomic.Batch, "sync", dies)
        with pytest.raises(Crash):
            gc.collect(store)


def expire(store: DiskStore) -> None:
    dies_when_gone(store, store.engine.layout.image(NS, "a"), 2 * clock.HOUR)


def collect(store: DiskStore) -> None:
    (digest,) = gc.find(store).content[NS]
    dies_when_gone(store, store.engine.layout.content_record(NS, digest))


@pytest.mark.parametrize("remove", [delete, expire, collect])
def test_what_is_removed_on_a_full_disk_makes_gc_due_whatever_follows(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch, remove: Callable[[DiskStore], None]
) -> None:
    """Its line could not be written. What tells needs no room, and stays until a gc has ended."""
    until = clock.format_time(clock.wall() + clock.HOUR)
    tag(store, "a", add(store, b"x"), LAYER, labels={EXPIRE: until})
    gc.collect(store)
    add(store, b"garbage")
    with monkeypatch.context() as patch:
        patch.setattr(atomic, "_do", full)
        remove(store)
        assert len(doubts(store)) == 1
    assert "on a full disk" in doubts(store)[0]
    store.namespaces.update(Namespace(NS, {"y": "a"}))
    assert len(doubts(store)) == 1
    with monkeypatch.context() as patch:
        patch.setattr(atomic, "_do", full)
        gc.collect(store)
        assert len(doubts(store)) == 1
    gc.collect(store)
    assert is_quiet(store)
    assert path(store).stat().st_mode & 0o777 == 0o600


def test_a_removal_while_gc_looks_on_a_full_disk_still_counts(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log is as long as it was before."""
    tag(store, "a", add(store, b"x"), LAYER)
    looked = store.looking()
    with monkeypatch.context() as patch:
        patch.setattr(atomic, "_do", full)
        store.images(NS).delete("a")
    looked()
    assert len(doubts(store)) == 1


def test_a_line_that_cannot_be_written_does_not_stop_the_others(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each namespace for itself."""
    for namespace in (NS, OTHER):
        store.namespaces.create(Namespace(namespace))
    append_end = log.append_end

    def fails(path: str, *args: Any) -> None:
        if f"/{NS}/" in path:
            raise ImgtoolError("cannot write")
        append_end(path, *args)

    monkeypatch.setattr(log, "append_end", fails)
    gc.collect(store)
    assert {happening.namespace for happening in store.since_gc()} == {NS}
    with store.removing() as remove:
        remove(Garbage(content={}, leases={}, objects={}, litter=[]))
    assert {happening.namespace for happening in store.since_gc()} == {NS}
