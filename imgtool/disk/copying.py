"""Copy files, and read the copy one step behind: what is hashed is what was written, even if the source
is being rewritten.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING

from imgtool.disk import atomic, read
from imgtool.errors import ImgtoolError, from_oserror

if TYPE_CHECKING:
    from typing import Self

READ = 1 << 20
COPY = 16 << 20
PAGE = 4096

Call = Callable[[], object]


class Behind:
    """Calls made one after the other in another thread, while the caller goes on. The end of `with`
    waits for them, and raises what one of them has raised; after that one none is made.
    """

    def __init__(self) -> None:
        self._calls: SimpleQueue[Call | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._hurry = False

    def do(self, call: Call) -> None:
        """Make `call` after those before it.

        Raises:
            what an earlier one has raised.
        """
        if self._failure:
            raise self._failure
        if self._thread is None and not self._calls.empty():
            thread = threading.Thread(target=self._run)
            thread.start()
            self._thread = thread
        self._calls.put(call)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hurry = error is not None and not isinstance(error, Exception)  # a signal
        self._calls.put(None)
        if self._thread is not None:
            self._thread.join()
        elif not self._hurry:  # else the signal may have come while a thread was started
            self._run()  # at most one call, which is not worth a thread
        if self._failure and error is None:
            raise self._failure

    def _run(self) -> None:
        while call := self._calls.get():
            if self._failure or self._hurry:
                continue
            try:
                call()
            except BaseException as error:
                self._failure = error


def in_kernel(
    source: int, target: int, offset: int, most: int | None, written: Callable[[int], object]
) -> int:
    """Copy without passing through this process, as far as the kernel can.

    Args:
        source: read from its position.
        target: written from `offset` on.
        most: how many bytes at most; None: all.
        written: called now and then with the end of what is written.

    Returns:
        how many bytes; 0 too where the kernel cannot.
    """
    end = offset
    try:
        while want := COPY if most is None else min(COPY, most - (end - offset)):
            count = atomic.copy_range(source, target, want, end)
            if not count:
                break
            end += count
            written(end)
    except OSError as error:
        if end != offset:
            raise from_oserror(error, "cannot copy") from error
    return end - offset


def by_hand(source: int, target: int, offset: int, most: int, written: Callable[[int], object]) -> int:
    """As `in_kernel`, by reading and writing: on files whose pages do not lie alike the kernel takes half
    as long again, because it copies two parts for each page.
    """
    buffer, end, told = memoryview(bytearray(READ)), offset, offset
    os.lseek(target, offset, os.SEEK_SET)
    while want := min(READ, most - (end - offset)):
        with read.errors("the source"):
            count = os.readv(source, [buffer[:want]])
        if not count:
            break
        atomic.write(target, buffer[:count])
        end += count
        if end - told >= COPY:
            written(end)
            told = end
    if end > told:
        written(end)
    return end - offset


def chunks(fd: int, start: int, end: int, what: str) -> Iterator[memoryview]:
    """The bytes of an open file from `start` to `end`, in pieces, each good until the next.

    Args:
        what: names it in messages.
    """
    buffer = memoryview(bytearray(min(READ, max(end - start, 0))))
    while start < end:
        with read.errors(what):
            count = os.preadv(fd, [buffer[: end - start]], start)
        if not count:
            raise ImgtoolError(f"{what} became shorter while it was written")
        yield buffer[:count]
        start += count
