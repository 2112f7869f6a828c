"""Who may change what at the same time: `imgtool.disk.locks`."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from imgtool.disk import atomic, locks
from imgtool.disk.layout import Layout
from imgtool.disk.locks import Locks
from imgtool.errors import ImgtoolError, Unavailable


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(str(tmp_path))


@contextmanager
def taken(layout: Layout, name: str, how: int = fcntl.LOCK_EX) -> Iterator[int]:
    """Hold one lock, as another process would."""
    fd = locks.open_lock(layout.lock(name))
    fcntl.flock(fd, how)
    try:
        yield fd
    finally:
        os.close(fd)


def is_free(layout: Layout, name: str, how: int = fcntl.LOCK_EX) -> bool:
    fd = locks.open_lock(layout.lock(name))
    try:
        return locks.try_lock(fd, how)
    finally:
        os.close(fd)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@contextmanager
def waiting(lock: Callable[[], Any]) -> Iterator[threading.Event]:
    """Take `lock` in another thread, which has it from when the event is set until the block ends."""
    has, done = threading.Event(), threading.Event()

    def run() -> None:
        with lock():
            has.set()
            done.wait(10)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield has
    finally:
        done.set()
        thread.join()


# Who shuts out whom


def test_changes_of_two_namespaces_go_side_by_side(layout: Layout) -> None:
    """Else one slow disk would stop everybody."""
    with Locks(layout, 0).changing("a"), Locks(layout, 0).changing("b"):
        pass


def test_changes_of_one_namespace_come_one_after_the_other(layout: Layout) -> None:
    """Read, compare and write are one step."""
    first, second = (Locks(layout, 0).changing("a") for _ in range(2))
    with first, pytest.raises(Unavailable, match="lock 'ns-a'"), second:
        pass
    with Locks(layout, 0).changing("a"):
        pass


def test_removing_waits_for_changes_and_changes_for_removing(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gc must not look while somebody publishes, nor the other way round."""
    monkeypatch.setattr(locks, "GATE_TURN", 0.01)
    first, second = Locks(layout, 0), Locks(layout, 0.05)
    refused = pytest.raises(Unavailable, match="lock 'store'")
    with first.changing("a"), refused, second.removing():
        pass
    with first.removing(), refused, second.changing("a"):
        pass
    with first.removing(), refused, second.removing():
        pass


def test_locks_are_taken_gate_first_then_store_then_namespaces_in_order(layout: Layout) -> None:
    """Two that take several in different orders would wait for each other for ever."""

    def has(name: str) -> Callable[[], bool]:
        return lambda: not is_free(layout, name)

    changing = lambda: Locks(layout, 10).changing("c", "a", "b")  # noqa: E731
    with taken(layout, "ns-b") as b, waiting(changing) as ready:
        until(has("ns-a"))
        assert not is_free(layout, "store")
        assert is_free(layout, "store", fcntl.LOCK_SH)
        assert is_free(layout, "gate")
        assert is_free(layout, "ns-c")
        fcntl.flock(b, fcntl.LOCK_UN)
        assert ready.wait(10)
        assert not is_free(layout, "ns-c")
    with taken(layout, "store") as store, waiting(changing) as ready:
        until(has("gate"))
        assert is_free(layout, "ns-a")
        fcntl.flock(store, fcntl.LOCK_UN)
        assert ready.wait(10)
    with taken(layout, "gate") as gate, waiting(changing) as ready:
        time.sleep(0.05)
        assert is_free(layout, "store")
        fcntl.flock(gate, fcntl.LOCK_UN)
        assert ready.wait(10)


