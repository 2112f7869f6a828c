"""gRPC over HTTP/2: messages, trailers, which thread answers; and a peer that watches the rules."""

from __future__ import annotations

import gc
import random
import select
import socket
import threading
import time
from collections.abc import Generator, Iterable, Iterator
from typing import Any
from urllib.parse import unquote

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest

from imgtool.errors import ImgtoolError, NotFound
from imgtool.serve.calls import Call
from imgtool.serve.frames import Code
from imgtool.serve.http2 import STREAMS_MAX
from imgtool.serve.rpc import MESSAGE_MAX, Requests
from imgtool.serve.streams import Gone

from .frames import (
    DATA,
    HEADERS,
    PING,
    RST_STREAM,
    SETTINGS,
    Peer,
    Toy,
    fields,
    frame,
    message,
    peer,
    repeated,
    setting,
)

INITIAL_WINDOW_SIZE = 4
UNIMPLEMENTED, RESOURCE_EXHAUSTED, INTERNAL, UNAVAILABLE = "12", "8", "13", "14"


@pytest.fixture
def client() -> Iterator[Peer]:
    with peer() as made:
        made.hello(setting(INITIAL_WINDOW_SIZE, 1 << 30))
        yield made


# --- what is sent ----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/once", "/pool"])
def test_an_answer_is_headers_messages_and_trailers(client: Peer, path: str) -> None:
    client.ask(1, path, b"abc")
    answer = client.answer(1)
    assert answer.head[":status"] == "200"
    assert answer.head["content-type"] == "application/grpc"
    assert answer.data == message(b"abc")
    assert answer.tail == {"grpc-status": "0"}


@pytest.mark.parametrize("path", ["/repeat", "/repeat-at-once"])
@pytest.mark.parametrize(("count", "size"), [(0, 0), (1, 0), (1, 70000), (2, 10), (40, 30000)])
def test_a_stream_of_answers_is_whole_whoever_sends_it(
    client: Peer, path: str, count: int, size: int
) -> None:
    """What the reading thread has begun is carried on by another, and none is lost or sent twice."""
    client.ask(1, path, b"%d %d" % (count, size))
    answer = client.answer(1)
    assert answer.data == repeated(count, size)
    assert answer.status == "0"


def test_an_error_is_told_in_the_trailers_alone() -> None:
    """Its message in printable characters, whatever it has in it."""
    text = "image 'é\n100%' \x7f~"

    def fail(requests: Iterator[bytes], call: Call) -> Iterable[bytes]:
        raise NotFound(text)

    with peer(fail=Toy(fail)) as client:
        client.hello()
        client.ask(1, "/fail")
        answer = client.answer(1)
    assert (answer.head, answer.data) == ({}, b"")
    assert (answer.tail[":status"], answer.status) == ("200", "5")
    assert answer.tail["grpc-message"].isascii()
    assert answer.tail["grpc-message"].isprintable()
    assert unquote(answer.tail["grpc-message"]) == f"{text}: not found"


@pytest.mark.parametrize("is_at_once", [True, False])
def test_an_error_after_some_messages_comes_after_them(is_at_once: bool) -> None:
    def fail(requests: Iterator[bytes], call: Call) -> Iterable[bytes]:
        yield b"a"
        raise NotFound("b")

    with peer(fail=Toy(fail, gives_stream=True, is_at_once=is_at_once)) as client:
        client.hello()
        client.ask(1, "/fail")
        answer = client.answer(1)
    assert (answer.head[":status"], answer.data, answer.status) == ("200", message(b"a"), "5")


def test_an_answer_that_no_client_takes_is_not_sent(client: Peer) -> None:
    client.ask(1, "/repeat", b"1 %d" % (MESSAGE_MAX + 1))
    answer = client.answer(1)
    assert (answer.data, answer.status) == (b"", RESOURCE_EXHAUSTED)


# --- what comes ------------------------------------------------------------------------------------


def test_messages_may_be_cut_and_joined_anywhere(client: Peer) -> None:
    """Frames and messages have nothing to do with each other."""
    sent = message(b"") + message(b"abc") + message(bytes(1000)) + message(b"d")
    for at in range(0, len(sent), 3):
        client.open(2 * at + 1, "/each")
        client.data(2 * at + 1, sent[:at])
        client.data(2 * at + 1, sent[at:], end=True)
        assert client.answer(2 * at + 1).data == sent


