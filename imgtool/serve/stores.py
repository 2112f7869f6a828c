"""The store, opened for each call anew, as far as can be told: what has been read of it is used again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from imgtool import clock
from imgtool.disk import DiskStore, read
from imgtool.disk.layout import Layout

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
        now, settings = clock.wall(), read.identity(self._settings)
        try:
            root = os.stat(self._root)
        except OSError:
            return ()
        if not (settings and read.is_settled(settings, now)):
            return ()
        return root.st_dev, root.st_ino, root.st_uid, root.st_mode, *settings
