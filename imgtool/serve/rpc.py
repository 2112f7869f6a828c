"""gRPC over HTTP/2: how a call is asked for and answered (gRPC's PROTOCOL-HTTP2), and by which thread.

A method that waits for nobody is answered by the thread that reads the connection: to hand a call over
costs more than most calls. All others run in the pool, and so does what the reading thread has begun and
is more than one message, or more than the client takes just now.

A call holds what its stream may, a message of at most MESSAGE_MAX that comes, and one or two that go; while
one is packed there are copies. It drops all when nobody waits for it any more, unless its method runs.
"""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from itertools import chain
from typing import Protocol
from urllib.parse import quote

from imgtool.errors import ImgtoolError, ResourceExhausted, Unavailable
from imgtool.serve.calls import Call, status
from imgtool.serve.contracts import Unimplemented
from imgtool.serve.frames import Code
from imgtool.serve.headers import Headers, pack
from imgtool.serve.streams import NOBODY, Gone, Receiver, Stream
from imgtool.serve.threads import Threads

MESSAGE_MAX = 16 << 20  # bytes; as containerd
_FIRST = 1 << 14  # bytes: a client that takes less just now is not answered at once
_PREFIX = 5  # bytes in front of a message: whether it is compressed, and its length

_CONTENT_TYPE = "application/grpc"
_CONTENT_TYPES = re.compile(rf"{_CONTENT_TYPE}(\Z|[+;])")
_HEAD = pack((":status", "200"), ("content-type", _CONTENT_TYPE), ("grpc-accept-encoding", "identity"))
_OK = pack(("grpc-status", "0"))
_PRINTABLE = bytes(range(0x20, 0x7F)).decode().replace("%", "")


class Method(Protocol):
    """What answers a call."""

    @property
    def is_at_once(self) -> bool:
        """Whether it waits for no lock and for nobody."""

    @property
    def takes_stream(self) -> bool:
        """Whether the client sends any number of messages; else it is one."""

    @property
    def gives_stream(self) -> bool:
        """Whether the answer is any number of messages; else it is one."""

    def answers(self, requests: Iterator[bytes], call: Call) -> Generator[bytes, None, None]:
        """The messages of the answer. It is closed where nobody wants the rest."""

    def ended(self, error: Exception | None) -> ImgtoolError | None:
        """Told how a call ended, with Gone where nobody waited for it; what the client is to be told, if that
        is an error.
        """


class Answerer:
    """Answers the streams of all connections.

    Args:
        find: gives the method for a path.
        threads: for methods that wait.
        backend: see `Call`.
        warn: told of faults of our own that are not a method's.
    """

    def __init__(
        self,
        find: Callable[[str], Method],
        threads: Threads,
        backend: str | None,
        warn: Callable[[str], object],
    ) -> None:
        self._find = find
        self._warn = warn
        self._threads = threads
        self._backend = backend

    def __call__(self, stream: Stream) -> Receiver:
        """For the thread that reads the connection."""
        if refusal := _refusal(stream.headers):
            stream.send(tail=refusal)
            return NOBODY
        method = self._find(stream.headers[":path"])
        answer = _Answer(method, stream, Call(stream, self._backend), self._threads, self._warn)
        if method.takes_stream:
            answer.begin()
        return answer.requests


