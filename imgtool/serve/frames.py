"""Frames of HTTP/2 on the wire (RFC 9113, 4 to 7): types, flags, settings, codes, and how one is written."""

from __future__ import annotations

import struct
from enum import IntEnum

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = range(5)
PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(5, 10)
END_STREAM = ACK = 0x1
END_HEADERS, PADDED, WITH_PRIORITY = 0x4, 0x8, 0x20
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS = range(1, 4)
INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = range(4, 7)

HEAD = struct.Struct(">HBBBL")  # the upper and the lowest bits of the length, type, flags, stream
SETTING = struct.Struct(">HL")
LONG = struct.Struct(">L")


class Code(IntEnum):
    """Why a stream or a connection ends (RFC 9113, 7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11


def frame(kind: int, flags: int, number: int, payload: bytes = b"") -> bytes:
    """One frame. `payload` is not cut, and a peer need not take more than 16 KiB: blocks of headers fit since
    messages of errors are short (`calls.MESSAGE_MAX`).
    """
    size = len(payload)
    return HEAD.pack(size >> 8, size & 0xFF, kind, flags, number) + payload
