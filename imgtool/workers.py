"""Work on many small things, shared with copies of this process: one for each processor, while it pays.

A copy that fails for whatever reason counts as not having been there: its part is done here, and what is
wrong with it is told from here. It keeps nothing of ours open but the way back, so that neither a lock nor a
pipe outlives us in it, and it is never made while we hold a lock.
"""

from __future__ import annotations

import marshal
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")

_WORKERS_MAX = 4  # the disk is the same one
_PIPE = 1 << 20  # bytes, so that most workers need not wait until they are asked
_LENGTH = 8  # bytes in front of a result

_locked = 0


@contextmanager
def none() -> Iterator[None]:
    """While a lock is held: everything is done here."""
    global _locked
    _locked += 1
    try:
        yield
    finally:
        _locked -= 1


def processes() -> int:
    """How many may work now, we among them."""
    return 1 if _locked or _has_threads() else min(len(os.sched_getaffinity(0)), _WORKERS_MAX)


def share(work: Callable[[Sequence[T]], R], items: Sequence[T], least: int) -> list[R]:
    """What `work` returns of parts of `items`. The items are dealt out in turn, so that what stands together
    and takes long is shared too.

    Args:
        work: returns what marshal can hold. It must change nothing, because it may be done twice, and must
            open what it reads.
        items: what to work on.
        least: how many items are worth a process.
    """
    count = min(processes(), len(items) // least)
    if count < 2:
        return [work(items)] if items else []
    own, *others = (items[n::count] for n in range(count))
    workers: list[Worker] = []
    try:
        with suppress(OSError):  # no more processes: what has none is done here
            for part in others:
                workers.append(Worker(work, part))
        results = [work(own)]
        for n, part in enumerate(others):
            data = workers[n].result() if n < len(workers) else None
            results.append(work(part) if data is None else marshal.loads(data))
        return results
    finally:
        for worker in workers:
            worker.end()


def _has_threads() -> bool:
    """A process with threads must not be copied: a copy has one, and the locks of all."""
    threading = sys.modules.get("threading")
    return threading is not None and threading.active_count() > 1


class Worker:
    """A copy of this process that works on `part`.

    Raises:
        OSError: there can be none.
    """

    def __init__(self, work: Callable[[T], Any], part: T) -> None:
        import signal

        self._out, into = os.pipe()
        # A signal that raises here must not raise there: the copy would go on as if it were we.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self._pid = os.fork()
            if not self._pid:
                _work(work, part, into, before)
        except OSError:
            os.close(self._out)
            raise
        finally:
            os.close(into)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def result(self) -> bytes | None:
        """What `work` has returned; None if the worker has failed. `end` waits until it is gone."""
        parts = []
        while data := os.read(self._out, _PIPE):
            parts.append(data)
        found = b"".join(parts)
        is_whole = len(found) == _LENGTH + int.from_bytes(found[:_LENGTH])
        return found[_LENGTH:] if is_whole else None

    def end(self) -> None:
        """It is not needed any more."""
        import signal

        pid, self._pid = self._pid, 0
        if pid:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.close(self._out)
            with suppress(ChildProcessError):  # nobody waits where SIGCHLD is ignored
                os.waitpid(pid, 0)


def _work(work: Callable[[T], Any], part: T, into: int, signals: Iterable[int]) -> None:
    """In the worker: never returns, and says nothing."""
    try:
        import signal

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, signals)
        for fd in map(int, os.listdir("/proc/self/fd")):
            if fd > 2 and fd != into:
                with suppress(OSError):
                    os.close(fd)
        result = marshal.dumps(work(part))
        with suppress(OSError):
            import fcntl

            fcntl.fcntl(into, fcntl.F_SETPIPE_SZ, _PIPE)
        data = memoryview(len(result).to_bytes(_LENGTH) + result)
        while data:
            data = data[os.write(into, data) :]
    finally:
        os._exit(0)
