"""The frame layer: what RFC 9113 asks of a server, and that no client can do it harm."""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress

import pytest
from hpack import Encoder
from hypothesis import given, settings
from hypothesis import strategies as st

from imgtool.serve import http2
from imgtool.serve.calls import Call
from imgtool.serve.frames import Code
from imgtool.serve.http2 import CONNECTION_WINDOW, STREAMS_MAX
from imgtool.serve.streams import NOBODY, WINDOW, Gone, Receiver, Stream

from .frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    WITH_PRIORITY,
    Frame,
    Peer,
    Toy,
    fields,
    frame,
    message,
    peer,
    repeated,
    setting,
)

MAX_FRAME_SIZE, INITIAL_WINDOW_SIZE, ENABLE_PUSH = 5, 4, 2
BLOCK = Encoder().encode(fields("/once"))


@pytest.fixture
def client() -> Iterator[Peer]:
    with peer() as made:
        made.hello()
        yield made


def ended(client: Peer) -> tuple[int, int]:
    """The last stream and the code with which the connection ends."""
    last = client.ended()[-1]
    assert last.kind == GOAWAY
    return int.from_bytes(last.payload[:4]), last.code


# --- requests and answers --------------------------------------------------------------------------


def test_the_server_begins_with_its_settings_and_acknowledges_ours() -> None:
    with peer() as client:
        first = next(client.frames())
        assert (first.kind, first.flags, first.number) == (SETTINGS, 0, 0)
        assert setting(3, STREAMS_MAX) in first.payload
        assert setting(4, WINDOW) in first.payload
        client.hello()
        found = client.until(SETTINGS)
        assert (found.flags, found.payload) == (ACK, b"")


def test_headers_may_be_cut_into_continuations_padded_and_weighed(client: Peer) -> None:
    """All of it at once, with data that is padded too."""
    block = client.encoder.encode(fields("/once"))
    payload = bytes([7]) + bytes(5) + block[:1] + bytes(7)
    client.send(frame(HEADERS, PADDED | WITH_PRIORITY, 1, payload))
    for at in range(1, len(block)):
        flags = END_HEADERS if at == len(block) - 1 else 0
        client.send(frame(CONTINUATION, flags, 1, block[at : at + 1]))
    data = message(b"abc")
    client.send(frame(DATA, PADDED, 1, bytes([200]) + data[:3] + bytes(200)))
    client.send(frame(DATA, PADDED | END_STREAM, 1, bytes([0]) + data[3:]))
    answer = client.answer(1)
    assert (answer.data, answer.status) == (data, "0")


def test_what_is_not_known_is_not_looked_at(client: Peer) -> None:
    """Later versions of the protocol may bring it."""
    client.send(frame(77, 0xFF, 0, b"x"))
    client.send(frame(SETTINGS, payload=setting(77, 1)))
    client.send(frame(PRIORITY, 0, 9, bytes(5)))
    client.send(frame(PING, ACK, 0, bytes(8)))
    client.send(frame(SETTINGS, ACK))
    client.send(frame(GOAWAY, 0, 0, bytes(8)))
    client.ask(1, "/once", b"a")
    assert client.answer(1).data == message(b"a")


def test_a_ping_comes_back(client: Peer) -> None:
    client.send(frame(PING, payload=b"12345678"))
    found = client.until(PING)
    assert (found.flags, found.payload) == (ACK, b"12345678")


def test_a_request_may_end_with_trailers(client: Peer) -> None:
    client.open(1, "/sum")
    client.data(1, message(b"abc"))
    client.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, client.encoder.encode([("x", "y")])))
    assert client.answer(1).data == message(b"3")


