"""Reading and changing records under way: `imgtool.disk.engine`."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from imgtool.digest import Digest
from imgtool.disk import DiskStore, engine, open_store, read
from imgtool.errors import AlreadyExists, DataLoss, ImgtoolError, NotFound, Unavailable
from imgtool.model import Descriptor, Image, Lease, replace
from imgtool.stores import Commit, Put

NS = "default"
TARGET = Descriptor("t", Digest.of(b"x"), 1)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DiskStore]:
    with open_store(str(tmp_path / "store"), lock_timeout=0.05) as opened:
        for name in ("a", "b", "c"):
            opened.images(NS).create(Image(name, TARGET))
        yield opened


def rot(path: str) -> None:
    """Flip a bit of a record."""
    data = bytearray(Path(path).read_bytes())
    data[20] ^= 1
    Path(path).unlink()
    Path(path).write_bytes(data)


# Many changes in one step


def test_an_image_whose_record_cannot_be_read_does_not_stop_the_others(store: DiskStore) -> None:
    """`publish` promises each put for itself."""
    rot(store.engine.layout.image(NS, "b"))
    puts = [Put(replace(Image(name, TARGET), labels={"k": "v"})) for name in ("a", "b", "new")]
    outcomes = store.publish(NS, puts=puts).images
    assert [type(outcome) for outcome in outcomes] == [Image, DataLoss, Image]
    assert store.images(NS).get("new").labels == {"k": "v"}


def test_a_later_change_sees_what_an_earlier_one_leaves(store: DiskStore) -> None:
    """Two names for one image in one step, and the same name twice."""
    other = replace(TARGET, digest=Digest.of(b"y"))
    puts = [Put(Image("n", TARGET)), Put(Image("n", other)), Put(Image("n", other), replace=True)]
    first, second, third = store.publish(NS, puts=puts).images
    assert isinstance(first, Image)
    assert isinstance(second, AlreadyExists)
    assert isinstance(third, Image)
    assert store.images(NS).get("n").target == other


def test_a_record_that_the_reader_would_refuse_changes_nothing(store: DiskStore) -> None:
    """It is found out before the first byte is written, the objects too."""
    before = sorted(Path(store.engine.layout.root).rglob("objects/*/*/*"))
    labels = {f"k{i}": "v" * 4000 for i in range(300)}
    with store.content(NS).stage(algorithm="sha256") as writer:
        writer.write(b"x")
        with pytest.raises(ImgtoolError, match="at most 1048576 fit"):
            store.publish(NS, [Commit(writer)], [Put(Image("new", TARGET))], hold=Lease("l", labels))
    assert sorted(Path(store.engine.layout.root).rglob("objects/*/*/*")) == before
    with pytest.raises(NotFound):
        store.images(NS).get("new")


def test_a_lock_file_that_was_deleted_stops_the_change(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F13: the holder looks again before it changes anything."""
    load = engine.Engine.load

    def deleting(self: Any, *args: Any) -> Any:
        Path(store.engine.layout.lock("store")).unlink(missing_ok=True)
        return load(self, *args)

    with monkeypatch.context() as racing:
        racing.setattr(engine.Engine, "load", deleting)
        with pytest.raises(Unavailable, match="was removed while it was held"):
            store.leases(NS).create(Lease("l"))
    assert list(store.leases(NS).list()) == []


# Reading twice


