"""A client that is frames by hand, and a server for it whose methods are toys."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from hpack import Decoder, Encoder

from imgtool.errors import ImgtoolError
from imgtool.model import EMPTY
from imgtool.serve.calls import Call, as_ours
from imgtool.serve.contracts import Unimplemented
from imgtool.serve.http2 import Connection
from imgtool.serve.rpc import Answerer, Method
from imgtool.serve.threads import Threads

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = range(5)
PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(5, 10)
END_STREAM = ACK = 1
END_HEADERS, PADDED, WITH_PRIORITY = 4, 8, 32

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
TIMEOUT = 20.0


class Frame(NamedTuple):
    kind: int
    flags: int
    number: int
    payload: bytes

    @property
    def code(self) -> int:
        """Of a GOAWAY or RST_STREAM."""
        return int.from_bytes(self.payload[4:8] if self.kind == GOAWAY else self.payload)


def frame(kind: int, flags: int = 0, number: int = 0, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3) + bytes((kind, flags)) + number.to_bytes(4) + payload


def setting(name: int, value: int) -> bytes:
    return name.to_bytes(2) + value.to_bytes(4)


def message(data: bytes) -> bytes:
    return b"\0" + len(data).to_bytes(4) + data


def fields(path: str, more: Mapping[str, str] = EMPTY) -> list[tuple[str, str]]:
    """A request's; what is said more replaces or comes last, and is left out where it is empty."""
    plain = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "localhost",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    return [(name, value) for name, value in {**plain, **more}.items() if value]


class Answer(NamedTuple):
    """What came on one stream: two blocks of headers (the first is empty where there is but one), the
    messages as they are on the wire, and the code of a reset.
    """

    head: dict[str, str]
    data: bytes
    tail: dict[str, str]
    reset: int | None

    @property
    def status(self) -> str:
        return self.tail["grpc-status"]


class Peer:
    """The client's side."""

    def __init__(self, end: socket.socket) -> None:
        self.socket = end
        self.socket.settimeout(TIMEOUT)
        self.encoder = Encoder()
        self._decoder = Decoder()
        self._file = end.makefile("rb")
        self.warned: list[str] = []  # by the server, of itself

    def hello(self, *settings: bytes, window: int = 1 << 30) -> None:
        """The beginning; `window` is added to the connection's."""
        self.send(PREFACE + frame(SETTINGS, payload=b"".join(settings)))
        if window:
            self.grant(0, window)

    def close(self) -> None:
        self._file.close()
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def grant(self, number: int, size: int) -> None:
        self.send(frame(WINDOW_UPDATE, 0, number, size.to_bytes(4)))

    def open(self, number: int, path: str, more: Mapping[str, str] = EMPTY, *, end: bool = False) -> None:
        flags = END_HEADERS | (END_STREAM if end else 0)
        self.send(frame(HEADERS, flags, number, self.encoder.encode(fields(path, more))))

    def data(self, number: int, data: bytes, *, end: bool = False) -> None:
        self.send(frame(DATA, END_STREAM if end else 0, number, data))

    def ask(self, number: int, path: str, data: bytes = b"", more: Mapping[str, str] = EMPTY) -> None:
        """A whole request of one message."""
        self.open(number, path, more)
        self.data(number, message(data), end=True)

    def frames(self) -> Iterator[Frame]:
        """What comes, up to the end of the connection."""
        while len(head := self._file.read(9)) == 9:
            payload = self._file.read(int.from_bytes(head[:3]))
            yield Frame(head[3], head[4], int.from_bytes(head[5:]), payload)

    def until(self, kind: int, number: int | None = None) -> Frame:
        """The next of this kind, on that stream; what comes before it is dropped."""
        for found in self.frames():
            if found.kind == kind and number in (None, found.number):
                return found
            if found.kind == HEADERS:
                self._decoder.decode(found.payload)
        raise AssertionError("the connection has ended")

    def answer(self, number: int) -> Answer:
        """All of one stream's; what comes for others is dropped."""
        blocks: list[dict[str, str]] = []
        data = b""
        for found in self.frames():
            if found.kind == HEADERS:
                decoded = {str(name): str(value) for name, value in self._decoder.decode(found.payload)}
                if found.number == number:
                    blocks.append(decoded)
            if found.number != number:
                continue
            if found.kind == DATA:
                data += found.payload
            if found.kind == RST_STREAM:
                return Answer({}, data, {}, found.code)
            if found.kind in (DATA, HEADERS) and found.flags & END_STREAM:
                return Answer(blocks[0] if len(blocks) > 1 else {}, data, blocks[-1], None)
        raise AssertionError("the connection has ended")

    def ended(self) -> list[Frame]:
        """What still comes, up to the end of the connection."""
        return list(self.frames())

    def is_alive(self) -> bool:
        """Whether the server answers on this connection; what comes before is dropped."""
        self.send(frame(PING, payload=b"whatever"))
        return any(f.kind == PING and f.flags & ACK and f.payload == b"whatever" for f in self.frames())


