"""Read tar archives, header by header, in one pass forward.

Formats: v7, ustar, GNU (old and new), pax. What two tools could read as two different archives is
refused rather than guessed at: a size that pax and ustar headers state differently (CVE-2025-62518),
data behind a directory or a link, a lone block of zeros amid members, a name stated twice. So are
the headers that make other readers loop or swell (FAULTS T11).

A member's name is only ever the key of a dict: see `normal_name`. Nothing here opens a file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from imgtool.errors import InvalidArgument
from imgtool.model import SIZE_MAX
from imgtool.oci.compression import Readable

if TYPE_CHECKING:
    from typing import Self

FILE = "file"
DIRECTORY = "directory"
SYMLINK = "symbolic link"
HARD_LINK = "hard link"
DEVICE = "device"
PIPE = "pipe"
OTHER = "member of an unknown type"

BLOCK = 512
CHUNK = 1 << 20

MEMBERS_MAX = 100_000
NAME_MAX = 4096  # bytes
NAMES_MAX = 16 << 20  # bytes of the names and link names of all members: they are what a caller keeps
EXTENSION_MAX = 1 << 20  # bytes in one extension header
EXTENSIONS_MAX = 64 << 20  # bytes in all of them
CHAIN_MAX = 64  # extension headers before one member
HEADERS_MAX = 4 * MEMBERS_MAX

_DRAIN = 16 << 20
_KINDS = {
    b"\0": FILE,
    b"0": FILE,
    b"1": HARD_LINK,
    b"2": SYMLINK,
    b"3": DEVICE,
    b"4": DEVICE,
    b"5": DIRECTORY,
    b"6": PIPE,
    b"7": FILE,  # contiguous
}
_REFUSED = {
    b"S": "is sparse, which image archives are not",
    b"M": "is continued from another volume",
    b"X": "has an extended header of Solaris, which not every tool reads",
}
_LONG = {b"L": b"path", b"K": b"linkpath"}  # GNU's type -> the pax key of the same meaning
_STATED = (b"path", b"linkpath", b"size")  # the pax keys that count here
_PAX, _GLOBAL = b"x", b"g"
_EXTENSIONS = (*_LONG, _PAX, _GLOBAL)

_OCTAL = re.compile(rb" *([0-7]+) *(?:\0.*)?|[ \0]*", re.DOTALL)
_RECORD = re.compile(rb"([1-9][0-9]{0,6}) ([^=\0]++)=")
_DECIMAL = re.compile(rb"[0-9]{1,20}")


class Member(NamedTuple):
    """What a header says, which nobody has vouched for.

    `name` and `link_name` are as in the archive; bytes that are no UTF-8 are surrogate escapes, so
    they equal no name that a document can state. `offset` is where the data begins, in bytes from
    the start of the archive, decompressed.
    """

    name: str
    kind: str
    size: int
    link_name: str
    offset: int


class TarReader:
    """The members of a tar archive, in their order; reading and skipping are for the one that came
    last. What of it is not read is skipped when the next is asked for.

    The archive ends with two blocks of zeros, or where its bytes end between two members. What
    follows the zeros is read, and ignored, to its end or for 16 MiB: who writes into a pipe is not
    cut off, and damage at the end of a compressed stream is seen.

    Args:
        source: from the first byte of the archive on.
        what: names it in messages.

    Every method raises:
        InvalidArgument: not a tar archive; or damaged, cut off, ambiguous, or over a limit. The
            message names the member and where its header is.
    """

    def __init__(self, source: Readable, what: str = "archive") -> None:
        self._source = source
        self._what = what
        self._offset = 0
        self._left = 0  # bytes of the member still to be read
        self._padding = 0  # behind them
        self._member = ""  # "member 'NAME' at byte N", for messages
        self._headers = self._members = self._names = self._extensions = 0
        self._ended = False
        self._block = memoryview(bytearray(BLOCK))
        self._chunk: memoryview | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Member:
        self.skip()
        stated: dict[bytes, bytes] = {}
        begin = self._offset
        for _ in range(CHAIN_MAX + 1):
            at = self._offset
            block = None if self._ended else self._next_header()
            if block is None:
                if stated:
                    raise self._bad(f"extension header at byte {begin}", "has no member behind it")
                raise StopIteration
            type = block[156:157]
            if type not in _EXTENSIONS:
                return self._next_member(type, block, at, stated)
            self._read_extension(type, block, at, stated)
        raise self._bad(
            f"header at byte {begin}", f"begins a chain of more than {CHAIN_MAX} extension headers"
        )

    def readinto(self, buffer: memoryview) -> int:
        """Fill the front of `buffer`, which has room, with data of the member; returns how many bytes
        came, 0 only at its end.
        """
        if not self._left:
            return 0
        count = self._source.readinto(buffer[: self._left] if len(buffer) > self._left else buffer)
        if not count:
            raise self._cut_off(self._left)
        self._left -= count
        self._offset += count
        return count

    def chunks(self) -> Iterator[memoryview]:
        """The data of the member, up to 1 MiB at once. A chunk is good until the next is asked for."""
        if self._chunk is None:
            self._chunk = memoryview(bytearray(CHUNK))
        while self._left:
            end = 0
            while end < CHUNK and (count := self.readinto(self._chunk[end:])):
                end += count
            yield self._chunk[:end]

    def read(self, limit: int) -> bytes:
        """What is left of the member's data, refused before it is read if it is more than `limit` bytes."""
        if self._left > limit:
            raise self._bad(self._member, f"has {self._left} bytes, at most {limit} are read")
        data = bytearray(self._left)
        end = 0
        with memoryview(data) as view:
            while count := self.readinto(view[end:]):
                end += count
        return bytes(data)

    def skip(self) -> None:
        """Pass over what is left of the member's data."""
        todo = self._left + self._padding
        if not todo:
            return
        count = self._source.skip(todo)
        self._offset += count
        if count < todo:
            raise self._cut_off(max(self._left - count, 0))
        self._left = self._padding = 0

    def _next_header(self) -> bytes | None:
        """The next block, checked to be a header; None at the end of the archive."""
        at = self._offset
        count = self._fill(self._block)
        block = bytes(self._block[:count])
        if at == 0 and count < BLOCK:
            raise InvalidArgument(f"{self._what} is no tar archive: it has {count} bytes")
        if not block.strip(b"\0"):
            self._end(at, count)
            return None
        if count < BLOCK:
            raise self._bad(f"header at byte {at}", f"is cut off after {count} bytes")
        if not _checksum_fits(block):
            if at == 0:
                raise InvalidArgument(f"{self._what} is no tar archive")
            raise self._bad(f"header at byte {at}", "is damaged: its checksum does not fit")
        self._headers += 1
        if self._headers > HEADERS_MAX:
            raise self._bad(f"header at byte {at}", f"is one more than {HEADERS_MAX}")
        return block

    def _end(self, at: int, count: int) -> None:
        if count == BLOCK:
            more = self._fill(self._block)
            if any(self._block[:more]):
                raise self._bad(f"block at byte {at}", "is a lone block of zeros, with more behind it")
            self._source.skip(_DRAIN)
        self._ended = True

    def _next_member(self, type: bytes, block: bytes, at: int, stated: dict[bytes, bytes]) -> Member:
        raw = stated.get(b"path") or _header_name(block)
        raw_link = stated.get(b"linkpath") or _text(block[157:257])
        self._member = f"member '{_short(raw)}' at byte {at}"
        if type in _REFUSED:
            raise self._bad(self._member, _REFUSED[type])
        for text in (raw, raw_link):
            if len(text) > NAME_MAX:
                raise self._bad(self._member, f"has a name of {len(text)} bytes, at most {NAME_MAX} are read")
            if b"\0" in text:
                raise self._bad(self._member, "has a name with NUL")
        name, link_name = _decode(raw), _decode(raw_link)
        kind = _KINDS.get(type, OTHER)
        if kind == FILE and name.endswith("/"):
            kind = DIRECTORY
        size = self._size(block, self._member, stated.get(b"size"))
        if size and kind not in (FILE, OTHER):
            raise self._bad(self._member, f"is a {kind} of {size} bytes, which must be none")
        self._members += 1
        if self._members > MEMBERS_MAX:
            raise self._bad(self._member, f"is one more than {MEMBERS_MAX}")
        self._names += len(raw) + len(raw_link)
        if self._names > NAMES_MAX:
            raise self._bad(self._member, f"brings all names together over {NAMES_MAX} bytes")
        self._left = size
        self._padding = -size % BLOCK
        return Member(name, kind, size, link_name, self._offset)

    def _read_extension(self, type: bytes, block: bytes, at: int, stated: dict[bytes, bytes]) -> None:
        """Read an extension header's data, and add to `stated` what it says of the next member."""
        here = self._member = f"extension header at byte {at}"
        size = self._size(block, here)
        self._extensions += size
        if size > EXTENSION_MAX:
            raise self._bad(here, f"has {size} bytes, at most {EXTENSION_MAX} are read")
        if self._extensions > EXTENSIONS_MAX:
            raise self._bad(here, f"brings all of them together over {EXTENSIONS_MAX} bytes")
        self._left = size + -size % BLOCK
        data = self.read(self._left)
        if type in _LONG:
            text = _text(data)
            if not 0 < len(text) <= size:  # a name that does not end is read on by some tools
                raise self._bad(here, f"states no whole {_LONG[type].decode()}")
            self._state(_LONG[type], text, here, stated)
            return
        for key, value in self._records(data[:size], here):
            if key.startswith(b"GNU.sparse."):
                raise self._bad(here, "is of a sparse file, which image archives do not have")
            if key in _STATED and value:
                if type == _GLOBAL:
                    raise self._bad(here, f"states a {key.decode()} for every member")
                self._state(key, value, here, stated)

    def _state(self, key: bytes, value: bytes, here: str, stated: dict[bytes, bytes]) -> None:
        if stated.setdefault(key, value) != value:
            raise self._bad(here, f"states another {key.decode()} than was stated before")

    def _records(self, data: bytes, here: str) -> Iterator[tuple[bytes, bytes]]:
        """The records of a pax header: `LENGTH KEY=VALUE` and a newline, the length being that of it all."""
        begin = 0
        while begin < len(data):
            found = _RECORD.match(data, begin)
            end = begin + int(found[1]) if found else 0
            if not found or not found.end() < end <= len(data) or data[end - 1] != 0x0A:
                raise self._bad(here, f"has a malformed record at its byte {begin}")
            yield found[2], data[found.end() : end - 1]
            begin = end

    def _size(self, block: bytes, here: str, stated: bytes | None = None) -> int:
        """The size in the header `block`, or the one `stated` in a pax header."""
        size = _number(block[124:136])
        if size is None:
            raise self._bad(here, f"has the size {block[124:136]!r}, which is no number")
        if stated is not None:
            if not _DECIMAL.fullmatch(stated):
                raise self._bad(here, f"has the size '{_short(stated)}', which is no number")
            if size and size != int(stated):
                raise self._bad(here, f"has the size {size} in one header, {int(stated)} in another")
            size = int(stated)
        if not 0 <= size <= SIZE_MAX:
            raise self._bad(here, f"has the size {size}, which is not between 0 and {SIZE_MAX}")
        return size

    def _fill(self, buffer: memoryview) -> int:
        end = 0
        while end < len(buffer) and (count := self._source.readinto(buffer[end:])):
            end += count
        self._offset += end
        return end

    def _cut_off(self, missing: int) -> InvalidArgument:
        where = f"with {missing} bytes of its data missing" if missing else "within the padding of its data"
        return self._bad(self._member, f"is cut off: the archive ends at byte {self._offset}, {where}")

    def _bad(self, thing: str, problem: str) -> InvalidArgument:
        return InvalidArgument(f"{self._what}: {thing} {problem}")