class Requests:
    """The messages that come in a call. Iterating waits for the next.

    Args:
        stream: where they come from.
        complete: where it is to be one: called by the reading thread when it is there, or never will be.

    Raises:
        Gone: while iterating: the client is gone.
        ResourceExhausted: a message is too large.
        Unimplemented: one is compressed, or it is not one.
        ImgtoolError: the last is not whole.
    """

    def __init__(self, stream: Stream, complete: Callable[[], None] | None = None) -> None:
        self._stream = stream
        self._complete = complete
        self._is_one = complete is not None
        self._begun = bytearray()
        self._whole: deque[bytes] = deque()
        self._is_wanted = self._is_one  # the message that has begun: somebody waits for it
        self._untaken = 0  # bytes of those that nobody has waited for
        self._is_over = False
        self._error: Exception | None = None
        self._changed = threading.Condition(threading.Lock())

    def data(self, data: bytes) -> None:
        with self._changed:
            self._untaken += len(data)
            if self._is_wanted:
                self._consume(self._untaken)
            if not self._is_over:
                self._split(data)
            is_over = self._is_over
        if is_over:
            self._completed()

    def end(self) -> None:
        error: Exception | None = None
        if self._begun:
            error = ImgtoolError("the request ends in the middle of a message")
        elif self._is_one and not self._whole:
            error = Unimplemented("the request is to be one message, and is none")
        with self._changed:
            self._over(error)
        self._completed()

    def gone(self) -> None:
        with self._changed:
            self._over(Gone())
        self._completed()

    @property
    def first(self) -> bytes | None:
        """The next message, where it is there and to be the only one. For who will iterate."""
        return self._whole[0] if self._is_one and self._whole else None

    def again(self, message: bytes) -> None:
        """Give back the message that was the next."""
        with self._changed:
            self._whole.appendleft(message)

    def drop(self) -> None:
        """Nobody iterates any more."""
        with self._changed:
            self._over(None)
            self._whole.clear()
            self._error = None  # raised, it leads back here

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        with self._changed:
            if not (self._whole or self._is_over):
                # A message larger than the window comes only if what is there of it has made room.
                self._is_wanted = True
                self._consume(self._untaken)
            while not (self._whole or self._is_over):
                self._changed.wait()
            if not self._whole:
                raise self._error or StopIteration
            message = self._whole.popleft()
            self._consume(min(self._untaken, _PREFIX + len(message)))
        return message

    def _consume(self, size: int) -> None:
        self._untaken -= size
        if size:
            self._stream.consumed(size)

    def _split(self, data: bytes) -> None:
        begun: bytes | bytearray = data
        if self._begun:
            self._begun += data
            begun = self._begun
        at = 0
        while len(begun) - at >= _PREFIX and not self._is_over:
            size = int.from_bytes(begun[at + 1 : at + _PREFIX])
            end = at + _PREFIX + size
            if begun[at]:
                self._over(Unimplemented("messages are taken as they are, and not compressed"))
            elif size > MESSAGE_MAX:
                self._over(ResourceExhausted(f"a message of {size} bytes, of at most {MESSAGE_MAX}"))
            elif self._is_one and self._whole:
                self._over(Unimplemented("the request is to be one message, and is several"))
            elif len(begun) < end:
                break
            else:
                self._whole.append(bytes(memoryview(begun)[at + _PREFIX : end]))
                self._is_wanted = self._is_one
                self._changed.notify()
                at = end
        if self._is_over:
            return
        if begun is data:
            self._begun += data[at:]
        else:
            del self._begun[:at]

    def _over(self, error: Exception | None) -> None:
        """Nothing more comes; the first error counts."""
        if self._is_over:
            return
        self._is_over = True
        self._error = error
        self._begun.clear()
        if error and self._is_one:
            self._whole.clear()
        self._changed.notify()

    def _completed(self) -> None:
        complete, self._complete = self._complete, None
        if complete:
            complete()