def test_an_answer_before_the_end_of_the_request_makes_the_client_stop(client: Peer) -> None:
    """Nobody wants the rest, and what is on its way is dropped (8.1)."""
    client.open(1, "/nothing")
    client.data(1, message(bytes(100)))
    assert client.answer(1).status == "12"
    reset = client.until(RST_STREAM)
    assert (reset.number, reset.code) == (1, Code.NO_ERROR)
    client.data(1, message(bytes(100)), end=True)
    client.send(frame(WINDOW_UPDATE, 0, 1, (1).to_bytes(4)))
    client.send(frame(RST_STREAM, 0, 1, bytes(4)))
    client.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, client.encoder.encode([("x", "y")])))
    assert client.is_alive()


# --- windows of the client -------------------------------------------------------------------------


def test_an_answer_waits_for_windows_and_takes_every_byte_of_them(client: Peer) -> None:
    """A window of 0 lets nothing through but headers; each grant just that much."""
    client.send(frame(SETTINGS, payload=setting(INITIAL_WINDOW_SIZE, 0)))
    client.ask(1, "/once", b"abcdef")
    assert client.is_alive()
    data = b""
    for _ in range(len(message(b"abcdef"))):
        client.grant(1, 1)
        found = client.until(DATA)
        assert len(found.payload) == 1
        data += found.payload
    assert data == message(b"abcdef")
    assert client.answer(1).status == "0"


def test_settings_change_the_windows_of_streams_that_are_open(client: Peer) -> None:
    """Also to less than nothing, which grants have to make good first (6.9.2)."""
    client.send(frame(SETTINGS, payload=setting(INITIAL_WINDOW_SIZE, 10)))
    client.ask(1, "/repeat", b"1 35")
    assert len(client.until(DATA).payload) == 10
    client.send(frame(SETTINGS, payload=setting(INITIAL_WINDOW_SIZE, 3)))
    client.until(SETTINGS)
    client.grant(1, 7)
    assert client.is_alive()
    client.grant(1, 2)
    assert len(client.until(DATA).payload) == 2
    client.send(frame(SETTINGS, payload=setting(INITIAL_WINDOW_SIZE, 8)))
    assert len(client.until(DATA).payload) == 5
    client.grant(1, 1000)
    assert len(client.answer(1).data) == len(repeated(1, 35)) - 17


def test_no_answer_needs_no_window(client: Peer) -> None:
    """An error is told also where the window is below 0."""
    client.send(frame(SETTINGS, payload=setting(INITIAL_WINDOW_SIZE, 5)))
    client.ask(1, "/repeat", b"1 100")
    client.until(DATA)
    client.send(frame(SETTINGS, payload=setting(INITIAL_WINDOW_SIZE, 0)))
    client.ask(3, "/nothing")
    assert client.answer(3).status == "12"
    client.grant(1, 1000)
    assert client.answer(1).status == "0"


def test_the_window_of_the_connection_is_one_for_all_streams() -> None:
    with peer() as client:
        client.hello(setting(INITIAL_WINDOW_SIZE, 1 << 20), window=0)
        client.ask(1, "/repeat", b"1 60000")
        client.ask(3, "/repeat", b"1 60000")
        came = {1: 0, 3: 0}
        for found in client.frames():
            if found.kind == DATA:
                came[found.number] += len(found.payload)
            if sum(came.values()) == 0xFFFF:
                break
        assert client.is_alive()
        client.grant(0, 1 << 20)
        for found in client.frames():
            if found.kind == DATA:
                came[found.number] += len(found.payload)
            if sum(came.values()) == 2 * 60005:
                break
        assert came == {1: 60005, 3: 60005}


@pytest.mark.parametrize("most", [1 << 14, 40000, (1 << 24) - 1])
def test_frames_are_as_large_as_the_client_takes_them(most: int) -> None:
    with peer() as client:
        client.hello(setting(MAX_FRAME_SIZE, most), setting(INITIAL_WINDOW_SIZE, 1 << 30))
        client.ask(1, "/repeat", b"1 100000")
        sizes = [len(client.until(DATA).payload)]
        while sum(sizes) < 100005:
            sizes.append(len(client.until(DATA).payload))
        assert sizes[0] == min(most, 100005)
        assert max(sizes) <= most


