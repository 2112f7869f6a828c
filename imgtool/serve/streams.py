"""Streams of HTTP/2: one request and its answer, for whichever thread is at it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from imgtool.serve.frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEAD,
    HEADERS,
    LONG,
    RST_STREAM,
    WINDOW_UPDATE,
    Code,
    frame,
)

if TYPE_CHECKING:
    from imgtool.serve.headers import Headers
    from imgtool.serve.http2 import Connection

WINDOW = 1 << 20  # bytes that may come for a stream before somebody takes them
_ROUND = 1 << 18  # bytes of an answer that are written before others have their turn


class Gone(Exception):
    """Nobody waits for the answer any more."""


class Receiver(Protocol):
    """Told by the reading thread what comes for a stream; it must not wait for anybody."""

    def data(self, data: bytes) -> None:
        """What is done with must be told to `Stream.consumed`: so much more may come."""

    def end(self) -> None:
        """The peer has sent everything."""

    def gone(self) -> None:
        """The peer has given up, or is gone. Whoever answers calls `Stream.close`."""


class _Nobody:
    """Hears what comes for a stream of which nobody wants to hear."""

    def data(self, data: bytes) -> None: ...

    def end(self) -> None: ...

    def gone(self) -> None: ...


NOBODY: Receiver = _Nobody()


class Stream:
    """One request and its answer. All but `headers` and `receiver` is for any thread.

    Args:
        connection: where it belongs.
        number: its id.
        headers: of the request.
        window: bytes that the peer takes.
    """

    def __init__(self, connection: Connection, number: int, headers: Headers, window: int) -> None:
        self.headers = headers
        self.receiver = NOBODY
        self.number = number
        self.window = window
        self.unread = 0  # bytes that came and were not given back to the peer's window
        self.has_ended = False  # the peer's side
        self.is_gone = False
        self._connection = connection
        self._consumed = 0
        self._is_answered = False
        self._on_end: list[Callable[[], None]] = []

    @property
    def is_open(self) -> bool:
        """Whether an answer can still be given."""
        return not (self.is_gone or self._is_answered)

    @property
    def room(self) -> int:
        """Bytes that the peer takes just now."""
        return min(self.window, self._connection.window)

    def on_end(self, callback: Callable[[], None]) -> bool:
        """Have `callback` called, in whatever thread, when the answer is given or cannot be given any more;
        False if that is so already, and `callback` is not called.
        """
        with self._connection.lock:
            if self.is_open:
                self._on_end.append(callback)
            return self.is_open

    def consumed(self, size: int) -> None:
        """So many bytes of what came are done with."""
        with self._connection.lock:
            self._consumed += size
            if self._consumed < WINDOW // 2 or self.has_ended or not self.is_open:
                return
            self.unread -= self._consumed
            update = frame(WINDOW_UPDATE, 0, self.number, LONG.pack(self._consumed))
            self._consumed = 0
            with suppress(Gone):
                self._connection.write(update)

    def send(
        self, head: bytes = b"", data: Iterable[bytes] = (), tail: bytes = b"", *, may_wait: bool = True
    ) -> bool:
        """Answer, or a part of it. `tail` ends the stream.

        Args:
            head: the block of headers in front, as `headers.pack` makes it.
            data: what is sent, in pieces.
            tail: the block of headers at the end.
            may_wait: for windows; else False is returned where they are too small, and nothing is sent.

        Raises:
            Gone: nobody takes it.
        """
        connection, rest = self._connection, memoryview(b"".join(data))
        most = _ROUND if may_wait else len(rest)
        frames: list[bytes | memoryview] = []
        is_last = False
        while not is_last:
            with connection.lock:
                room = self._room(len(rest))
                if room < len(rest) and not may_wait:
                    return False
                while rest and not room:
                    connection.changed.wait()
                    room = self._room(len(rest))
                room = min(room, most)
                self.window -= room
                connection.window -= room
                if head:
                    frames.append(frame(HEADERS, END_HEADERS, self.number, connection.block(head)))
                    head = b""
                for at in range(0, room, connection.frame_max):
                    size = min(connection.frame_max, room - at)
                    frames += HEAD.pack(size >> 8, size & 0xFF, DATA, 0, self.number), rest[at : at + size]
                rest = rest[room:]
                is_last = not rest
                if is_last and tail:
                    block = connection.block(tail)
                    frames.append(frame(HEADERS, END_HEADERS | END_STREAM, self.number, block))
                    if not self.has_ended:  # and nobody wants the rest (8.1)
                        frames.append(frame(RST_STREAM, 0, self.number, LONG.pack(Code.NO_ERROR)))
                    self._is_answered = True
                    connection.forget(self)
                connection.write(b"".join(frames))
                frames = []
        if tail:
            self._ended()
        return True

    def close(self, code: Code = Code.CANCEL) -> None:
        """Nothing more will be done for it: another may take its place. Without an answer it is reset."""
        with self._connection.lock:
            if self.is_open:
                self.is_gone = True
                self._connection.reset(self.number, code)
            self.receiver = NOBODY  # who answers has the stream: of the two neither must keep the other
            self._connection.forget(self)
        self._ended()

    def lose(self, code: Code | None = None) -> None:
        """Nobody waits any more; the peer is told where `code` says why. For the reading thread."""
        with self._connection.lock:
            if not self.is_open:
                return
            self.is_gone = True
            self._connection.changed.notify_all()
            if code is not None:
                self._connection.reset(self.number, code)
        self.receiver.gone()
        self._ended()

    def _room(self, size: int) -> int:
        """So many of `size` bytes may be sent now. A window is below 0 where the peer has made it smaller."""
        if self.is_gone:
            raise Gone
        return max(min(size, self.room), 0)

    def _ended(self) -> None:
        if self._on_end:
            with self._connection.lock:
                callbacks, self._on_end = self._on_end, []
            for callback in callbacks:
                callback()