def test_what_was_read_once_is_read_again_only_if_it_has_changed(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gc looks at everything twice; a file too young to tell two versions apart is always read."""
    reads: list[str] = []
    read_with_status = read.read_with_status

    def counted(path: str, limit: int) -> tuple[bytes, os.stat_result]:
        reads.append(os.path.basename(path))
        return read_with_status(path, limit)

    monkeypatch.setattr(read, "read_with_status", counted)

    def look() -> list[str]:
        reads.clear()
        list(store.images(NS).list())
        return sorted(reads)

    everything = ["a.toml", "b.toml", "c.toml"]
    with store.engine.remembering():
        assert look() == everything
        assert look() == [], "they were renamed and stamped, and no change leaves that as it is"
    for path in Path(store.engine.layout.images(NS)).iterdir():
        path.write_bytes(path.read_bytes())
        path.rename(path.with_suffix(".away")).rename(path)
        path.write_bytes(path.read_bytes())
    with store.engine.remembering():
        assert look() == look() == everything, "they are younger than two seconds"
        monkeypatch.setattr(read, "_SETTLED", -1)
        assert look() == []
        store.images(NS).update(Image("b", TARGET, {"k": "v"}), "labels")
        assert look() == ["b.toml"]
        store.images(NS).delete("c")
        rot(store.engine.layout.image(NS, "a"))
        with pytest.raises(DataLoss):
            look()
    with pytest.raises(DataLoss):
        look()


def test_a_record_that_vanishes_while_it_is_remembered_was_deleted(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gc marks without a lock."""
    identity = read.identity

    def vanishing(path: str) -> tuple[int, ...]:
        if path.endswith("/b.toml"):
            os.unlink(path)
        return identity(path)

    monkeypatch.setattr(read, "_SETTLED", -1)
    with store.engine.remembering():
        assert [image.name for image in store.images(NS).list()] == ["a", "b", "c"]
        store.images(NS).delete("c")
        monkeypatch.setattr(read, "identity", vanishing)
        assert [image.name for image in store.images(NS).list()] == ["a"]


def test_a_record_that_cannot_be_read_for_other_reasons_says_so(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F4: a bad sector is neither absence nor a traceback."""

    def broken(fd: int, count: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "read", broken)
    with pytest.raises(ImgtoolError, match=r"cannot read .*a\.toml") as caught:
        store.images(NS).get("a")
    assert caught.value.exit_code == 1
    errors: list[ImgtoolError] = []
    with pytest.raises(ImgtoolError):
        list(store.images(NS).list(on_error=errors.append))


def test_what_changed_just_before_a_long_look_is_not_steady(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock's step counts from the look on: what came after it may carry the same time."""

    def long() -> tuple[None, bool]:
        time.sleep(0.4)
        return None, True

    def changing() -> tuple[None, bool]:
        (tmp_path / "new").touch()
        return None, True

    monkeypatch.setattr(read, "_SETTLED", 300_000_000)
    seen = read.steadily(str(tmp_path), long)
    assert seen.identity == read.identity(str(tmp_path))
    assert not seen.is_steady
    assert read.steadily(str(tmp_path), lambda: (None, True)).is_steady
    assert read.steadily(str(tmp_path), lambda: (None, False))[1:] == ((), False)
    assert read.steadily(str(tmp_path), changing)[1:] == ((), False)
    assert read.steadily(str(tmp_path / "absent"), lambda: (None, True))[1:] == ((), False)


# Dry runs


@pytest.mark.parametrize(
    "write",
    [
        lambda content: content.writer("ref"),
        lambda content: content.writer("ref", lease="l"),
        lambda content: content.stage(algorithm="sha256"),
    ],
)
def test_a_dry_run_is_no_place_for_bytes(store: DiskStore, write: Callable[[Any], object]) -> None:
    """Its type does not offer that; whoever asks all the same has made a mistake, and hears of it before
    a file is there.
    """
    store.leases(NS).create(Lease("l"))
    root = store.engine.layout.root
    before = sorted(os.walk(root))
    with pytest.raises(AssertionError, match="dry run"):
        write(store.dry_run().content(NS))
    assert sorted(os.walk(root)) == before


def test_a_dry_run_has_neither_locks_nor_a_workspace(store: DiskStore) -> None:
    """So no way that leads to a file is left, also none that asks nobody whether the store is ready."""
    dry = store.dry_run().engine
    for way in (lambda: dry.locks.changing(NS), dry.ready, lambda: dry.workspace.new_path()):
        with pytest.raises(AssertionError, match="dry run"):
            way()
    dry.close()
