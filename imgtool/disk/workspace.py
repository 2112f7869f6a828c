"""A process's own directory below `tmp/`, held by flock while the process lives.

Everything unfinished and anonymous lies in one, so that gc can tell the litter of a process that is
gone (it can lock the directory) from the work of one that lives (it cannot).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from imgtool.disk import atomic, read
from imgtool.disk.layout import inside
from imgtool.disk.locks import still_there, try_lock
from imgtool.errors import ImgtoolError, from_oserror

# What cannot be opened for these reasons is no workspace of a living process.
_NOT_HELD = {errno.ENOENT, errno.ELOOP, errno.ENXIO, errno.EACCES}


class Workspace:
    """Made when first used, removed by `close`.

    Args:
        tmp: the directory in which it is made.
        locking: False where no two processes use the store at once.
    """

    def __init__(self, tmp: str, *, locking: bool = True) -> None:
        self._tmp = tmp
        self._locking = locking
        self._path = ""
        self._fd = -1
        self._count = 0

    def new_path(self) -> str:
        """A fresh path in the workspace, where nothing is yet."""
        if not self._path:
            self._make()
        self._count += 1
        return inside(self._path, str(self._count))

    def close(self) -> None:
        if self._path:
            path, self._path = self._path, ""
            with suppress(ImgtoolError, OSError):
                atomic.remove_tree(path)  # else the next gc does: the lock goes with the line below
            # Linux frees the descriptor whatever it says, and nothing was written through it.
            with suppress(OSError):
                os.close(self._fd)

    def abandoned(self) -> list[str]:
        """What lies in `tmp/` and no living process has."""
        found = []
        for name in read.entries(self._tmp):
            with self._alone(inside(self._tmp, name)) as alone:
                if alone:
                    found.append(name)
        return found

    def collect(self, name: str) -> None:
        """Remove what `abandoned` found, unless a process has it now."""
        path = inside(self._tmp, name)
        with self._alone(path) as alone:
            if alone:
                atomic.remove_tree(path)

    def _make(self) -> None:
        while not self._path:
            path = inside(self._tmp, os.urandom(8).hex())
            try:
                atomic.mkdir(path)
            except FileNotFoundError:
                atomic.Batch().mkdirs(self._tmp)
                continue
            fd = _open(path)
            # A gc may have come between the making and the lock.
            if fd >= 0 and (not self._locking or (try_lock(fd) and still_there(fd, path))):
                self._path, self._fd = path, fd
            elif fd >= 0:
                os.close(fd)

    @contextmanager
    def _alone(self, path: str) -> Iterator[bool]:
        """Keep other processes away from `path`; tells whether none has it."""
        fd = _open(path)
        try:
            yield path != self._path and (fd < 0 or not self._locking or try_lock(fd))
        finally:
            if fd >= 0:
                os.close(fd)


def is_workspace(name: str) -> bool:
    """Whether what is called so below `tmp/` is a workspace, by its name."""
    return len(name) == 16 and not name.strip("0123456789abcdef")


def _open(path: str) -> int:
    """Open what may be a workspace; -1 where it is none."""
    try:
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in _NOT_HELD:
            return -1
        raise from_oserror(error, "cannot open") from error