def normal_name(raw: str) -> str | None:
    """The key under which a member called `raw` is looked up: without `.`, doubled or trailing slashes.

    Returns:
        `.` for the root; None for what names nothing inside an archive: empty, absolute, with a
        part `..`, with a backslash.
    """
    if not raw or raw.startswith("/") or "\\" in raw:
        return None
    parts = [part for part in raw.split("/") if part not in ("", ".")]
    return None if ".." in parts else "/".join(parts) or "."


def link_target(member: Member) -> str | None:
    """The `normal_name` of what a link points to: from the root for a hard link, from where it stands
    for a symbolic one. None if that is outside of the archive. It says nothing of whether it is there.
    """
    if member.kind != SYMLINK:
        return normal_name(member.link_name)
    name, link = normal_name(member.name), member.link_name
    if name is None or not link or link.startswith("/") or "\\" in link:
        return None
    parts = name.split("/")[:-1]
    for part in link.split("/"):
        if part == "..":
            if not parts:
                return None
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts) or "."


def _checksum_fits(block: bytes) -> bool:
    """Old tars have summed signed bytes, so both sums count."""
    stated = _number(block[148:156])
    summed = block[:148] + b" " * 8 + block[156:]
    return stated == sum(summed) or stated == sum(memoryview(summed).cast("b"))


def _number(field: bytes) -> int | None:
    """A numeric field: octal text, or base-256 where its highest bit is set; None for what is neither."""
    if field[0] & 0x80:
        number = int.from_bytes(field, "big", signed=True)
        # The highest bit is the mark, the one below it the sign.
        return number if field[0] & 0x40 else number + (1 << (8 * len(field) - 1))
    found = _OCTAL.fullmatch(field)
    return int(found[1] or b"0", 8) if found else None


def _header_name(block: bytes) -> bytes:
    name = _text(block[:100])
    prefix = _text(block[345:500]) if block[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _decode(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _short(raw: bytes) -> str:
    text = _decode(raw)
    return text if len(text) <= 140 else text[:140] + "…"
