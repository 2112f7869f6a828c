"""A process's own directory below `tmp/`, held by flock while the process lives.

Everything unfinished and anonymous lies in one, so that gc can tell the litter of a process that is
gone (it can lock the directory) from the work of one that lives (it cannot).
"""

from __future__ import annotations

import os

from imgtool.disk import atomic
from imgtool.disk.layout import inside
from imgtool.disk.locks import still_there, try_lock
from imgtool.errors import ImgtoolError


class Workspace:
    """Made when first used, removed by `close`."""

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
            try:
                atomic.remove_tree(path)
            except (ImgtoolError, OSError):
                pass  # the next gc removes it: the lock goes with the line below
            finally:
                os.close(self._fd)

    def _make(self) -> None:
        while True:
            path = inside(self._tmp, os.urandom(8).hex())
            try:
                atomic.mkdir(path)
            except FileNotFoundError:
                atomic.Batch().mkdirs(self._tmp)
                continue
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            # A gc may have found the directory before it was locked.
            if not self._locking or (try_lock(fd) and still_there(fd, path)):
                self._path, self._fd = path, fd
                return
            os.close(fd)


def is_held(path: str) -> bool:
    """Whether a living process has `path` locked."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not try_lock(fd)
    finally:
        os.close(fd)