@pytest.mark.parametrize("path", ["/once", "/pool", "/sum", "/each"])
@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"\1" + message(b"abc")[1:], UNIMPLEMENTED),
        (b"\0" + (MESSAGE_MAX + 1).to_bytes(4), RESOURCE_EXHAUSTED),
        (message(b"abc")[:-1], INTERNAL),
        (b"\0\0", INTERNAL),
    ],
    ids=["compressed", "too large", "cut off", "no length"],
)
def test_a_message_that_cannot_be_taken_is_an_error(client: Peer, path: str, sent: bytes, code: str) -> None:
    client.open(1, path)
    client.data(1, sent, end=True)
    answer = client.answer(1)
    assert (answer.data, answer.status) == (b"", code)
    assert client.is_alive()


def test_a_message_that_is_too_large_is_refused_before_it_comes(client: Peer) -> None:
    """Nor does the client have to end its request for it."""
    client.open(1, "/once")
    client.data(1, b"\0" + (MESSAGE_MAX + 1).to_bytes(4))
    assert client.answer(1).status == RESOURCE_EXHAUSTED


@pytest.mark.parametrize("path", ["/once", "/pool"])
@pytest.mark.parametrize("sent", [b"", message(b"a") + message(b"b")], ids=["none", "two"])
def test_where_one_message_is_asked_for_it_is_one(client: Peer, path: str, sent: bytes) -> None:
    client.open(1, path)
    client.data(1, sent, end=True)
    answer = client.answer(1)
    assert (answer.data, answer.status) == (b"", UNIMPLEMENTED)


def test_a_call_that_ends_with_its_headers_has_no_message(client: Peer) -> None:
    client.open(1, "/once", end=True)
    assert client.answer(1).status == UNIMPLEMENTED
    client.open(3, "/sum", end=True)
    assert client.answer(3).data == message(b"0")


def test_a_call_that_the_client_has_ended_is_not_reset(client: Peer) -> None:
    """It may have ended with its headers, and be answered before anything else is looked at."""
    client.open(1, "/nothing", end=True)
    client.ask(3, "/once")
    client.send(frame(PING, payload=bytes(8)))
    kinds = []
    for found in client.frames():
        kinds.append(found.kind)
        if found.kind == PING:
            break
    assert kinds.count(HEADERS) == 3
    assert RST_STREAM not in kinds


def test_a_method_that_is_not_there_is_told_at_once(client: Peer) -> None:
    client.open(1, "/absent")
    answer = client.answer(1)
    assert (answer.status, answer.tail["grpc-message"]) == (UNIMPLEMENTED, "no such toy: not implemented")


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({"content-type": "application/json"}, "415"),
        ({"content-type": ""}, "415"),
        ({"content-type": "application/grpc-web"}, "415"),
        ({":method": "GET"}, "405"),
    ],
    ids=str,
)
def test_what_is_no_call_gets_the_answer_of_http(client: Peer, more: dict[str, str], status: str) -> None:
    client.ask(1, "/once", b"a", more)
    assert client.answer(1).tail == {":status": status}
    for number, kind in ((3, "application/grpc+proto"), (5, "application/grpc;x=y")):
        client.ask(number, "/once", b"a", {"content-type": kind})
        assert client.answer(number).status == "0"


@pytest.mark.parametrize(("timeout", "is_late"), [("20m", True), ("1H", False), ("", False), ("soon", False)])
def test_nobody_waits_for_a_call_whose_time_is_over(timeout: str, is_late: bool) -> None:
    def look(requests: Iterator[bytes], call: Call) -> Iterable[bytes]:
        patience = time.monotonic() + 0.5
        while call.is_active() and time.monotonic() < patience:
            time.sleep(0.01)
        yield b"early" if call.is_active() else b"late"

    with peer(look=Toy(look)) as client:
        client.hello()
        client.ask(1, "/look", b"", {"grpc-timeout": timeout})
        assert client.answer(1).data == message(b"late" if is_late else b"early")


# --- which thread ----------------------------------------------------------------------------------


