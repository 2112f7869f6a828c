"""Files whose names go under a lock, and whose space is given back after it.

That takes the system long, for a file of gigabytes or on a disk that is told what is free, and nobody need
wait for it: a file that is held open outlives its name. It outlives no process, so a crash leaves nothing.
"""

from __future__ import annotations

import os
from contextlib import suppress
from threading import Thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

_HOLD = getattr(os, "O_PATH", os.O_RDONLY | os.O_NONBLOCK) | os.O_NOFOLLOW | os.O_CLOEXEC
_OTHERS = 256  # descriptors that are left to the rest of the process
_MOST = 1 << 16  # descriptors that are asked for
_AT_ONCE = 8  # files that are given back at the same time: most of it is waiting
_MANY = 64  # files, which are worth that


class Freeing:
    """To be used in `with`: at its end is given back what was held and has lost its name. More files than a
    process may have open are not held.
    """

    def __init__(self) -> None:
        self._held: list[int] = []
        self._most = _descriptors() - _OTHERS

    def hold(self, path: str) -> None:
        """To be called before `path` is removed."""
        if len(self._held) < self._most:
            with suppress(OSError):  # then it goes at once
                self._held.append(os.open(path, _HOLD))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        count = _AT_ONCE if len(self._held) >= _MANY else 1
        own, *others = (self._held[n::count] for n in range(count))
        threads = []
        for part in others:
            thread = Thread(target=_close, args=(part,))
            try:
                thread.start()
            except RuntimeError:  # no more threads
                own += part
            else:
                threads.append(thread)
        _close(own)
        for thread in threads:
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
