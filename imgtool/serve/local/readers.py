"""Content that is read piece by piece: clients ask for 32 KiB at a time, and opening costs more than that."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, cast

from imgtool.digest import Digest
from imgtool.disk import DiskStore, read
from imgtool.serve.contracts import Open
from imgtool.stores import Provider, Reader, Store

IDLE = 1.0  # seconds for which at most what nobody reads stays open: a deleted object takes up its space
MOST = 64  # that stay open so

_Look = tuple[read.Identity, read.Identity]  # of the record and of the object


class _Opened(NamedTuple):
    reader: Reader
    paths: tuple[str, str]  # of the record and of the object
    look: _Look


class Readers:
    """Opens content, and keeps it open for who comes next. It is opened anew when its record or its object
    is no longer the file that it was: so nobody reads what was deleted, by whatever process.

    Args:
        open: opens the store.
        content: what clients see of a namespace.
    """

    def __init__(self, open: Open, content: Callable[[Store, str], Provider]) -> None:
        self._open = open
        self._content = content
        self._lock = threading.Lock()
        self._idle: dict[tuple[str, Digest], _Opened] = {}
        self._waits = False  # for the time to close what is idle

    @contextmanager
    def reading(self, namespace: str, digest: Digest) -> Iterator[Reader]:
        """For one thread, until the end of the block. Errors are those of `Provider.reader`."""
        with self._lock:
            opened = self._idle.pop((namespace, digest), None)
        if opened is not None and _look(opened.paths) != opened.look:
            opened.reader.close()
            opened = None
        if opened is None:
            opened = self._opened(namespace, digest)
        try:
            yield opened.reader
        except BaseException:
            opened.reader.close()
            raise
        self._keep((namespace, digest), opened)

    def _opened(self, namespace: str, digest: Digest) -> _Opened:
        with self._open() as store:
            layout = cast(DiskStore, store).engine.layout
            paths = layout.content_record(namespace, digest), layout.object(digest)
            look = _look(paths)  # first: what changes meanwhile looks otherwise later
            return _Opened(self._content(store, namespace).reader(digest), paths, look)

    def _keep(self, key: tuple[str, Digest], opened: _Opened) -> None:
        with self._lock:
            if key in self._idle or len(self._idle) >= MOST:
                opened.reader.close()
                return
            self._idle[key] = opened
            if self._waits:
                return
            self._waits = True
        timer = threading.Timer(IDLE, self._close)
        timer.daemon = True
        try:
            timer.start()
        except RuntimeError:  # the system has no thread for it
            self._close()

    def _close(self) -> None:
        with self._lock:
            idle, self._idle, self._waits = self._idle, {}, False
        for opened in idle.values():
            opened.reader.close()


def _look(paths: tuple[str, str]) -> _Look:
    record, object = paths
    return read.identity(record), read.identity(object)
