"""HTTP/2 (RFC 9113), the server's side of one connection. What the streams carry is not known here.

One thread reads, `Connection.run`, and tells the receiver of each stream what comes for it. Any thread may
answer. Whoever writes holds the connection's lock meanwhile: so a peer that does not read is not read from
either, and nothing piles up. The constants below bound the frames, windows and streams of a connection: a
stream that its peer has given up counts until whoever answers it has noticed. What is made of the data is
for the receivers to bound.
"""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from io import BufferedReader, RawIOBase
from socket import MSG_DONTWAIT, SHUT_RDWR, SO_SNDTIMEO, SOL_SOCKET, socket
from typing import TYPE_CHECKING, NamedTuple

from hpack import HPACKError, OversizedHeaderListError

from imgtool.serve.frames import (
    ACK,
    CONTINUATION,
    ENABLE_PUSH,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEAD,
    HEADER_TABLE_SIZE,
    INITIAL_WINDOW_SIZE,
    LONG,
    MAX_CONCURRENT_STREAMS,
    MAX_FRAME_SIZE,
    MAX_HEADER_LIST_SIZE,
    PADDED,
    PING,
    RST_STREAM,
    SETTING,
    SETTINGS,
    WINDOW_UPDATE,
    WITH_PRIORITY,
    Code,
    frame,
)
from imgtool.serve.headers import HEADERS_MAX, Unpacker
from imgtool.serve.streams import WINDOW, Gone, Receiver, Stream

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
STREAMS_MAX = 128
CONNECTION_WINDOW = 1 << 24
FRAME_MAX = 1 << 18
SEND_TIMEOUT = 30  # seconds in which a peer reads nothing, and then loses the connection

_HIGHEST = (1 << 31) - 1  # of windows and stream ids


class _Fault(Exception):
    """The peer's, of the whole connection."""

    def __init__(self, code: Code, text: str = "") -> None:
        super().__init__(text)
        self.code = code


class _StreamFault(_Fault):
    """The peer's, of one stream."""


