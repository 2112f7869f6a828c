"""The bytes of an archive: read once, forward, from a file or a pipe, and decompressed on the way.

Whether bytes are compressed is told by their first ones, never by a name. One level is undone: a
compressed stream inside a compressed one is left as it is. Nothing is ever held whole, and what a
stream may cost in memory is bounded before it is read (FAULTS T10).
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from imgtool.errors import ImgtoolError, InvalidArgument, from_oserror

if TYPE_CHECKING:
    from typing_extensions import Buffer

GZIP = "gzip"
XZ = "xz"
BZIP2 = "bzip2"
ZSTD = "zstd"

HEAD = 10  # bytes that `detect` needs

_MAGIC = re.compile(
    rb"(?P<gzip>\x1f\x8b\x08)"
    rb"|(?P<xz>\xfd7zXZ\0)"
    rb"|(?P<bzip2>BZh[1-9](?:1AY&SY|\x17rE8P\x90))"
    rb"|(?P<zstd>\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18)"  # a frame, or one to be skipped
)
_BZIP2_BEGUN = re.compile(rb"B(?:Z(?:h[1-9]?)?)?")

_XZ_MEMORY = 256 << 20
_ZSTD_WINDOW_LOG = 27  # 128 MiB, the most that `zstd -d` takes unasked
_INPUT = 256 << 10
_STEP = 16 << 10  # fed at once: many tiny streams in a row would have the rest copied for each
_OUTPUT = 256 << 10
_SCRATCH = 256 << 10


class Readable(Protocol):
    """Bytes that come one after the other."""

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill the front of `buffer`, which has room; returns how many bytes came, 0 only at the end."""

    def skip(self, count: int, /) -> int:
        """Pass over `count` bytes; returns how many there were, fewer only at the end."""


class FileSource:
    """What a file descriptor gives from its current position on. The descriptor stays the caller's.

    Args:
        name: what to call it in messages.
    """

    def __init__(self, fd: int, name: str) -> None:
        self._fd = fd
        self._name = name
        self._seeks = stat.S_ISREG(os.fstat(fd).st_mode)

    def readinto(self, buffer: memoryview, /) -> int:
        try:
            return os.readv(self._fd, [buffer])
        except OSError as e:
            raise from_oserror(OSError(e.errno, e.strerror, self._name), "cannot read") from None

    def skip(self, count: int, /) -> int:
        if self._seeks:
            here = os.lseek(self._fd, 0, os.SEEK_CUR)
            there = min(here + count, os.fstat(self._fd).st_size)
            if there > here:
                os.lseek(self._fd, there, os.SEEK_SET)
                return there - here
        return _read_past(self, count)


class Prefixed:
    """`head`, which has been read already, and then the bytes of `rest`."""

    def __init__(self, head: Buffer, rest: Readable | None = None) -> None:
        self._head = memoryview(head)
        self._rest = rest

    def readinto(self, buffer: memoryview, /) -> int:
        if self._head:
            count = min(len(buffer), len(self._head))
            buffer[:count] = self._head[:count]
            self._head = self._head[count:]
            return count
        return self._rest.readinto(buffer) if self._rest else 0

    def skip(self, count: int, /) -> int:
        first = min(count, len(self._head))
        self._head = self._head[first:]
        return first + (self._rest.skip(count - first) if self._rest and count > first else 0)


def detect(head: Buffer) -> str | None:
    """How the bytes that begin with `head` are compressed: one of GZIP, XZ, BZIP2, ZSTD; None if not.

    Args:
        head: the first `HEAD` bytes; of fewer, it knows only what can be told by them.
    """
    found = _MAGIC.match(head)
    return found.lastgroup if found else None


def open_decompressed(source: Readable, what: str = "archive") -> Readable:
    """The bytes of `source`, decompressed if they are compressed.

    Several streams in a row are one. What may lie behind the last is what the tools themselves take
    without complaint: zeros after gzip, zeros in fours after xz, anything after bzip2 that does not
    begin like another stream, nothing after zstd.

    Args:
        what: names the source in messages.

    Reading the result raises:
        InvalidArgument: the stream is damaged or ends too soon; or it needs more memory than a
            zstd window of 128 MiB, or 256 MiB for xz.
    """
    head = memoryview(bytearray(HEAD))
    end = 0
    while end < HEAD and (count := source.readinto(head[end:])):
        end += count
    whole = Prefixed(head[:end], source)
    form = detect(head[:end])
    return Decompressed(whole, form, what) if form else whole