def test_only_what_is_marked_is_answered_by_the_thread_that_reads() -> None:
    """What waits would keep it from everything else."""
    seen: dict[str, str] = {}

    def note(name: str) -> Any:
        def answer(requests: Iterator[bytes], call: Call) -> Iterable[bytes]:
            seen[name] = threading.current_thread().name
            yield b"a"
            seen[f"{name} later"] = threading.current_thread().name
            yield b"b"
            seen[f"{name} last"] = threading.current_thread().name
            yield b"c"

        return answer

    marked = Toy(note("marked"), gives_stream=True, is_at_once=True)
    with peer(marked=marked, other=Toy(note("other"), gives_stream=True)) as client:
        client.hello()
        client.ask(1, "/marked")
        assert client.answer(1).data == message(b"a") + message(b"b") + message(b"c")
        client.ask(3, "/other")
        assert client.answer(3).status == "0"
    reading = seen["marked"]
    assert seen["marked later"] == reading
    assert reading not in (seen["marked last"], seen["other"], seen["other later"])


def test_calls_that_wait_do_not_keep_others_from_being_answered() -> None:
    """As many as there are threads; what needs none goes on."""
    go_on = threading.Event()

    def held(requests: Iterator[bytes], call: Call) -> Iterable[bytes]:
        assert go_on.wait(30)
        yield next(requests)

    with peer(threads=2, held=Toy(held)) as client:
        client.hello()
        for number in (1, 3, 5):
            client.ask(number, "/held", b"x")
        client.ask(7, "/once", b"a")
        assert client.answer(7).data == message(b"a")
        go_on.set()
        came = {client.until(DATA).number for _ in range(3)}
    assert came == {1, 3, 5}


def test_a_call_that_was_given_up_while_it_waited_for_a_thread_is_not_begun() -> None:
    """It would be work for nobody."""
    go_on = threading.Event()
    begun: list[bytes] = []

    def held(requests: Iterator[bytes], call: Call) -> Iterable[bytes]:
        begun.append(next(requests))
        assert go_on.wait(30)
        yield begun[-1]

    with peer(threads=1, held=Toy(held)) as client:
        client.hello()
        for number in (1, 3, 5):
            client.ask(number, "/held", b"%d" % number)
        client.send(frame(RST_STREAM, 0, 3, (8).to_bytes(4)))
        assert client.is_alive()
        go_on.set()
        assert client.answer(5).data == message(b"5")
    assert begun == [b"1", b"5"]


