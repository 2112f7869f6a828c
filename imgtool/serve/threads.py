"""Threads for what waits: made when they are needed, and then kept. What has not begun can be taken back."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress

Job = Callable[[], object]


class Threads:
    """
    Args:
        most: that there are at a time.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._count = 0
        self._idle = 0
        self._jobs: OrderedDict[Job, None] = OrderedDict()  # that wait, in their order
        self._is_short = False  # the system had no thread when one was to be made
        self._is_stopped = False
        self._changed = threading.Condition(threading.Lock())

    @property
    def are_busy(self) -> bool:
        """Whether what is added now waits for something else to end."""
        return (self._is_short or self._count >= self._most) and self._idle <= len(self._jobs)

    def add(self, job: Job) -> bool:
        """Have `job` called, which tells its faults itself; False where it never will be: there is no thread,
        or `stop` was called.
        """
        with self._changed:
            if self._is_stopped:
                return False
            self._jobs[job] = None
            if self._idle >= len(self._jobs):
                self._changed.notify()
            elif self._count < self._most:
                try:
                    threading.Thread(target=self._work, name="call", daemon=True).start()
                    self._count += 1
                    self._is_short = False
                except RuntimeError:  # those that are there will come to it
                    self._is_short = True
                    if not self._count:
                        del self._jobs[job]
                        return False
        return True

    def remove(self, job: Job) -> bool:
        """Take back what was added; False where it is called already."""
        with self._changed:
            is_there = job in self._jobs
            if is_there:
                del self._jobs[job]
        return is_there

    def stop(self) -> None:
        """Take no more. What has begun goes on; what has not is dropped."""
        with self._changed:
            self._is_stopped = True
            self._jobs.clear()
            self._changed.notify_all()

    def _work(self) -> None:
        while job := self._next():
            with suppress(Exception):
                job()
            del job  # else what it holds would be kept until the next comes

    def _next(self) -> Job | None:
        with self._changed:
            self._idle += 1
            self._changed.wait_for(lambda: self._jobs or self._is_stopped)
            self._idle -= 1
            return self._jobs.popitem(last=False)[0] if self._jobs else None