def test_all_locks_are_given_up_at_the_end_and_on_a_failure(layout: Layout) -> None:
    """The kernel would do it only when the process ends."""
    before = len(os.listdir("/proc/self/fd"))
    for held in (Locks(layout, 0).changing("a", "b"), Locks(layout, 0).removing()):
        with pytest.raises(ZeroDivisionError), held:
            raise ZeroDivisionError
    with taken(layout, "ns-b"), pytest.raises(Unavailable), Locks(layout, 0).changing("a", "b"):
        pass
    assert len(os.listdir("/proc/self/fd")) == before
    assert all(is_free(layout, name) for name in ("gate", "store", "ns-a", "ns-b"))


# Waiting


def test_waiting_ends_and_names_the_holder(layout: Layout) -> None:
    """Whoever reads exit 7 wants to know which command to wait for."""
    hold = "import fcntl, sys; f = open(sys.argv[1], 'r+'); fcntl.flock(f, 2); print(flush=True); input()"
    os.close(locks.open_lock(layout.lock("ns-a")))
    argv = [sys.executable, "-c", hold, layout.lock("ns-a")]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        begin = time.monotonic()
        with pytest.raises(Unavailable) as caught, Locks(layout, 0.2).changing("a"):
            pass
        assert 0.2 <= time.monotonic() - begin < 2
        with open(f"/proc/{holder.pid}/comm") as name:
            by = f"process {holder.pid} ({name.read().strip()})"
        holder.communicate(b"\n")
    assert caught.value.exit_code == 7
    assert caught.value.message == f"lock 'ns-a' is held by {by} for longer than 0.2 s"
    assert caught.value.hint is not None
    assert "--lock-timeout" in caught.value.hint


def test_a_wait_of_nothing_still_tries_once(layout: Layout) -> None:
    """`--lock-timeout 0` means not to wait, not to fail."""
    with Locks(layout, 0).changing("a"):
        pass
    with Locks(layout, 0).removing():
        pass


