"""What is removed under a lock gives its space back after it: `imgtool.disk.freeing`."""

from __future__ import annotations

import fcntl
import os
import resource
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from imgtool.disk import freeing, open_store
from imgtool.disk.freeing import Freeing
from imgtool.ops import gc

from .gc_world import add, objects


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def files(directory: Path, count: int) -> list[Path]:
    found = [directory / str(n) for n in range(count)]
    for n, path in enumerate(found):
        path.write_bytes(b"x" * n)
    return found


def is_held(path: Path) -> bool:
    """Whether a file that has lost its name is open here."""
    return any(os.readlink(f"/proc/self/fd/{fd}") == f"{path} (deleted)" for fd in _open())


def _open() -> Iterator[str]:
    for fd in os.listdir("/proc/self/fd"):
        if os.path.lexists(f"/proc/self/fd/{fd}"):
            yield fd


@pytest.fixture
def limit() -> Iterator[None]:
    """The limit of open files is put back."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("count", [0, 1, freeing._MANY - 1, freeing._MANY, 200])
def test_what_has_lost_its_name_is_given_back_at_the_end(tmp_path: Path, count: int) -> None:
    """Few of them or many; and no descriptor or thread is left."""
    paths, before = files(tmp_path, count), descriptors()
    threads = threading.active_count()
    held = Freeing(str(tmp_path))
    for path in paths:
        held.hold(str(path))
        path.unlink()
    assert all(map(is_held, paths))
    held.begin()
    held.wait()
    assert (descriptors(), threading.active_count()) == (before, threads)


def test_what_is_not_there_is_not_held(tmp_path: Path) -> None:
    """Whoever removes it says what is wrong with it."""
    before = descriptors()
    held = Freeing(str(tmp_path))
    held.hold(str(tmp_path / "absent" / "file"))
    held.begin()
    held.wait()
    assert descriptors() == before


def test_more_than_may_be_open_is_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of the process needs some too."""
    monkeypatch.setattr(freeing, "_descriptors", lambda: 2 * (freeing._open() + 4))
    paths, before = files(tmp_path, 9), descriptors()
    held = Freeing(str(tmp_path))
    for path in paths:
        held.hold(str(path))
    assert descriptors() == before + 4
    held.begin()
    held.wait()
    assert descriptors() == before


def test_as_many_as_are_allowed_are_asked_for(limit: None) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 300), hard))
    wanted = freeing._descriptors()
    assert wanted == min(hard, freeing._MOST) == resource.getrlimit(resource.RLIMIT_NOFILE)[0]


@pytest.mark.parametrize("soft", [1 << 20, 1 << 30, resource.RLIM_INFINITY])
def test_more_is_not_held_however_much_is_allowed(monkeypatch: pytest.MonkeyPatch, soft: int) -> None:
    """Each file costs the system something."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, soft))
    assert freeing._descriptors() == freeing._MOST


def test_on_a_disk_that_is_nearly_full_nothing_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is removed makes room for the line in the log that says so."""
    monkeypatch.setattr(freeing, "_ROOM", 1 << 62)
    before = descriptors()
    held = Freeing(str(tmp_path))
    (path,) = files(tmp_path, 1)
    held.hold(str(path))
    assert descriptors() == before


def test_a_close_that_fails_leaves_no_other_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    close = os.close

    def failing(fd: int) -> None:
        close(fd)
        raise OSError(5, "Input/output error")

    before = descriptors()
    held = Freeing(str(tmp_path))
    for path in files(tmp_path, 100):
        held.hold(str(path))
    monkeypatch.setattr(os, "close", failing)
    held.begin()
    held.wait()
    monkeypatch.undo()
    assert descriptors() == before


def test_without_more_threads_it_is_done_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    before = descriptors()
    held = Freeing(str(tmp_path))
    for path in files(tmp_path, 100):
        held.hold(str(path))
    held.begin()
    held.wait()
    assert descriptors() == before


def test_gc_gives_back_after_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While others wait for it, files only lose their names."""
    root = tmp_path / "store"
    seen: list[tuple[bool, bool]] = []
    close = freeing._close

    def closing(held: list[int]) -> None:
        with (root / "locks" / "store").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        seen.append((is_held(path), path.exists()))
        close(held)

    with open_store(str(root)) as store:
        gone = add(store, b"gone")
        (path,) = root.glob(f"objects/*/*/{gone.encoded[2:]}")
        monkeypatch.setattr(freeing, "_close", closing)
        gc.collect(store)
        assert objects(store) == set()
    assert seen == [(True, False)]
    assert not is_held(path)
