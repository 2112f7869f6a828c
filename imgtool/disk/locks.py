"""Locks of a store: flock, released by the kernel when its holder ends, however it ends.

Order: `gate`, `store`, then `ns-<namespace>`, several of those in byte order. Everyone who changes
something passes the gate and shares `store`; who removes objects has `store` alone. No process takes
a lock that it already holds. Readers take none.

The file of a lock is empty, or one byte long while what it guards is being changed. Who finds a byte
there follows a process that ended between its changes and their sync: it syncs everything first, so
that nobody says of such a change that it is done, and a power cut takes it back.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from imgtool import workers
from imgtool.disk import atomic, read
from imgtool.disk.layout import Layout, parent
from imgtool.errors import ImgtoolError, ResourceExhausted, Unavailable, from_oserror

# How long gc keeps the gate closed, and then leaves it open, in seconds.
GATE_TURN = 2.0
_PAUSE_MIN, _PAUSE_MAX = 0.0005, 0.02

HINT_NO_LOCKS = (
    'put the store on a local file system, or set locking = "none" in imgtool.toml '
    "if no two commands ever run at once"
)


class Held:
    """Locks that are held, by name. The last that was taken is had alone."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._fds: dict[str, int] = {}

    def add(self, name: str, fd: int) -> None:
        self._fds[name] = fd

    def check(self) -> None:
        """Look again, before a batch of changes, whether they lock others out.

        Raises:
            Unavailable: a lock file was removed or replaced.
        """
        for name, fd in self._fds.items():
            if not still_there(fd, self._layout.lock(name)):
                raise Unavailable(
                    f"lock '{name}' was removed while it was held", hint="never remove files under locks/"
                )

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Around a batch of changes, which are durable when it ends.

        Raises:
            Unavailable: as `check`.
        """
        self.check()
        *_, last = self._fds.values()
        _mark(last, 1)
        yield
        _mark(last, 0)

    def settle(self, *more: str) -> None:
        """Sync what processes that are gone have left unsynced, under these locks or under `more`."""
        left = [fd for fd in self._fds.values() if os.fstat(fd).st_size]
        if left or any(os.stat(self._layout.lock(name)).st_size for name in more):
            atomic.sync_all(self._layout.root)
        for fd in left:
            _mark(fd, 0)

    def close(self) -> None:
        while self._fds:
            os.close(self._fds.popitem()[1])


class Locks:
    """The locks of one store.

    Args:
        layout: where they are.
        timeout: seconds to wait for one.
        enabled: False where imgtool.toml says `locking = "none"`.
    """

    def __init__(self, layout: Layout, timeout: float, *, enabled: bool = True) -> None:
        self._layout = layout
        self._timeout = timeout
        self._enabled = enabled

    @contextmanager
    def changing(self, *namespaces: str) -> Iterator[Held]:
        """Share the store with other changes, and have `namespaces` alone.

        Raises:
            Unavailable: not had within the time-out.
        """
        deadline = time.monotonic() + self._timeout
        held = Held(self._layout)
        try:
            with self._held("gate", fcntl.LOCK_EX, deadline):
                held.add("store", self._acquire("store", fcntl.LOCK_SH, deadline))
            for ns in sorted(set(namespaces), key=str.encode):
                held.add(f"ns-{ns}", self._acquire(f"ns-{ns}", fcntl.LOCK_EX, deadline))
            held.settle()
            with workers.none():
                yield held
        finally:
            held.close()

    @contextmanager
    def removing(self) -> Iterator[Held]:
        """Have the store alone, to remove objects. Waits without starving the others: it keeps the
        gate for two seconds at most, then leaves it as long.

        Raises:
            Unavailable: not had within the time-out.
        """
        deadline = time.monotonic() + self._timeout
        held = Held(self._layout)
        try:
            while True:
                turn = min(deadline, time.monotonic() + GATE_TURN)
                try:
                    with self._held("gate", fcntl.LOCK_EX, deadline):
                        held.add("store", self._acquire("store", fcntl.LOCK_EX, turn))
                    break
                except Unavailable:
                    if time.monotonic() >= deadline:
                        raise
                    time.sleep(max(0.0, min(GATE_TURN, deadline - time.monotonic())))
            # Nobody holds the lock of a namespace now.
            held.settle(*read.entries(self._layout.locks))
            with workers.none():
                yield held
        finally:
            held.close()

    @contextmanager
    def _held(self, name: str, how: int, deadline: float) -> Iterator[None]:
        fd = self._acquire(name, how, deadline)
        try:
            yield
        finally:
            os.close(fd)

    def _acquire(self, name: str, how: int, deadline: float) -> int:
        path = self._layout.lock(name)
        pause = _PAUSE_MIN
        while True:
            fd = open_lock(path)
            try:
                if not self._enabled or (try_lock(fd, how) and still_there(fd, path)):
                    return fd
            except BaseException:
                os.close(fd)
                raise
            holder = _holder(fd) if time.monotonic() >= deadline else None
            os.close(fd)
            if holder is not None:
                raise Unavailable(
                    f"lock '{name}' is held{holder} for longer than {self._timeout:g} s",
                    hint="wait for the other command, or give --lock-timeout",
                )
            time.sleep(pause)
            pause = min(pause * 2, _PAUSE_MAX)


def _mark(fd: int, length: int) -> None:
    """Set the length of a lock file. It needs no space on most file systems; where it does and there is
    none, the change goes on without: it may be a removal, which makes some.
    """
    try:
        atomic.truncate(fd, length)
    except ResourceExhausted:
        return


def open_lock(path: str) -> int:
    """Open the lock file, made if it is not there. Lock files are never removed while they may be used."""
    while True:
        try:
            return atomic.open_or_create(path)
        except FileNotFoundError:
            # Again and again: who commits an ingest removes its directory.
            atomic.Batch().mkdirs(parent(path))


def try_lock(fd: int, how: int = fcntl.LOCK_EX) -> bool:
    """Take the lock if it is free; False if it is not.

    Raises:
        ImgtoolError: the file system has no flock.
    """
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        failure = from_oserror(error, "cannot lock")
        raise ImgtoolError(failure.message, hint=HINT_NO_LOCKS) from error
    return True


def still_there(fd: int, path: str) -> bool:
    """Whether `path` is still the file that `fd` has open: a lock on a removed file locks nobody out."""
    try:
        there = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    mine = os.fstat(fd)
    return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)


def _holder(fd: int) -> str:
    """` by process N (name)`, where /proc tells."""
    try:
        inode = os.fstat(fd).st_ino
        with open("/proc/locks", encoding="ascii", errors="replace") as table:
            for line in table:
                fields = line.split()
                if "FLOCK" in fields and "->" not in fields and fields[5].endswith(f":{inode}"):
                    pid = int(fields[4])
                    with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as comm:
                        return f" by process {pid} ({comm.read().strip()})"
    except (OSError, ValueError, IndexError):
        pass
    return " by another process"
