"""The store, opened for each call anew, as far as can be told: what has been read of it is used again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from imgtool import clock
from imgtool.disk import DiskStore
from imgtool.disk.layout import Layout

_SETTLED = 2_000_000_000  # ns after which a file that looks the same is the same, whatever step the clock has
_Look = tuple[int, ...]


class Stores:
    """`contracts.Open`. A store that a call is done with serves the next one, if neither the directory nor
    its imgtool.toml has changed: opening it is most of what a small call costs.

    Args:
        root: the store's directory.
        open: opens it.
    """

    def __init__(self, root: str, open: Callable[[], DiskStore]) -> None:
        self._root = root
        self._settings = Layout(root).settings
        self._open = open
        self._idle: list[tuple[_Look, DiskStore]] = []

    @contextmanager
    def __call__(self) -> Iterator[DiskStore]:
        look = self._look()
        store = self._taken(look) or self._open()
        with store:
            yield store
        if look:
            self._idle.append((look, store))

    def _taken(self, look: _Look) -> DiskStore | None:
        """One that is not in use; those that looked otherwise are dropped."""
        while True:
            try:
                before, store = self._idle.pop()
            except IndexError:
                return None
            if before == look:
                return store

    def _look(self) -> _Look:
        """What tells the store from another; nothing where that cannot be told for sure."""
        try:
            root, settings = os.stat(self._root), os.lstat(self._settings)
        except OSError:
            return ()
        if max(settings.st_mtime_ns, settings.st_ctime_ns) > clock.wall() - _SETTLED:
            return ()
        where = root.st_dev, root.st_ino, root.st_uid, root.st_mode
        return *where, settings.st_ino, settings.st_size, settings.st_mtime_ns, settings.st_ctime_ns