class Toy(NamedTuple):
    """A method as `rpc.Method`, whose requests and answers are bytes."""

    answer: Callable[[Iterator[bytes], Call], Iterable[bytes]]
    takes_stream: bool = False
    gives_stream: bool = False
    is_at_once: bool = False

    def answers(self, requests: Iterator[bytes], call: Call) -> Generator[bytes, None, None]:
        yield from self.answer(requests, call)

    def ended(self, error: Exception | None) -> ImgtoolError | None:
        return None if error is None else as_ours(error)


def _absent(requests: Iterator[bytes], call: Call) -> Iterable[bytes]:
    raise Unimplemented("no such toy")


def _echo(requests: Iterator[bytes], call: Call) -> Iterable[bytes]:
    yield next(requests)


def _each(requests: Iterator[bytes], call: Call) -> Iterable[bytes]:
    yield from requests


def _repeat(requests: Iterator[bytes], call: Call) -> Iterable[bytes]:
    """`COUNT SIZE`: so many messages of so many bytes, each of another byte."""
    count, size = map(int, next(requests).split())
    for number in range(count):
        yield bytes([number % 251]) * size


def repeated(count: int, size: int) -> bytes:
    """What `repeat` answers."""
    return b"".join(message(bytes([number % 251]) * size) for number in range(count))


def _sum(requests: Iterator[bytes], call: Call) -> Iterable[bytes]:
    yield b"%d" % sum(map(len, requests))


TOYS = {
    "/once": Toy(_echo, is_at_once=True),
    "/pool": Toy(_echo),
    "/each": Toy(_each, takes_stream=True, gives_stream=True),
    "/repeat": Toy(_repeat, gives_stream=True),
    "/repeat-at-once": Toy(_repeat, gives_stream=True, is_at_once=True),
    "/sum": Toy(_sum, takes_stream=True),
}
ABSENT = Toy(_absent, takes_stream=True, gives_stream=True, is_at_once=True)


@contextmanager
def peer(*, threads: int = 8, **toys: Method) -> Iterator[Peer]:
    """A client of a server that has TOYS and `toys`. The server's threads must have ended at the end."""
    methods: dict[str, Method] = {**TOYS, **{f"/{name}": toy for name, toy in toys.items()}}
    ours, theirs = socket.socketpair()
    made = Peer(theirs)
    pool = Threads(threads)
    answerer = Answerer(lambda path: methods.get(path, ABSENT), pool, None, made.warned.append)
    serving = threading.Thread(target=Connection(ours, answerer).run)
    serving.start()
    try:
        yield made
    finally:
        theirs.shutdown(socket.SHUT_RDWR)
        made.close()
        pool.stop()
        for thread in (serving, *threading.enumerate()):
            if thread is serving or thread.name == "call":
                thread.join(TIMEOUT)
                assert not thread.is_alive()
