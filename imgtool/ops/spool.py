"""Many small things one after the other, in memory while they are few and in one temporary file then:
a file for each would cost more time and memory than their bytes.
"""

from __future__ import annotations

import io
from contextlib import suppress
from types import TracebackType
from typing import IO, TYPE_CHECKING

from imgtool.errors import from_oserror

if TYPE_CHECKING:
    from typing import Self

    from typing_extensions import Buffer

_IN_MEMORY = 1 << 20
_SIZE_BITS = 24


class Spool:
    """Keeps bytes until it is closed. The file has no name, so nothing is left of it."""

    def __init__(self) -> None:
        self._file: IO[bytes] = io.BytesIO()
        self._end = 0

    def add(self, data: Buffer) -> int:
        """Keep `data`, less than 16 MiB; returns its place, which `get` takes.

        Raises:
            ResourceExhausted: the disk for temporary files is full.
        """
        view = memoryview(data).cast("B")
        assert not len(view) >> _SIZE_BITS
        try:
            if isinstance(self._file, io.BytesIO) and self._end + len(view) > _IN_MEMORY:
                self._file = _on_disk(self._file)
            self._file.seek(self._end)
            self._file.write(view)
        except OSError as error:
            raise from_oserror(error, "cannot write a temporary file") from error
        place = self._end << _SIZE_BITS | len(view)
        self._end += len(view)
        return place

    def get(self, place: int) -> bytes:
        """What was added."""
        try:
            self._file.seek(place >> _SIZE_BITS)
            return self._file.read(place & ((1 << _SIZE_BITS) - 1))
        except OSError as error:
            raise from_oserror(error, "cannot read a temporary file") from error

    def close(self) -> None:
        # What is still to be written is not wanted, least of all on a full disk.
        with suppress(OSError):
            self._file.close()


def _on_disk(memory: io.BytesIO) -> IO[bytes]:
    """What is in memory, in a file."""
    from tempfile import TemporaryFile

    file = TemporaryFile()  # noqa: SIM115  (closed with the spool)
    file.write(memory.getvalue())
    return file


class KeptReader:
    """A `stores.Reader` of bytes in memory.

    Args:
        kept: the first bytes.
        size: how many there were; those behind `kept` are gone.
    """

    def __init__(self, kept: bytes, size: int | None = None) -> None:
        self._kept = kept
        self._at = 0
        self.size = len(kept) if size is None else size

    def read(self, n: int = -1, /) -> bytes:
        data = self.read_at(self.size if n < 0 else n, self._at)
        self._at += len(data)
        return data

    def read_at(self, n: int, offset: int) -> bytes:
        return self._kept[offset : offset + n]

    def close(self) -> None:
        """Nothing is open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is open."""