class _Answer:
    """One call: begun by one thread, and perhaps carried on by another."""

    def __init__(
        self, method: Method, stream: Stream, call: Call, threads: Threads, warn: Callable[[str], object]
    ) -> None:
        self._method = method
        self._stream = stream
        self._call = call
        self._threads = threads
        self._warn = warn
        self.requests = Requests(stream, None if method.takes_stream else self.begin)
        self._answers = method.answers(self.requests, call)
        self._begun: list[bytes] = []  # messages that are not sent yet
        self._head = _HEAD
        self._tail = b""

    def begin(self) -> None:
        """For the reading thread."""
        self._do(self._begin)

    def _carry_on(self) -> None:
        """For a thread that may wait."""
        self._do(self._answer)

    def _do(self, work: Callable[[], bool]) -> None:
        """Do what may end the call, and says whether it has."""
        try:
            if not work():
                return
        except Gone:
            self._finish()
        except BaseException as error:  # the method's own are told by `_next`
            self._finish(error)
        else:
            self._finish()

    def _begin(self) -> bool:
        if not self._stream.is_open:
            return True
        if self._method.is_at_once and self._stream.room >= _FIRST and self._at_once():
            return True
        if not self._threads.add(self._carry_on):
            self._tail = self._told(Unavailable("there is no thread for the call"))
            self._send(None, self._tail)
            return True
        if not self._stream.on_end(self._given_up):
            self._given_up()
        return False

    def _at_once(self) -> bool:
        """Answer what is no more than one message, which the client takes now; False where it is not."""
        request = self.requests.first
        ahead, first = None, self._next()
        if first is None or _PREFIX + len(first) <= self._stream.room:
            ahead = self._next()
            if ahead is None and self._send(first, self._tail, may_wait=False):
                return True
        self._begun = [message for message in (first, ahead) if message is not None]
        if request is not None and self._threads.are_busy:
            # While it waits for a thread it would keep files open, and messages: better to begin anew.
            self._answers.close()
            self.requests.again(request)
            self._answers = self._method.answers(self.requests, self._call)
            self._begun, self._tail = [], b""
        return False

    def _answer(self) -> bool:
        """Send what is begun, and the rest. Nothing is begun for nobody."""
        if self._call.is_active():
            last = None
            for message in chain(self._begun, iter(self._next, None)):
                if self._method.gives_stream:
                    self._send(message)
                else:
                    last = message
            self._send(last, self._tail)
        return True

    def _given_up(self) -> None:
        if self._threads.remove(self._carry_on):
            self._finish()

    def _next(self) -> bytes | None:
        """The next message; None at the end, which `_tail` tells of."""
        error: Exception | None = None
        if not self._tail:
            try:
                message = next(self._answers)
                if len(message) <= MESSAGE_MAX:
                    return message
                error = ResourceExhausted(f"an answer of {len(message)} bytes, of at most {MESSAGE_MAX}")
            except StopIteration:
                pass
            except Gone:
                raise
            except Exception as failure:
                error = failure
            self._tail = self._told(error)
            error = None  # it leads back to this frame, and so to all that the call has
        return None

    def _told(self, error: Exception | None) -> bytes:
        told = self._method.ended(error)
        return _trailers(*status(told)) if told else _OK

    def _send(self, message: bytes | None, tail: bytes = b"", *, may_wait: bool = True) -> bool:
        if message is None:
            return self._stream.send(tail=self._head + tail)
        data = b"\0" + len(message).to_bytes(4), message
        is_sent = self._stream.send(self._head, data, tail, may_wait=may_wait)
        if is_sent:
            self._head = b""
        return is_sent

    def _finish(self, fault: BaseException | None = None) -> None:
        """Keep nothing, whatever `fault` of our own kept the call from being answered."""
        error: Exception | None = None if self._tail else Gone()
        try:
            try:
                self._answers.close()
            except Exception as failure:
                error = failure
            if error is not None:
                self._method.ended(error)
        except BaseException as failure:
            fault = fault or failure
        try:
            if fault is not None:
                self._warn(f"a call failed: {type(fault).__name__}: {fault}")
        finally:
            self._begun.clear()
            self.requests.drop()
            self._stream.close(Code.INTERNAL_ERROR if fault is not None else Code.CANCEL)


def _refusal(headers: Headers) -> bytes:
    """The whole answer to what is no call."""
    if headers[":method"] != "POST":
        return pack((":status", "405"))
    if not _CONTENT_TYPES.match(headers.get("content-type", "")):
        return pack((":status", "415"))
    return b""


def _trailers(code: int, message: str) -> bytes:
    return pack(("grpc-status", str(code)), ("grpc-message", quote(message, safe=_PRINTABLE)))
