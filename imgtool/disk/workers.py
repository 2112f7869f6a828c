"""Work on many small files, shared with processes of our own: one for each processor, while it pays.

A worker that fails for whatever reason counts as not having been there: its part is done here, and what is
wrong with it is told from here.
"""

from __future__ import annotations

import marshal
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")
R = TypeVar("R")

_WORKERS_MAX = 4  # the disk is the same one
_PIPE = 1 << 20  # so that most workers need not wait until they are asked


def share(work: Callable[[Sequence[T]], R], items: Sequence[T], least: int) -> list[R]:
    """What `work` returns of parts of `items`, in order.

    Args:
        work: returns what marshal can hold. It must change nothing, because it may be done twice.
        items: what to work on.
        least: how many items are worth a process.
    """
    count = min(len(os.sched_getaffinity(0)), _WORKERS_MAX, len(items) // least)
    if count < 2 or _has_threads():
        return [work(items)] if items else []
    size = -(-len(items) // count)
    own, *others = (items[at : at + size] for at in range(0, len(items), size))
    workers: list[_Worker | None] = []
    try:
        workers.extend(_start(work, part) for part in others)
        results = [work(own)]
        for n, part in enumerate(others):
            data = _result(worker) if (worker := workers[n]) else b""
            workers[n] = None
            results.append(marshal.loads(data) if data else work(part))
        return results
    finally:
        for worker in filter(None, workers):
            os.kill(worker.pid, signal.SIGKILL)
            _result(worker)


class _Worker(NamedTuple):
    pid: int
    result: int  # where it can be read


def _has_threads() -> bool:
    """A process with threads must not be copied: a copy has one, and the locks of all."""
    threading = sys.modules.get("threading")
    return threading is not None and threading.active_count() > 1


def _start(work: Callable[[T], Any], part: T) -> _Worker | None:
    """None where there can be no more processes."""
    try:
        out, into = os.pipe()
    except OSError:
        return None
    try:
        pid = os.fork()
        if not pid:
            _work(work, part, into)
    except OSError:
        os.close(out)
        return None
    finally:
        os.close(into)
    return _Worker(pid, out)


def _work(work: Callable[[T], Any], part: T, into: int) -> None:
    """In the worker: never returns, and says nothing."""
    failed = 1
    try:
        import fcntl

        data = memoryview(marshal.dumps(work(part)))
        with suppress(OSError):
            fcntl.fcntl(into, fcntl.F_SETPIPE_SZ, _PIPE)
        while data:
            data = data[os.write(into, data) :]
        failed = 0
    finally:
        os._exit(failed)


def _result(worker: _Worker) -> bytes:
    """What it has written; nothing if it has failed."""
    try:
        parts = []
        while data := os.read(worker.result, _PIPE):
            parts.append(data)
    finally:
        os.close(worker.result)
        _, status = os.waitpid(worker.pid, 0)
    return b"" if status else b"".join(parts)