def test_gc_leaves_the_gate_as_long_as_it_kept_it(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one long change goes on, gc waits for it, and the others must not wait for gc: each gets
    in after one turn at most.
    """
    turn = 0.1
    monkeypatch.setattr(locks, "GATE_TURN", turn)
    waits = []
    long = ExitStack()
    long.enter_context(Locks(layout, 5).changing("long"))
    with waiting(lambda: Locks(layout, 20).removing()) as collecting, long:
        end = time.monotonic() + 8 * turn
        while time.monotonic() < end:
            begin = time.monotonic()
            with Locks(layout, 5).changing("short"):
                waits.append(time.monotonic() - begin)
        assert not collecting.is_set()
        long.close()
        assert collecting.wait(10)
    assert max(waits) < 6 * turn
    assert len(waits) > 10
    assert sum(wait > turn / 4 for wait in waits) >= 2, "gc never had the gate"


def test_gc_comes_to_its_turn_between_changes_that_never_cease(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is always somebody who shares the store; only the gate stops the next one."""
    monkeypatch.setattr(locks, "GATE_TURN", 0.5)
    stop = threading.Event()

    def change(ns: str) -> None:
        while not stop.is_set():
            with Locks(layout, 10).changing(ns):
                time.sleep(0.02)

    threads = [threading.Thread(target=change, args=(ns,)) for ns in ("a", "b", "c")]
    for thread in threads:
        thread.start()
    try:
        time.sleep(0.1)
        with Locks(layout, 10).removing():
            pass
    finally:
        stop.set()
        for thread in threads:
            thread.join()


# Lock files that are deleted


def test_a_lock_file_that_was_deleted_is_locked_anew(layout: Layout) -> None:
    """F13: whoever holds the deleted file shuts nobody out."""
    with taken(layout, "ns-a"):
        os.unlink(layout.lock("ns-a"))
        with Locks(layout, 0).changing("a"):
            assert not is_free(layout, "ns-a")


def test_a_lock_file_that_is_deleted_while_it_is_being_locked_is_opened_again(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F13: the instant between open and flock."""
    deleted: list[str] = []

    def deleting(fd: int, how: int) -> None:
        fcntl.flock(fd, how)
        if not deleted:
            deleted.append(layout.lock("gate"))
            os.unlink(layout.lock("gate"))

    class Fcntl:
        LOCK_EX, LOCK_SH, LOCK_NB = fcntl.LOCK_EX, fcntl.LOCK_SH, fcntl.LOCK_NB
        flock = staticmethod(deleting)

    monkeypatch.setattr(locks, "fcntl", Fcntl)
    with Locks(layout, 1).changing("a"):
        assert os.path.exists(layout.lock("gate"))
    assert deleted


@pytest.mark.parametrize("name", ["store", "ns-a"])
def test_a_holder_looks_again_before_it_changes_anything(layout: Layout, name: str) -> None:
    """F13: it may no longer be alone."""
    with Locks(layout, 0).changing("a") as held:
        os.unlink(layout.lock(name))
        with pytest.raises(Unavailable, match=f"lock '{name}' was removed"), held.writing():
            raise AssertionError
    with Locks(layout, 0).removing() as held:
        os.close(locks.open_lock(layout.lock("new")))
        os.rename(layout.lock("new"), layout.lock("store"))
        with pytest.raises(Unavailable, match="lock 'store' was removed"), held.writing():
            raise AssertionError


# What processes that are gone have left


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The directories whose file systems are synced from now on."""
    found: list[str] = []
    monkeypatch.setattr(atomic, "sync_all", found.append)
    return found


def test_what_a_killed_process_left_is_synced_before_anything_else(layout: Layout, syncs: list[str]) -> None:
    """It may have made the change that the next one finds made."""
    with pytest.raises(ZeroDivisionError), Locks(layout, 0).changing("a") as held, held.writing():
        raise ZeroDivisionError
    with Locks(layout, 0).changing("b"):
        assert syncs == []
    with Locks(layout, 0).changing("a") as held:
        assert syncs == [layout.root]
        with held.writing():
            pass
    with Locks(layout, 0).changing("a"), Locks(layout, 0).changing("b"):
        assert syncs == [layout.root]


def test_gc_syncs_what_was_left_in_any_namespace(layout: Layout, syncs: list[str]) -> None:
    """A record whose removal is not durable would come back without its objects."""
    with pytest.raises(ZeroDivisionError), Locks(layout, 0).changing("a") as held, held.writing():
        raise ZeroDivisionError
    with Locks(layout, 0).removing():
        assert syncs == [layout.root]


def test_everybody_syncs_what_a_killed_gc_left(layout: Layout, syncs: list[str]) -> None:
    """Content whose removal is not durable would come back into a namespace that was deleted since."""
    with pytest.raises(ZeroDivisionError), Locks(layout, 0).removing() as held, held.writing():
        raise ZeroDivisionError
    for ns in ("a", "b"):
        with Locks(layout, 0).changing(ns):
            assert syncs == [layout.root]


# Machines without locks


def test_without_locking_nobody_waits(layout: Layout) -> None:
    """`locking = "none"`: the user has said that no two commands ever run at once."""
    with taken(layout, "gate"), taken(layout, "store"), taken(layout, "ns-a"):
        with Locks(layout, 0, enabled=False).changing("a") as held, held.writing():
            pass
        with Locks(layout, 0, enabled=False).removing():
            pass


def test_a_file_system_without_flock_is_named_with_the_way_out(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F7: writers refuse, and say what could be done."""

    class Fcntl:
        LOCK_EX, LOCK_SH, LOCK_NB = fcntl.LOCK_EX, fcntl.LOCK_SH, fcntl.LOCK_NB

        @staticmethod
        def flock(fd: int, how: int) -> None:
            raise OSError(95, "Operation not supported")

    monkeypatch.setattr(locks, "fcntl", Fcntl)
    with pytest.raises(ImgtoolError, match="cannot lock") as caught, Locks(layout, 0).changing("a"):
        pass
    assert caught.value.hint is not None
    assert 'locking = "none"' in caught.value.hint
