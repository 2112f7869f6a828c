"""Files whose names go under a lock, and whose space is given back after it.

That takes the system long, for a file of gigabytes or on a disk that is told what is free, and nobody need
wait for it: a file that is held open outlives its name. It outlives no process, so a crash leaves nothing.
"""

from __future__ import annotations

import os
from contextlib import suppress
from threading import Thread

_HOLD = getattr(os, "O_PATH", os.O_RDONLY | os.O_NONBLOCK) | os.O_NOFOLLOW | os.O_CLOEXEC
_OTHERS = 256  # descriptors that are left to the rest of the process
_MOST = 1 << 16  # descriptors that are asked for
_AT_ONCE = 8  # files that are given back at the same time: most of it is waiting
_MANY = 64  # files, which are worth that


class Freeing:
    """Holds what is removed until `begin`. More files than a process may have open are not held."""

    def __init__(self) -> None:
        self._held: list[int] = []
        self._most = _descriptors() - _OTHERS
        self._threads: list[Thread] = []

    def hold(self, path: str) -> None:
        """To be called before `path` is removed."""
        if len(self._held) < self._most:
            with suppress(OSError):  # then it goes at once
                self._held.append(os.open(path, _HOLD))

    def begin(self) -> None:
        """Begin to give back what was held and has lost its name."""
        held, self._held = self._held, []
        count = _AT_ONCE if len(held) >= _MANY else min(len(held), 1)
        for part in (held[n::count] for n in range(count)):
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
        os.close(fd)


def _descriptors() -> int:
    """How many files this process may have open, once it has asked for more."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST if hard == resource.RLIM_INFINITY else min(_MOST, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            return wanted
    return wanted if soft == resource.RLIM_INFINITY else soft