def test_a_stream_that_waits_for_its_window_holds_up_no_other(client: Peer) -> None:
    """Not even where its method is answered by the thread that reads."""
    client.send(frame(SETTINGS, payload=setting(INITIAL_WINDOW_SIZE, 0)))
    client.ask(1, "/repeat-at-once", b"3 10")
    client.ask(3, "/once", b"a")
    client.send(frame(SETTINGS, payload=setting(INITIAL_WINDOW_SIZE, 1000)))
    client.ask(5, "/once", b"b")
    seen: dict[int, bytes] = {1: b"", 3: b"", 5: b""}
    tails = 0
    for found in client.frames():
        if found.kind == DATA:
            seen[found.number] += found.payload
        tails += found.kind == HEADERS and bool(found.flags & END_STREAM)
        if tails == 3:
            break
    assert seen == {1: repeated(3, 10), 3: message(b"a"), 5: message(b"b")}


# --- our windows -----------------------------------------------------------------------------------


def test_a_message_larger_than_the_window_comes_through(client: Peer) -> None:
    data = message(bytes(3 * WINDOW))
    client.open(1, "/sum")
    client.socket.setblocking(True)
    left = WINDOW
    while data:
        if not left:
            found = client.until(WINDOW_UPDATE, 1)
            left += int.from_bytes(found.payload)
        size = min(left, 1 << 14, len(data))
        client.data(1, data[:size], end=size == len(data))
        data, left = data[size:], left - size
    assert client.answer(1).data == message(b"%d" % (3 * WINDOW))


