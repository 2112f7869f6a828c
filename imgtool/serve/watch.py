"""The log as it grows: what any process changes in the store is told to who listens here, once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import cast

from imgtool.disk import DiskStore
from imgtool.disk.follow import Follower, Operation
from imgtool.errors import ImgtoolError
from imgtool.ops.events import POLL
from imgtool.serve.contracts import Log, Open


class Watch:
    """Looks at the logs ten times a second, in a thread of its own, and at once where it is told to.

    Args:
        open: opens the store.
        log: told of what cannot be read.
        stopping: set when it is to end, by `stop` or by somebody else.
        poll: seconds between two looks.
    """

    def __init__(
        self, open: Open, log: Log, stopping: threading.Event | None = None, *, poll: float = POLL
    ) -> None:
        self._open = open
        self._log = log
        self._poll = poll
        self._listeners: list[Callable[[Operation], None]] = []
        self._waiting_for_end: list[Callable[[], None]] = []
        self._lock = threading.Lock()  # held by who looks
        self._stopping = stopping or threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._kept_open = ExitStack()
        self._follower: Follower | None = None

    def listen(self, listener: Callable[[Operation], None]) -> None:
        """Have `listener` called with each operation, in order, from whatever thread has found it. It
        must not wait, nor look.
        """
        self._listeners.append(listener)

    def at_end(self, ended: Callable[[], None]) -> None:
        """Have `ended` called when nothing more will be found."""
        self._waiting_for_end.append(ended)

    def start(self) -> None:
        """Begin: what is changed from the return on is told."""
        store = cast(DiskStore, self._kept_open.enter_context(self._open()))
        self._follower = Follower(store.engine, on_error=self._cannot_read)
        self._follower.skip()
        self._thread.start()

    def look(self, namespace: str | None = None) -> None:
        """Tell now what has happened so far, there or everywhere. When it returns that has been told."""
        with self._lock:
            self._tell(namespace)

    @contextmanager
    def caught_up(self) -> Iterator[None]:
        """Inside, all that has happened before has been told, and nothing more is told meanwhile."""
        with self._lock:
            self._tell(None)
            yield

    def stop(self) -> None:
        """End; nothing is told any more when it returns."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()
        with self._lock:
            self._follower = None
            self._kept_open.close()

    def _tell(self, namespace: str | None) -> None:
        if self._follower is not None:
            for operation in self._follower.poll(namespace):
                for listener in self._listeners:
                    listener(operation)

    def _run(self) -> None:
        complaint = ""
        while not self._stopping.wait(self._poll):
            try:
                self.look()
            except Exception as error:  # the others are to be told what comes
                if complaint != (complaint := f"events: {type(error).__name__}: {error}"):
                    self._log.warn(complaint)
        for ended in self._waiting_for_end:
            ended()

    def _cannot_read(self, error: ImgtoolError) -> None:
        self._log.warn(f"events: {error.message}")