class Decompressed:
    """A Readable of what `source` holds compressed; see `open_decompressed`.

    Args:
        form: as `detect` says.
    """

    def __init__(self, source: Readable, form: str, what: str) -> None:
        self.form = form
        self._source = source
        self._what = what
        self._new, self._error = _decoder(form)
        self._decoder = self._new()
        self._input = memoryview(bytearray(_INPUT))
        self._start = self._end = 0  # what of it is to be decoded
        self._ready = memoryview(b"")
        self._ended = False

    def readinto(self, buffer: memoryview, /) -> int:
        while not self._ready:
            if self._ended:
                return 0
            self._decode()
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def skip(self, count: int, /) -> int:
        return _read_past(self, count)

    def _decode(self) -> None:
        if self._decoder.eof:
            if self._goes_on():
                self._decoder = self._new()
            else:
                self._ended = True
            return
        data = self._input[:0]
        if self._decoder.needs_input:
            if not self._peek(1):
                raise InvalidArgument(
                    f"{self._what} ends within its {self.form} stream", hint="it is incomplete; copy it again"
                )
            data = self._input[self._start : min(self._end, self._start + _STEP)]
            self._start += len(data)
        try:
            self._ready = memoryview(self._decoder.decompress(data, _OUTPUT))
        except self._error as e:
            raise self._refusal(e) from None
        if self._decoder.eof:
            self._start -= len(self._decoder.unused_data)

    def _goes_on(self) -> bool:
        """Whether another stream begins after the one that has ended."""
        zeros = self._skip_zeros() if self.form in (GZIP, XZ) else 0
        head = self._peek(4)
        if self.form == BZIP2:
            return bool(_BZIP2_BEGUN.fullmatch(head))
        if zeros % 4 if self.form == XZ else zeros and head:
            raise InvalidArgument(f"{self._what} has more than padding behind its {self.form} stream")
        return bool(head)

    def _skip_zeros(self) -> int:
        count = 0
        while self._peek(1) == b"\0":
            held = bytes(self._input[self._start : self._end])
            zeros = len(held) - len(held.lstrip(b"\0"))
            self._start += zeros
            count += zeros
        return count

    def _peek(self, count: int) -> bytes:
        """The next `count` bytes of input, fewer at its end."""
        held = self._end - self._start
        if held < count:
            self._input[:held] = bytes(self._input[self._start : self._end])
            self._start, self._end = 0, held
            while self._end < count and (more := self._source.readinto(self._input[self._end :])):
                self._end += more
        return bytes(self._input[self._start : min(self._end, self._start + count)])

    def _refusal(self, error: Exception) -> InvalidArgument:
        reason = str(error).rpartition(": ")[2]
        hint = f"decompress it with {self.form} first" if "memory" in reason.lower() else None
        return InvalidArgument(
            f"{self._what} cannot be decompressed by {self.form}: {reason[:1].lower()}{reason[1:]}", hint=hint
        )


class _Decoder(Protocol):
    """One stream; what bz2, lzma and zstd have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: Any, max_length: int = -1) -> bytes: ...


class _Gzip:
    """zlib, made like the others."""

    def __init__(self) -> None:
        import zlib

        self._zlib = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def needs_input(self) -> bool:
        return not self._zlib.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: Any, max_length: int = -1) -> bytes:
        return self._zlib.decompress(self._zlib.unconsumed_tail or data, max_length)


def _decoder(form: str) -> tuple[Callable[[], _Decoder], type[Exception]]:
    """What makes a decoder, and what it raises for bad data."""
    try:
        if form == GZIP:
            import zlib

            return _Gzip, zlib.error
        if form == BZIP2:
            import bz2

            return bz2.BZ2Decompressor, OSError
        if form == XZ:
            import lzma

            return lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, _XZ_MEMORY), lzma.LZMAError
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
        options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG}
        return lambda: zstd.ZstdDecompressor(options=options), zstd.ZstdError
    except ImportError:
        raise ImgtoolError(
            f"this Python was built without {form}", hint=f"decompress the archive with {form} first"
        ) from None


def _read_past(source: Readable, count: int) -> int:
    scratch = memoryview(bytearray(min(count, _SCRATCH)))
    left = count
    while left and (come := source.readinto(scratch[: min(left, _SCRATCH)])):
        left -= come
    return count - left