def test_a_call_that_was_given_up_while_it_waited_for_a_thread_is_not_kept() -> None:
    """Whoever opens and resets would fill the memory, or be refused for what is of no use any more."""
    begun, go_on = threading.Event(), threading.Event()

    def held(requests: Iterator[bytes], call: Call) -> Iterable[bytes]:
        begun.set()
        assert go_on.wait(30)
        yield next(requests)

    gc.collect()
    before = len(requests())
    with peer(threads=1, held=Toy(held)) as client:
        client.hello()
        client.ask(1, "/held")
        assert begun.wait(20)
        for number in range(3, 6 * STREAMS_MAX, 2):
            client.ask(number, ["/pool", "/sum"][number // 2 % 2], bytes(1000))
            client.send(frame(RST_STREAM, 0, number, (8).to_bytes(4)))
        client.ask(6 * STREAMS_MAX + 1, "/once", b"a")
        assert client.answer(6 * STREAMS_MAX + 1).data == message(b"a")
        assert len(requests()) - before <= 3
        go_on.set()


def test_a_call_whose_time_is_over_before_a_thread_is_free_is_not_begun() -> None:
    """Its client does not wait for it any more."""
    begun, go_on = threading.Semaphore(0), threading.Event()

    def held(requests: Iterator[bytes], call: Call) -> Iterable[bytes]:
        begun.release()
        assert go_on.wait(30)
        yield next(requests)

    with peer(threads=1, held=Toy(held)) as client:
        client.hello()
        client.ask(1, "/held", b"a")
        assert begun.acquire(timeout=20)
        client.ask(3, "/held", b"b", {"grpc-timeout": "1m"})
        assert client.is_alive()
        time.sleep(0.01)
        go_on.set()
        assert client.answer(3).reset == Code.CANCEL
        assert not begun.acquire(blocking=False)


class Opened:
    """A method that is answered at once, and holds something while it is."""

    def __init__(self) -> None:
        self.now = 0
        self.ever = 0

    def __call__(self, requests: Iterator[bytes], call: Call) -> Iterable[bytes]:
        size = int(next(requests))
        self.now += 1
        self.ever += 1
        try:
            for _ in range(3):
                yield bytes(size)
        finally:
            self.now -= 1


@pytest.mark.parametrize(("window", "size"), [(0, 1), (0xFFFF, 1 << 17), (1 << 20, 10)])
def test_what_waits_for_a_thread_holds_nothing_open(window: int, size: int) -> None:
    """A client that takes nothing, or little, or asks for much would have the server open all it has."""
    begun, go_on = threading.Event(), threading.Event()

    def held(requests: Iterator[bytes], call: Call) -> Iterable[bytes]:
        begun.set()
        assert go_on.wait(30)
        yield next(requests)

    opened = Opened()
    with peer(threads=1, held=Toy(held), read=Toy(opened, gives_stream=True, is_at_once=True)) as client:
        client.hello(setting(INITIAL_WINDOW_SIZE, window))
        client.ask(1, "/held", b"")
        assert begun.wait(20)
        for number in range(3, 43, 2):
            client.ask(number, "/read", b"%d" % size)
        assert client.is_alive()
        assert opened.now == 0
        assert opened.ever == (20 if window else 0)
        client.send(frame(SETTINGS, payload=setting(INITIAL_WINDOW_SIZE, 1 << 20)))
        go_on.set()
        done: dict[int, int] = {}
        for found in client.frames():
            done[found.number] = done.get(found.number, 0) + len(found.payload) * (found.kind == DATA)
            if sum(done.values()) == 20 * 3 * (size + 5) + 5:
                break
    assert {done[number] for number in range(3, 43, 2)} == {3 * (size + 5)}


def test_what_is_begun_is_closed_at_once_when_its_client_is_gone() -> None:
    """It is held open until a thread takes it up, which may be never."""
    opened = Opened()
    stuck, go_on = threading.Semaphore(0), threading.Event()

    def held(requests: Iterator[bytes], call: Call) -> Iterable[bytes]:
        stuck.release()
        assert go_on.wait(30)
        yield next(requests)

    with peer(threads=2, held=Toy(held), read=Toy(opened, gives_stream=True, is_at_once=True)) as client:
        client.hello(setting(INITIAL_WINDOW_SIZE, 1 << 20))
        client.ask(1, "/read", b"%d" % (1 << 20))
        client.until(DATA)
        assert opened.now == 1
        client.send(frame(RST_STREAM, 0, 1, (8).to_bytes(4)))
        assert client.is_alive()
        patience = time.monotonic() + 20
        while opened.now:
            assert time.monotonic() < patience
            time.sleep(0.01)


def test_where_the_system_has_no_more_threads_those_that_are_there_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And where there is none the client is told that it may try again."""
    begun, go_on = threading.Event(), threading.Event()

    def held(requests: Iterator[bytes], call: Call) -> Iterable[bytes]:
        begun.set()
        assert go_on.wait(30)
        yield next(requests)

    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    opened = Opened()
    with peer(held=Toy(held), read=Toy(opened, gives_stream=True, is_at_once=True)) as client:
        client.hello()
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", fail)
            client.ask(1, "/pool", b"a")
            assert client.answer(1).status == UNAVAILABLE
        client.ask(3, "/held", b"b")
        assert begun.wait(20)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", fail)
            client.ask(5, "/pool", b"c")
            client.ask(7, "/read", b"1")
            assert client.is_alive()
        assert (opened.now, opened.ever) == (0, 1)
        go_on.set()
        assert client.answer(5).data == message(b"c")
        assert client.answer(7).data == message(bytes(1)) * 3


class Faulty:
    """A method that fails where none should."""

    takes_stream = gives_stream = False

    def __init__(self, is_at_once: bool, fault: BaseException) -> None:
        self.is_at_once = is_at_once
        self.fault = fault

    def answers(self, requests: Iterator[bytes], call: Call) -> Generator[bytes, None, None]:
        yield next(requests)

    def ended(self, error: Exception | None) -> ImgtoolError | None:
        raise self.fault


@pytest.mark.parametrize("is_at_once", [True, False])
@pytest.mark.parametrize("fault", [KeyError("log"), MemoryError(), SystemExit()], ids=repr)
def test_a_fault_in_the_machinery_is_told_and_ends_the_call_alone(
    is_at_once: bool, fault: BaseException
) -> None:
    """The client must not take it for a cancellation of its own."""
    with peer(faulty=Faulty(is_at_once, fault)) as client:
        client.hello()
        for number in (1, 3):
            client.ask(number, "/faulty", b"x")
            assert client.answer(number).reset == Code.INTERNAL_ERROR
        client.ask(5, "/once", b"a")
        assert client.answer(5).data == message(b"a")
    assert client.warned == [f"a call failed: {type(fault).__name__}: {fault}"] * 2


@pytest.mark.parametrize("is_at_once", [True, False])
def test_a_call_that_nobody_waits_for_is_told_to_its_method_too(is_at_once: bool) -> None:
    """Each has its line in the log."""
    told: list[Exception | None] = []

    class Told(Faulty):
        def ended(self, error: Exception | None) -> ImgtoolError | None:
            told.append(error)
            return None

    with peer(told=Told(is_at_once, SystemExit())) as client:
        client.hello()
        client.open(1, "/told")
        client.send(frame(RST_STREAM, 0, 1, (8).to_bytes(4)))
        assert client.is_alive()
    assert [type(error) for error in told] == [Gone]


def test_an_unread_request_is_kept_for_its_method_when_the_client_is_gone() -> None:
    """What a client has sent of a write before it died is worth keeping."""
    got: list[int] = []
    begun, go_on, done = threading.Event(), threading.Event(), threading.Event()

    def held(requests: Iterator[bytes], call: Call) -> Iterable[bytes]:
        begun.set()
        assert go_on.wait(30)
        try:
            for request in requests:
                got.append(len(request))
        finally:
            done.set()
        yield b""

    with peer(held=Toy(held, takes_stream=True)) as client:
        client.hello()
        client.open(1, "/held")
        client.data(1, message(b"abc") + message(b"de") + b"\0\0")
        assert begun.wait(20)
        assert client.is_alive()
        client.socket.shutdown(socket.SHUT_RDWR)
        go_on.set()
        assert done.wait(20)
    assert got == [3, 2]


def requests() -> set[Requests]:
    """All that there are."""
    return {one for one in gc.get_objects() if isinstance(one, Requests)}


@pytest.mark.parametrize("path", ["/pool", "/sum", "/once", "/absent"])
def test_nothing_of_a_call_is_kept_when_it_is_done(path: str) -> None:
    """Half a message has up to 16 MiB, and Python looks for cycles when it likes."""
    gc.collect()
    before = requests()
    gc.disable()
    try:
        with peer() as client:
            client.hello()
            client.open(1, path)
            client.data(1, message(bytes(1000))[:-1])
            client.send(frame(RST_STREAM, 0, 1, (8).to_bytes(4)))
            client.ask(3, path, b"a")
            assert client.answer(3).status in {"0", UNIMPLEMENTED}
            patience = time.monotonic() + 5
            while requests() - before:
                assert time.monotonic() < patience
                time.sleep(0.01)
    finally:
        gc.enable()


# --- a library as client ---------------------------------------------------------------------------


class Library:
    """A client made of h2, which fails on what a server must not do; its windows are small."""

    def __init__(self, client: Peer, rng: random.Random, window: int) -> None:
        self.socket = client.socket
        self.rng = rng
        self.state = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self.state.local_settings = h2.settings.Settings(
            client=True,
            initial_values={
                h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window,
                h2.settings.SettingCodes.HEADER_TABLE_SIZE: rng.choice([0, 4096]),
            },
        )
        self.state.initiate_connection()
        self.unsent: dict[int, bytes] = {}
        self.came: dict[int, bytes] = {}
        self.tails: dict[int, dict[str, str]] = {}

    def ask(self, path: str, data: bytes) -> int:
        number = int(self.state.get_next_available_stream_id())
        self.state.send_headers(number, fields(path))
        self.unsent[number] = data
        self.came[number] = b""
        return number

    def run(self) -> None:
        """Until all is answered. It reads whatever it has to send."""
        said = b""
        while said or len(self.tails) < len(self.came):
            for number in list(self.unsent):
                self._go_on(number)
            said += self.state.data_to_send()
            may_read, may_write, _ = select.select([self.socket], [self.socket] if said else [], [], 20)
            assert may_read or may_write, "the server is silent"
            if may_read:
                heard = self.socket.recv(self.rng.choice([1, 100, 1 << 16]))
                assert heard, "the server has hung up"
                for event in self.state.receive_data(heard):
                    self._told(event)
            if may_write:
                said = said[self.socket.send(said, socket.MSG_DONTWAIT) :]

    def _go_on(self, number: int) -> None:
        data = self.unsent[number]
        room = self.state.local_flow_control_window(number)
        size = min(len(data), room, self.state.max_outbound_frame_size, self.rng.choice([1, 999, 1 << 18]))
        if size or not data:
            self.state.send_data(number, data[:size], end_stream=size == len(data))
            self.unsent[number] = data[size:]
            if size == len(data):
                del self.unsent[number]

    def _told(self, event: object) -> None:
        match event:
            case h2.events.DataReceived():
                assert event.stream_id is not None
                assert event.flow_controlled_length is not None
                assert event.data is not None
                self.came[event.stream_id] += event.data
                self.state.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case h2.events.ResponseReceived() | h2.events.TrailersReceived():
                assert event.stream_id is not None
                assert event.headers is not None
                found = {_text(name): _text(value) for name, value in event.headers}
                if "grpc-status" in found:
                    self.tails[event.stream_id] = found
            case h2.events.RemoteSettingsChanged() if self.rng.random() < 0.5:
                self.state.ping(b"whatever")
            case h2.events.StreamReset() | h2.events.ConnectionTerminated():
                raise AssertionError(event)


def _text(part: bytes | str) -> str:
    return part if isinstance(part, str) else part.decode()


@pytest.mark.parametrize("sizes", [(1024,), (0,), (8192, 100), (8192, 4096, 2000, 4096)], ids=str)
def test_a_table_for_headers_that_is_made_smaller_is_acknowledged(sizes: tuple[int, ...]) -> None:
    """At the beginning of the next block, or the library takes it for an error (RFC 7541, 4.2)."""
    with peer() as client:
        library = Library(client, random.Random(1), 1 << 16)
        for size in sizes:
            library.state.update_settings({h2.settings.SettingCodes.HEADER_TABLE_SIZE: size})
        for path in ("/pool", "/once", "/pool"):
            library.ask(path, message(b"x"))
            library.run()
        assert {tail["grpc-status"] for tail in library.tails.values()} == {"0"}


@pytest.mark.parametrize("window", [1, 777, 1 << 16, 1 << 22])
def test_a_hundred_streams_at_once_are_each_answered_right(window: int) -> None:
    """Of every kind, on one connection; the library keeps account of every window."""
    rng = random.Random(window)
    most = min(window * 40, 150000)
    with peer() as client:
        library = Library(client, rng, window)
        expected = {}
        for _ in range(100):
            path = rng.choice(["/once", "/pool", "/each", "/repeat", "/repeat-at-once", "/sum"])
            size = rng.randrange(most)
            if path.startswith("/repeat"):
                count = rng.randrange(4)
                sent, told = message(b"%d %d" % (count, size // 4)), repeated(count, size // 4)
            elif path == "/sum":
                sent, told = message(bytes(size)) + message(b"x"), message(b"%d" % (size + 1))
            else:
                sent = told = message(rng.randbytes(size))
            expected[library.ask(path, sent)] = told
        library.run()
        assert library.came == expected
        assert {tail["grpc-status"] for tail in library.tails.values()} == {"0"}


def test_an_upload_of_many_windows_passes_the_library() -> None:
    """Those of the stream and of the connection."""
    with peer() as client:
        library = Library(client, random.Random(1), 1 << 16)
        number = library.ask("/sum", message(bytes(1 << 20)) * 40)
        library.run()
        assert library.came[number] == message(b"%d" % (40 << 20))