def test_padding_takes_up_no_room(client: Peer) -> None:
    """It is nobody's to take, so it is given back at once."""
    client.open(1, "/sum")
    client.send(frame(DATA, PADDED, 1, bytes([255]) + bytes(255)) * (WINDOW // 256 + 1))
    client.data(1, message(b"abc"), end=True)
    assert client.answer(1).data == message(b"3")


def test_a_handler_that_takes_nothing_holds_the_client_back_and_nobody_else() -> None:
    """What came for it is all that is kept for it: a window. It has taken a message, and stopped."""
    taken, go_on = threading.Event(), threading.Event()

    def slow(requests: Iterator[bytes], call: Call) -> Iterable[bytes]:
        next(requests)
        taken.set()
        assert go_on.wait(30)
        yield b"%d" % sum(map(len, requests))

    with peer(slow=Toy(slow, takes_stream=True)) as client:
        client.hello()
        client.open(1, "/slow")
        client.data(1, message(b""))
        assert taken.wait(20)
        sent = 0
        while sent + 16389 <= WINDOW:
            client.data(1, message(bytes(16384)))
            sent += 16389
        client.ask(3, "/once", b"a")
        given = 0
        for found in client.frames():
            given += found.kind == WINDOW_UPDATE and found.number == 1
            if found.kind == HEADERS and found.flags & END_STREAM:
                break
        assert not given
        go_on.set()
        assert int.from_bytes(client.until(WINDOW_UPDATE, 1).payload) >= WINDOW // 2
        client.data(1, b"", end=True)
        assert client.answer(1).data == message(b"%d" % (sent // 16389 * 16384))


def test_who_sends_more_than_the_window_of_a_stream_loses_the_stream() -> None:
    go_on = threading.Event()

    def slow(requests: Iterator[bytes], call: Call) -> Iterable[bytes]:
        assert go_on.wait(30)
        yield from requests

    with peer(slow=Toy(slow, takes_stream=True, gives_stream=True)) as client:
        client.hello()
        client.open(1, "/slow")
        for _ in range(WINDOW // 16384 + 1):
            client.data(1, message(bytes(16379)))
        found = client.until(RST_STREAM)
        assert (found.number, found.code) == (1, Code.FLOW_CONTROL_ERROR)
        go_on.set()
        assert client.is_alive()


def test_the_window_of_the_connection_is_given_back_whatever_becomes_of_the_data(client: Peer) -> None:
    """Else a client that ends its calls early could send nothing at last."""
    client.ask(1, "/once")
    client.answer(1)
    for _ in range(CONNECTION_WINDOW // 2 >> 14):
        client.data(1, bytes(1 << 14))
    assert int.from_bytes(client.until(WINDOW_UPDATE, 0).payload) >= CONNECTION_WINDOW // 2


# --- the end of a stream ---------------------------------------------------------------------------


@pytest.mark.parametrize("window", [0xFFFF, (1 << 31) - 1])
def test_a_reset_ends_the_generator_that_answers(window: int) -> None:
    """In the middle, where it waits for the client's window, and where it need not."""
    closed = threading.Event()

    def endless(requests: Iterator[bytes], call: Call) -> Iterable[bytes]:
        try:
            while True:
                yield bytes(1000)
        finally:
            closed.set()

    with peer(endless=Toy(endless, gives_stream=True)) as client:
        client.hello(setting(INITIAL_WINDOW_SIZE, window))
        client.ask(1, "/endless")
        client.until(DATA)
        client.send(frame(RST_STREAM, 0, 1, (8).to_bytes(4)))
        assert client.is_alive()
        assert closed.wait(20)
        client.ask(3, "/once", b"a")
        assert client.answer(3).data == message(b"a")


def test_a_reset_is_told_to_who_waits_for_requests_and_to_who_asked_for_it() -> None:
    seen: list[str] = []
    done = threading.Event()

    def wait(requests: Iterator[bytes], call: Call) -> Iterable[bytes]:
        assert call.on_end(lambda: seen.append("end"))
        assert call.is_active()
        yield next(requests)
        try:
            next(requests)
        except Gone:
            seen.append("gone")
            assert not call.is_active()
            assert not call.on_end(lambda: seen.append("late"))
            raise
        finally:
            done.set()

    with peer(wait=Toy(wait, takes_stream=True, gives_stream=True)) as client:
        client.hello()
        client.open(1, "/wait")
        client.data(1, message(b""))
        client.until(DATA)
        client.send(frame(RST_STREAM, 0, 1, (8).to_bytes(4)))
        assert done.wait(20)
        assert client.is_alive()
    assert sorted(seen) == ["end", "gone"]


def test_the_end_of_the_connection_ends_all_streams() -> None:
    begun, ended = threading.Semaphore(0), threading.Semaphore(0)

    def wait(requests: Iterator[bytes], call: Call) -> Iterable[bytes]:
        begun.release()
        try:
            yield from requests
        finally:
            ended.release()

    with peer(wait=Toy(wait, takes_stream=True, gives_stream=True)) as client:
        client.hello()
        for number in (1, 3, 5):
            client.open(number, "/wait")
            assert begun.acquire(timeout=20)
        client.socket.shutdown(socket.SHUT_WR)
        for _ in range(3):
            assert ended.acquire(timeout=20)


def test_streams_over_the_limit_are_refused_also_where_the_client_gives_up_the_others() -> None:
    """A call that was reset may still run: whoever opens and resets could fill the memory."""
    begun, go_on = threading.Semaphore(0), threading.Event()

    def held(requests: Iterator[bytes], call: Call) -> Iterable[bytes]:
        begun.release()
        assert go_on.wait(30)
        yield next(requests)

    with peer(threads=STREAMS_MAX, held=Toy(held)) as client:
        client.hello()
        for number in range(1, 2 * STREAMS_MAX, 2):
            client.ask(number, "/held")
            assert begun.acquire(timeout=20)
            client.send(frame(RST_STREAM, 0, number, (8).to_bytes(4)))
        client.ask(2 * STREAMS_MAX + 1, "/held")
        assert client.answer(2 * STREAMS_MAX + 1).reset == Code.REFUSED_STREAM
        go_on.set()
        for number in range(2 * STREAMS_MAX + 3, 10 * STREAMS_MAX, 2):
            client.ask(number, "/once")
            if client.answer(number).reset is None:
                break
            time.sleep(0.01)
        else:
            pytest.fail("refused for ever")


# --- the end of the server -------------------------------------------------------------------------


def serve() -> tuple[http2.Connection, socket.socket, threading.Thread, Peer]:
    ours, theirs = socket.socketpair()
    connection = http2.Connection(ours, lambda stream: NOBODY)
    return connection, ours, threading.Thread(target=connection.run), Peer(theirs)


def test_who_is_told_to_go_before_all_else_is_told_the_settings_first() -> None:
    connection, _, running, client = serve()
    assert connection.leave(0)
    running.start()
    frames = client.frames()
    assert [next(frames).kind for _ in range(3)] == [SETTINGS, WINDOW_UPDATE, GOAWAY]
    client.close()
    running.join(20)


def test_a_client_that_reads_nothing_is_told_to_go_when_it_reads() -> None:
    """Nobody waits for it: each could hold up the end of the server for as long as it likes."""
    connection, ours, running, client = serve()
    running.start()
    client.hello()
    client.until(WINDOW_UPDATE)
    client.until(SETTINGS)
    filled = 0
    junk = frame(77, 0, 0, bytes(1000 - 9))
    with connection.lock, suppress(BlockingIOError):
        while True:
            sent = ours.send(junk, socket.MSG_DONTWAIT)
            filled += sent
            assert sent == len(junk)
    began = time.monotonic()
    assert not connection.leave(0)
    assert time.monotonic() - began < 5
    for _ in range(filled // len(junk)):
        client.until(77)
    assert connection.leave(0)
    assert client.until(GOAWAY).code == Code.NO_ERROR
    client.close()
    running.join(20)


def test_a_fault_when_a_stream_begins_closes_the_connection() -> None:
    """And is told: whoever runs the connection hears of it."""

    def fail(stream: Stream) -> Receiver:
        raise KeyError(stream.headers[":path"])

    ours, theirs = socket.socketpair()
    client = Peer(theirs)
    client.hello()
    client.ask(1, "/x")
    with pytest.raises(KeyError, match="/x"):
        http2.Connection(ours, fail).run()
    assert ours.fileno() == -1
    client.close()


# --- what is against the rules ---------------------------------------------------------------------

REQUEST = frame(HEADERS, END_HEADERS, 1, BLOCK)
ASKED = REQUEST + frame(DATA, END_STREAM, 1, message(b""))
OF_CONNECTIONS = {
    "data on stream 0": (frame(DATA, 0, 0), Code.PROTOCOL_ERROR),
    "data on an idle stream": (frame(DATA, 0, 1), Code.PROTOCOL_ERROR),
    "headers on stream 0": (frame(HEADERS, END_HEADERS, 0, BLOCK), Code.PROTOCOL_ERROR),
    "headers on the server's stream": (frame(HEADERS, END_HEADERS, 2, BLOCK), Code.PROTOCOL_ERROR),
    "headers on a stream that has been": (ASKED + REQUEST, Code.STREAM_CLOSED),
    "padding beyond the frame": (frame(HEADERS, END_HEADERS | PADDED, 1, b"\x05abc"), Code.PROTOCOL_ERROR),
    "padding without a length": (REQUEST + frame(DATA, PADDED, 1), Code.PROTOCOL_ERROR),
    "a priority cut off": (frame(HEADERS, END_HEADERS | WITH_PRIORITY, 1, b"abc"), Code.FRAME_SIZE_ERROR),
    "priority on stream 0": (frame(PRIORITY, 0, 0, bytes(5)), Code.PROTOCOL_ERROR),
    "a reset on stream 0": (frame(RST_STREAM, 0, 0, bytes(4)), Code.PROTOCOL_ERROR),
    "a reset of an idle stream": (frame(RST_STREAM, 0, 1, bytes(4)), Code.PROTOCOL_ERROR),
    "a reset of 3 bytes": (REQUEST + frame(RST_STREAM, 0, 1, bytes(3)), Code.FRAME_SIZE_ERROR),
    "settings on a stream": (frame(SETTINGS, 0, 1), Code.PROTOCOL_ERROR),
    "settings cut off": (frame(SETTINGS, payload=bytes(5)), Code.FRAME_SIZE_ERROR),
    "an acknowledgement with settings": (frame(SETTINGS, ACK, 0, bytes(6)), Code.FRAME_SIZE_ERROR),
    "push of 2": (frame(SETTINGS, payload=setting(ENABLE_PUSH, 2)), Code.PROTOCOL_ERROR),
    "a window too large": (
        frame(SETTINGS, payload=setting(INITIAL_WINDOW_SIZE, 1 << 31)),
        Code.FLOW_CONTROL_ERROR,
    ),
    "frames too small": (frame(SETTINGS, payload=setting(MAX_FRAME_SIZE, 16383)), Code.PROTOCOL_ERROR),
    "frames too large": (frame(SETTINGS, payload=setting(MAX_FRAME_SIZE, 1 << 24)), Code.PROTOCOL_ERROR),
    "a window that settings make overflow": (
        REQUEST
        + frame(WINDOW_UPDATE, 0, 1, ((1 << 31) - 1 - 0xFFFF).to_bytes(4))
        + frame(SETTINGS, payload=setting(INITIAL_WINDOW_SIZE, 1 << 20)),
        Code.FLOW_CONTROL_ERROR,
    ),
    "a promise": (frame(PUSH_PROMISE, END_HEADERS, 1, bytes(4) + BLOCK), Code.PROTOCOL_ERROR),
    "a ping on a stream": (frame(PING, 0, 1, bytes(8)), Code.PROTOCOL_ERROR),
    "a ping of 7 bytes": (frame(PING, payload=bytes(7)), Code.FRAME_SIZE_ERROR),
    "goaway on a stream": (frame(GOAWAY, 0, 1, bytes(8)), Code.PROTOCOL_ERROR),
    "a grant of nothing": (frame(WINDOW_UPDATE, payload=bytes(4)), Code.PROTOCOL_ERROR),
    "a grant too large": (frame(WINDOW_UPDATE, payload=b"\x7f\xff\xff\xff"), Code.FLOW_CONTROL_ERROR),
    "a grant of 5 bytes": (frame(WINDOW_UPDATE, payload=bytes(5)), Code.FRAME_SIZE_ERROR),
    "a grant to an idle stream": (frame(WINDOW_UPDATE, 0, 1, b"\0\0\0\1"), Code.PROTOCOL_ERROR),
    "a continuation of nothing": (frame(CONTINUATION, END_HEADERS, 1, BLOCK), Code.PROTOCOL_ERROR),
    "something between continuations": (
        frame(HEADERS, 0, 1, BLOCK[:3]) + frame(PING, payload=bytes(8)),
        Code.PROTOCOL_ERROR,
    ),
    "a continuation on another stream": (
        frame(HEADERS, 0, 1, BLOCK[:3]) + frame(CONTINUATION, END_HEADERS, 3, BLOCK[3:]),
        Code.PROTOCOL_ERROR,
    ),
    "continuations without end": (
        frame(HEADERS, 0, 1, BLOCK) + 9 * frame(CONTINUATION, 0, 1, bytes(8192)),
        Code.ENHANCE_YOUR_CALM,
    ),
    "headers that unpack to very many": (
        frame(HEADERS, END_HEADERS, 1, b"\x40\x01a\x7f\xa1\x1e" + bytes(4000) + b"\xbe" * 100),
        Code.ENHANCE_YOUR_CALM,
    ),
    "an index that is not there": (frame(HEADERS, END_HEADERS, 1, b"\xfe"), Code.COMPRESSION_ERROR),
    "a field cut off": (frame(HEADERS, END_HEADERS, 1, b"\x40\x0aabc"), Code.COMPRESSION_ERROR),
    "more headers than may be in one frame": (
        frame(HEADERS, END_HEADERS, 1, BLOCK + b"\x20" * (1 << 16)),
        Code.ENHANCE_YOUR_CALM,
    ),
    "a table too large": (frame(HEADERS, END_HEADERS, 1, b"\x3f\xe1\xff\x03"), Code.COMPRESSION_ERROR),
    "a frame too large": ((1 << 20).to_bytes(3) + bytes(6), Code.FRAME_SIZE_ERROR),
}


@pytest.mark.parametrize("name", OF_CONNECTIONS)
def test_a_connection_that_breaks_the_rules_is_told_which_and_ends(client: Peer, name: str) -> None:
    """It cannot be known what the client means by what follows."""
    said, code = OF_CONNECTIONS[name]
    client.send(said)
    assert ended(client) == (1 if said.startswith(REQUEST) else 0, code)


@pytest.mark.parametrize(
    "said",
    [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", PREFACE + frame(PING, payload=bytes(8)), PREFACE + frame(4, ACK)],
    ids=["HTTP/1", "no settings", "an acknowledgement first"],
)
def test_who_does_not_begin_as_http2_does_is_sent_away(said: bytes) -> None:
    with peer() as client:
        client.send(said)
        assert ended(client) == (0, Code.PROTOCOL_ERROR)


OF_STREAMS = {
    "data after the end": (frame(DATA, END_STREAM, 1), Code.STREAM_CLOSED),
    "headers after the end": (frame(HEADERS, END_HEADERS | END_STREAM, 1, BLOCK), Code.STREAM_CLOSED),
    "a grant of nothing": (frame(WINDOW_UPDATE, 0, 1, bytes(4)), Code.PROTOCOL_ERROR),
    "a grant too large": (frame(WINDOW_UPDATE, 0, 1, b"\x7f\xff\xff\xff"), Code.FLOW_CONTROL_ERROR),
    "a priority of 4 bytes": (frame(PRIORITY, 0, 1, bytes(4)), Code.FRAME_SIZE_ERROR),
}


@pytest.mark.parametrize("name", OF_STREAMS)
def test_a_stream_that_breaks_the_rules_is_told_which_and_ends_alone(name: str) -> None:
    said, code = OF_STREAMS[name]
    begun, left = threading.Event(), threading.Event()

    def held(requests: Iterator[bytes], call: Call) -> Iterable[bytes]:
        assert call.on_end(left.set)
        begun.set()
        assert left.wait(20)
        yield b""

    with peer(held=Toy(held)) as client:
        client.hello()
        client.ask(1, "/held")
        assert begun.wait(20)
        client.send(said)
        assert client.answer(1).reset == code
        assert left.wait(20)
        assert client.is_alive()


@pytest.mark.parametrize(
    "bad",
    [
        fields("/once", {":path": ""}),
        [*fields("/once"), (":path", "/once")],
        [*fields("/once"), ("x", "y"), (":authority", "a")],
        [*fields("/once"), (":status", "200")],
        [*fields("/once"), ("Upper", "x")],
        [*fields("/once"), ("", "x")],
        [*fields("/once"), ("connection", "close")],
        [*fields("/once"), ("x", "a\r\nb")],
        fields("/once", {"te": "gzip"}),
        fields("/once", {":scheme": ""}),
    ],
    ids=str,
)
def test_a_malformed_request_is_refused_alone(client: Peer, bad: list[tuple[str, str]]) -> None:
    """The table of the connection has seen its headers, so others can still be read (8.1.1)."""
    client.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, client.encoder.encode(bad)))
    assert client.answer(1).reset == Code.PROTOCOL_ERROR
    client.ask(3, "/once", b"a")
    assert client.answer(3).data == message(b"a")


# --- floods, garbage, and pieces -------------------------------------------------------------------


def test_a_client_that_floods_and_does_not_read_is_not_read_either(client: Peer) -> None:
    """Answers to it are not kept anywhere: what it can send is what the sockets hold."""
    client.socket.setblocking(False)
    flood, sent = frame(PING, payload=bytes(8)) * 1000, 0
    quiet = 0
    while quiet < 20:
        try:
            sent += client.socket.send(flood[sent % 17 :])
            quiet = 0
        except BlockingIOError:
            quiet += 1
            time.sleep(0.01)
        assert sent < 1 << 24
    client.socket.settimeout(20)
    acks = 0
    for found in client.frames():
        acks += found.kind == PING
        if acks == sent // 17:
            break
    assert acks == sent // 17


def test_a_client_that_reads_nothing_for_long_loses_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be stopped, or may be about to fill what it finds."""
    monkeypatch.setattr(http2, "SEND_TIMEOUT", 1)
    done = threading.Event()

    def endless(requests: Iterator[bytes], call: Call) -> Iterable[bytes]:
        try:
            while True:
                yield bytes(100000)
        finally:
            done.set()

    with peer(endless=Toy(endless, gives_stream=True)) as client:
        client.hello(setting(INITIAL_WINDOW_SIZE, (1 << 31) - 1))
        client.ask(1, "/endless")
        assert done.wait(20)
        assert client.ended()[-1].kind == DATA


SCRIPT = [
    ("/once", b"abc"),
    ("/repeat-at-once", b"1 300"),
    ("/once", b""),
    ("/nothing", b"x"),
    ("/once", bytes(range(256))),
]


def script() -> bytes:
    """A client's bytes."""
    said, encoder = PREFACE + frame(SETTINGS), Encoder()
    for number, (path, data) in enumerate(SCRIPT):
        block = encoder.encode(fields(path))
        said += frame(HEADERS, 0, 2 * number + 1, block[:2])
        said += frame(CONTINUATION, END_HEADERS, 2 * number + 1, block[2:])
        said += frame(DATA, END_STREAM, 2 * number + 1, message(data))
    return said + frame(PING, payload=b"the last")


def told(chunks: Iterable[bytes]) -> list[Frame]:
    """What a server says to a client whose bytes come so."""
    with peer() as client:
        for chunk in chunks:
            client.send(chunk)
            while struct.unpack("i", fcntl.ioctl(client.socket, termios.TIOCOUTQ, bytes(4)))[0]:
                time.sleep(0)
        heard: list[Frame] = []
        for found in client.frames():
            heard.append(found)
            if found.kind == PING:
                break
        return heard


def test_where_the_bytes_are_cut_makes_no_difference() -> None:
    """Sockets cut anywhere; here once at every place."""
    said = script()
    whole = told([said])
    assert sum(found.kind == HEADERS for found in whole) == 2 * len(SCRIPT) - 1
    for at in range(1, len(said)):
        assert told([said[:at], said[at:]]) == whole


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(1, 40), min_size=1))
def test_how_often_the_bytes_are_cut_makes_no_difference(sizes: list[int]) -> None:
    said, at, chunks = script(), 0, []
    for size in sizes * len(said):
        if at < len(said):
            chunks.append(said[at : at + size])
            at += size
    assert told(chunks) == told([said])


FRAMES = st.builds(
    frame,
    st.integers(0, 11),
    st.integers(0, 255),
    st.integers(0, 7),
    st.one_of(st.binary(max_size=40), st.just(BLOCK), st.just(message(b"5 3")), st.just(bytes(4))),
)


@settings(deadline=None, max_examples=150)
@given(st.one_of(st.binary(max_size=200), st.lists(FRAMES, max_size=12).map(b"".join)), st.booleans())
def test_whatever_comes_neither_hangs_nor_breaks_the_server(garbage: bytes, begins_well: bool) -> None:
    """When the client hangs up, the connection ends; it fails the test if its thread fails."""
    with peer() as client:
        if begins_well:
            client.hello()
            client.ask(1, "/repeat-at-once", b"2 10")
        with suppress(OSError):  # it may have hung up first
            client.send(garbage)
            client.socket.shutdown(socket.SHUT_WR)
        with suppress(ConnectionResetError):
            client.ended()
