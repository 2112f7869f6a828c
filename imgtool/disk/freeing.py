"""Files whose names go under a lock, and whose space is given back after it.

That takes the system long, for a file of gigabytes or on a disk that is told what is free, and nobody need
wait for it: a file that is held open outlives its name. It outlives no process, so a crash leaves nothing.
"""

from __future__ import annotations

import os
from contextlib import suppress
from threading import Thread

_HOLD = getattr(os, "O_PATH", os.O_RDONLY | os.O_NONBLOCK) | os.O_NOFOLLOW | os.O_CLOEXEC
_MOST = 1 << 16  # descriptors that are asked for
_AT_ONCE = 8  # files that are given back at the same time: most of it is waiting
_MANY = 64  # files, which are worth that
_ROOM = 64 << 20  # bytes; where less is left, what is removed may be needed at once


class Freeing:
    """Holds what is removed until `begin`: as many files as may be, in half of the descriptors that a process
    has, and none where the disk is nearly full.

    Args:
        root: a directory on that disk.
    """

    def __init__(self, root: str) -> None:
        self._held: list[int] = []
        self._most = _descriptors() // 2 - _open() if _has_room(root) else 0
        self._threads: list[Thread] = []

    def hold(self, path: str) -> None:
        """To be called before `path` is removed."""
        if len(self._held) < self._most:
            with suppress(OSError):  # then it goes at once
                self._held.append(os.open(path, _HOLD))

    def begin(self) -> None:
        """Begin to give back what was held and has lost its name."""
        held, self._held = self._held, []
        if len(held) < _MANY:
            _close(held)
            return
        for part in (held[n::_AT_ONCE] for n in range(_AT_ONCE)):
            thread = Thread(target=_close, args=(part,))
            try:
                thread.start()
            except RuntimeError:  # no more threads
                _close(part)
            else:
                self._threads.append(thread)

    def wait(self) -> None:
        """Until it is given back."""
        for thread in self._threads:
            thread.join()


def _close(held: list[int]) -> None:
    for fd in held:
        with suppress(OSError):  # closed it is all the same
            os.close(fd)


def _has_room(root: str) -> bool:
    try:
        status = os.statvfs(root)
    except OSError:
        return False
    return status.f_bavail * status.f_frsize >= _ROOM


def _open() -> int:
    """How many descriptors are in use."""
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return _MOST


def _descriptors() -> int:
    """How many files this process may have open, once it has asked for more."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST if hard == resource.RLIM_INFINITY else min(_MOST, hard)
    if soft == resource.RLIM_INFINITY or soft >= most:
        return most
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    except (OSError, ValueError):
        return soft
    return most
