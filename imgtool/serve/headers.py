"""Header blocks of HTTP/2: unpacked as they come (HPACK, RFC 7541), judged, and packed for answers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from hpack import Decoder, Encoder

HEADERS_MAX = 1 << 16  # bytes of a request's headers, packed and unpacked

_KNOWN_MAX = 64  # blocks that are known by sight
_PSEUDO = frozenset({":method", ":scheme", ":path", ":authority"})
_NEEDED = frozenset({":method", ":scheme", ":path"})
_OF_CONNECTIONS = frozenset({"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"})
_NAME = re.compile(r":?[!#$%&'*+.^_`|~0-9a-z-]+")
_NEVER = re.compile(r"[\0\r\n]")

Headers = Mapping[str, str]
"""Of a request, by lower-case name. Where one stands several times the first counts."""


class Unpacker:
    """Unpacks the blocks of one connection, all of them, in their order.

    A client's blocks soon are nothing but indices into the table that both sides keep. Such a block changes
    no table, and says the same until another block has changed it: so long it is known by sight.
    """

    def __init__(self) -> None:
        self._decoder = Decoder(max_header_list_size=HEADERS_MAX)
        self._known: dict[bytes, Headers | None] = {}

    def unpack(self, block: bytes) -> Headers | None:
        """None for what is well packed and cannot be a request.

        Raises:
            OversizedHeaderListError: it is longer than HEADERS_MAX.
            HPACKError: it is damaged. In both cases what comes later cannot be understood.
        """
        if block in self._known:
            return self._known[block]
        headers = _request(self._decoder.decode(block, raw=True))
        # A byte from 0x80 on is a field by its index; an index of several bytes ends with one below.
        is_only_indices = bool(block) and min(block) >= 0x80
        if not is_only_indices or len(self._known) >= _KNOWN_MAX:
            self._known.clear()
        if is_only_indices:
            self._known[block] = headers
        return headers


_ENCODER = Encoder()


def pack(*fields: tuple[str, str]) -> bytes:
    """A block that changes no table, so that it may be sent any number of times, in any order: each field
    is marked never to be put into one.
    """
    return bytes(_ENCODER.encode([(name, value, True) for name, value in fields], huffman=False))


def _request(fields: Iterable[tuple[bytes | str, bytes | str]]) -> Headers | None:
    """None where they are malformed (RFC 9113, 8.2 and 8.3)."""
    headers: dict[str, str] = {}
    for name, value in (map(_text, field) for field in fields):
        if not _NAME.fullmatch(name) or name in _OF_CONNECTIONS or _NEVER.search(value):
            return None
        if name[0] == ":" and (name not in _PSEUDO or name in headers or not headers.keys() <= _PSEUDO):
            return None
        if name == "te" and value != "trailers":
            return None
        headers.setdefault(name, value)
    return headers if headers.keys() >= _NEEDED and headers[":path"] else None


def _text(part: bytes | str) -> str:
    return part if isinstance(part, str) else part.decode(errors="replace")