class Connection:
    """One client. `lock`, `window`, `frame_max` and what is told to need the lock are for streams.

    Args:
        socket: connected; the connection closes it.
        opened: makes the receiver of a stream that begins. It must not wait for anybody.
    """

    def __init__(self, socket: socket, opened: Callable[[Stream], Receiver]) -> None:
        self.lock = threading.Lock()
        self.changed = threading.Condition(self.lock)  # windows, and whether streams are there
        self.window = 0xFFFF  # bytes that the peer takes, of all streams
        self.frame_max = 1 << 14
        self._stream_window = 0xFFFF
        self._before_block = b""  # of headers, the next that is written
        self._table_max = 4096  # bytes, which the peer keeps for our headers
        self._socket = socket
        self._opened = opened
        self._streams: dict[int, Stream] = {}
        self._last = 0
        self._later = bytearray()  # goes along with the next that is written
        self._has_begun = False
        self._is_leaving = False
        self._is_lost = False
        self._ungranted = 0  # bytes that came and are not given back to the window of all streams
        self._block: tuple[int, int, bytearray] | None = None  # of headers, which is continued
        self._unpacker = Unpacker()

    def run(self) -> None:
        """Read until the peer is gone, has broken the rules, or `close` is called."""
        try:
            self._socket.settimeout(None)
            self._socket.setsockopt(SOL_SOCKET, SO_SNDTIMEO, struct.pack("@ll", SEND_TIMEOUT, 0))
            with self.lock:
                self._has_begun = True
                self.write(_OURS)
                if self._is_leaving:
                    self._go_away(Code.NO_ERROR)
            self._read()
        except _Fault as fault:
            with self.lock:
                self._go_away(fault.code, str(fault))
        except (Gone, OSError):
            pass
        finally:
            try:
                self.close()
                with self.lock:
                    streams = list(self._streams.values())
                for stream in streams:
                    stream.lose()
            finally:
                with self.lock:  # nobody writes to what may be another's descriptor by then
                    self._socket.close()

    def leave(self, timeout: float) -> bool:
        """Take no more streams; those that are there go on. False where the peer cannot be told, since it
        reads nothing just now: to be repeated. `timeout` is for an answer that is being written.
        """
        if not self.lock.acquire(timeout=timeout):
            return False
        try:
            if not self._is_leaving and (not self._has_begun or self._go_away(Code.NO_ERROR)):
                self._is_leaving = True
            return self._is_leaving
        finally:
            self.lock.release()

    def wait(self, timeout: float) -> None:
        """Until no stream is there."""
        deadline = time.monotonic() + timeout
        if self.lock.acquire(timeout=timeout):
            try:
                self.changed.wait_for(lambda: not self._streams, max(deadline - time.monotonic(), 0))
            finally:
                self.lock.release()

    def close(self) -> None:
        """End it now."""
        self._is_lost = True
        with suppress(OSError):
            self._socket.shutdown(SHUT_RDWR)

    def write(self, frames: bytes | bytearray) -> None:
        """For who has the lock.

        Raises:
            Gone: there is no peer any more.
        """
        if self._later:
            frames = self._later + frames
            self._later.clear()
        try:
            if not self._is_lost:
                self._socket.sendall(frames)
        except OSError:
            self._is_lost = True
        if self._is_lost:
            self.close()
            raise Gone

    def block(self, packed: bytes) -> bytes:
        """For who has the lock: the block of headers as it is to be written next."""
        before, self._before_block = self._before_block, b""
        return before + packed

    def flush(self) -> None:
        """Write what was put off."""
        if self._later:
            with self.lock:
                self.write(b"")

    def reset(self, number: int, code: Code) -> None:
        """For who has the lock: tell the peer that a stream has ended before its time."""
        with suppress(Gone):
            self.write(frame(RST_STREAM, 0, number, LONG.pack(code)))

    def forget(self, stream: Stream) -> None:
        """For who has the lock: it is done with."""
        self._streams.pop(stream.number, None)
        if self._is_leaving:
            self.changed.notify_all()

    # --- what comes --------------------------------------------------------------------------------

    def _read(self) -> None:
        with BufferedReader(_Source(self._socket, self.flush), FRAME_MAX) as file:
            read = file.read
            if read(len(PREFACE)) != PREFACE:
                raise _Fault(Code.PROTOCOL_ERROR, "no preface")
            is_first = True
            while len(head := read(HEAD.size)) == HEAD.size:
                high, low, kind, flags, number = HEAD.unpack(head)
                size = high << 8 | low
                if size > FRAME_MAX:
                    raise _Fault(Code.FRAME_SIZE_ERROR, f"a frame of {size} bytes")
                if len(payload := read(size)) < size:
                    return
                if is_first and (kind != SETTINGS or flags & ACK):
                    raise _Fault(Code.PROTOCOL_ERROR, "no settings")
                is_first = False
                self._frame(kind, flags, number & _HIGHEST, payload)

    def _frame(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if self._block is not None and (kind != CONTINUATION or number != self._block[0]):
            raise _Fault(Code.PROTOCOL_ERROR, "a block of headers is not continued")
        if kind >= len(_RULES):
            return
        rule = _RULES[kind]
        if rule.is_of_stream not in (None, bool(number)):
            raise _Fault(Code.PROTOCOL_ERROR, f"frame type {kind} on stream {number}")
        if rule.size not in (None, len(payload)):
            raise _Fault(Code.FRAME_SIZE_ERROR, f"frame type {kind} of {len(payload)} bytes")
        try:
            rule.take(self, flags, number, payload)
        except _StreamFault as fault:
            if stream := self._streams.get(number):
                stream.lose(fault.code)
            else:
                with self.lock:
                    self.reset(number, fault.code)

    def _data(self, flags: int, number: int, payload: bytes) -> None:
        stream, size = self._known(number), len(payload)
        self._ungranted += size
        if self._ungranted > CONNECTION_WINDOW:
            raise _Fault(Code.FLOW_CONTROL_ERROR, "more than the connection's window")
        if self._ungranted >= CONNECTION_WINDOW // 2:
            with self.lock:
                self.write(frame(WINDOW_UPDATE, 0, 0, LONG.pack(self._ungranted)))
            self._ungranted = 0
        data = _without_padding(flags, payload)
        if stream is None or not stream.is_open:
            return
        if stream.has_ended:
            raise _StreamFault(Code.STREAM_CLOSED)
        with self.lock:
            stream.unread += size
            if stream.unread > WINDOW:
                raise _StreamFault(Code.FLOW_CONTROL_ERROR)
        if len(data) < size:
            stream.consumed(size - len(data))
        if data:
            stream.receiver.data(data)
        if flags & END_STREAM:
            self._end(stream)

    def _headers(self, flags: int, number: int, payload: bytes) -> None:
        block = _without_padding(flags, payload)
        if flags & WITH_PRIORITY:
            if len(block) < 5:
                raise _Fault(Code.FRAME_SIZE_ERROR, "no room for a priority")
            block = block[5:]
        if flags & END_HEADERS:
            self._request(flags, number, block)
        else:
            self._block = number, flags, bytearray(block)

    def _continuation(self, flags: int, number: int, payload: bytes) -> None:
        if self._block is None:
            raise _Fault(Code.PROTOCOL_ERROR, "nothing is continued")
        _, first, block = self._block
        block += payload
        if len(block) > HEADERS_MAX:
            raise _Fault(Code.ENHANCE_YOUR_CALM, "too many headers")
        if flags & END_HEADERS:
            self._block = None
            self._request(first, number, bytes(block))

    def _request(self, flags: int, number: int, block: bytes) -> None:
        """Headers of a request, or what ends one."""
        if len(block) > HEADERS_MAX:
            raise _Fault(Code.ENHANCE_YOUR_CALM, "too many headers")
        try:
            headers = self._unpacker.unpack(block)
        except OversizedHeaderListError:
            raise _Fault(Code.ENHANCE_YOUR_CALM, "too many headers") from None
        except HPACKError as error:
            raise _Fault(Code.COMPRESSION_ERROR, str(error)) from None
        is_end = bool(flags & END_STREAM)
        if stream := self._streams.get(number):
            if stream.has_ended:
                raise _StreamFault(Code.STREAM_CLOSED)
            if not is_end:
                raise _StreamFault(Code.PROTOCOL_ERROR)
            if stream.is_open:
                self._end(stream)
            return
        if number % 2 == 0:
            raise _Fault(Code.PROTOCOL_ERROR, f"stream {number} is not a client's")
        if number <= self._last:
            if is_end:  # of one that was answered before
                return
            raise _Fault(Code.STREAM_CLOSED, f"stream {number} has been")
        with self.lock:
            if self._is_leaving:
                return
            self._last = number
            if len(self._streams) >= STREAMS_MAX:
                raise _StreamFault(Code.REFUSED_STREAM)
            if headers is None:
                raise _StreamFault(Code.PROTOCOL_ERROR)
            stream = self._streams[number] = Stream(self, number, headers, self._stream_window)
            stream.has_ended = is_end
        receiver = self._opened(stream)
        with self.lock:
            if stream.is_open:
                stream.receiver = receiver
        if is_end and stream.is_open:
            stream.receiver.end()

    def _end(self, stream: Stream) -> None:
        stream.has_ended = True
        stream.receiver.end()

    def _priority(self, flags: int, number: int, payload: bytes) -> None:
        """Whoever can be answered is."""
        if len(payload) != 5:
            raise _StreamFault(Code.FRAME_SIZE_ERROR)

    def _rst_stream(self, flags: int, number: int, payload: bytes) -> None:
        if stream := self._known(number):
            stream.lose()

    def _settings(self, flags: int, number: int, payload: bytes) -> None:
        if flags & ACK:
            if payload:
                raise _Fault(Code.FRAME_SIZE_ERROR, "an acknowledgement with settings")
            return
        if len(payload) % SETTING.size:
            raise _Fault(Code.FRAME_SIZE_ERROR, f"settings of {len(payload)} bytes")
        with self.lock:
            for name, value in SETTING.iter_unpack(payload):
                self._set(name, value)
            self.write(frame(SETTINGS, ACK, 0))
            self.changed.notify_all()

    def _set(self, name: int, value: int) -> None:
        if name == INITIAL_WINDOW_SIZE:
            if value > _HIGHEST:
                raise _Fault(Code.FLOW_CONTROL_ERROR, f"a window of {value}")
            for stream in self._streams.values():
                stream.window += value - self._stream_window
                if stream.window > _HIGHEST:
                    raise _Fault(Code.FLOW_CONTROL_ERROR, f"the window of stream {stream.number} overflows")
            self._stream_window = value
        elif name == HEADER_TABLE_SIZE and value < self._table_max:
            # We use no table. That is to be said once (RFC 7541, 4.2): from then on it has no bytes.
            self._before_block = b"\x20"
            self._table_max = 0
        elif name == MAX_FRAME_SIZE:
            if not 1 << 14 <= value < 1 << 24:
                raise _Fault(Code.PROTOCOL_ERROR, f"frames of at most {value} bytes")
            self.frame_max = value
        elif name == ENABLE_PUSH and value > 1:
            raise _Fault(Code.PROTOCOL_ERROR, f"push is {value}")

    def _push_promise(self, flags: int, number: int, payload: bytes) -> None:
        raise _Fault(Code.PROTOCOL_ERROR, "a client promises")

    def _ping(self, flags: int, number: int, payload: bytes) -> None:
        if not flags & ACK:
            with self.lock:
                self._later += frame(PING, ACK, 0, payload)

    def _goaway(self, flags: int, number: int, payload: bytes) -> None:
        """What is there goes on; the peer closes the connection."""

    def _window_update(self, flags: int, number: int, payload: bytes) -> None:
        size = LONG.unpack(payload)[0] & _HIGHEST
        target = self._known(number) if number else self
        fault = _StreamFault if number else _Fault
        if not size:
            raise fault(Code.PROTOCOL_ERROR, "a window grows by nothing")
        if target is None:
            return
        with self.lock:
            target.window += size
            if target.window > _HIGHEST:
                raise fault(Code.FLOW_CONTROL_ERROR, "a window overflows")
            self.changed.notify_all()

    def _known(self, number: int) -> Stream | None:
        """None for one that has been."""
        if (number > self._last and not self._is_leaving) or number % 2 == 0:
            raise _Fault(Code.PROTOCOL_ERROR, f"stream {number} is idle")
        return self._streams.get(number)

    def _go_away(self, code: Code, text: str = "") -> bool:
        """For who has the lock: tell the peer; False where that cannot be done at once."""
        reason = LONG.pack(self._last) + LONG.pack(code) + text.encode()
        said = self._later + frame(GOAWAY, 0, 0, reason)
        try:
            sent = self._socket.send(said, MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            sent = 0
        self._later.clear()
        if sent < len(said):  # nothing can follow the half of a frame
            self.close()
        return True


class _Source(RawIOBase):
    """What a connection reads from.

    Args:
        socket: connected.
        before: called before it is waited for more.
    """

    def __init__(self, socket: socket, before: Callable[[], None]) -> None:
        self._socket = socket
        self._before = before

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        self._before()
        return self._socket.recv_into(buffer)


class _Rule(NamedTuple):
    """What holds for one type of frame."""

    take: Callable[[Connection, int, int, bytes], None]
    is_of_stream: bool | None = None  # or of the connection; None for either
    size: int | None = None  # of the payload, where it is fixed


_RULES = (  # by type
    _Rule(Connection._data, True),
    _Rule(Connection._headers, True),
    _Rule(Connection._priority, True),
    _Rule(Connection._rst_stream, True, 4),
    _Rule(Connection._settings, False),
    _Rule(Connection._push_promise, True),
    _Rule(Connection._ping, False, 8),
    _Rule(Connection._goaway, False),
    _Rule(Connection._window_update, size=4),
    _Rule(Connection._continuation, True),
)


def _without_padding(flags: int, payload: bytes) -> bytes:
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise _Fault(Code.PROTOCOL_ERROR, "more padding than frame")
    return payload[1 : len(payload) - payload[0]]


_OURS = frame(
    SETTINGS,
    0,
    0,
    b"".join(
        SETTING.pack(name, value)
        for name, value in (
            (MAX_CONCURRENT_STREAMS, STREAMS_MAX),
            (INITIAL_WINDOW_SIZE, WINDOW),
            (MAX_FRAME_SIZE, FRAME_MAX),
            (MAX_HEADER_LIST_SIZE, HEADERS_MAX),
        )
    ),
) + frame(WINDOW_UPDATE, 0, 0, LONG.pack(CONNECTION_WINDOW - 0xFFFF))
