"""Writers that only hash: what a dry run stages into."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING

from imgtool import clock
from imgtool.digest import Digest, new_hasher
from imgtool.errors import InvalidArgument
from imgtool.model import ContentInfo, IngestStatus

if TYPE_CHECKING:
    from typing import Self

    from typing_extensions import Buffer

_READ = 1 << 20
# Documents are read back, of the rest only the first bytes.
_DOCUMENT_MAX = 4 << 20
_HEAD = 16


class DryIngester:
    """An Ingester that keeps nothing."""

    def writer(
        self,
        ref: str,
        *,
        size: int | None = None,
        expected: Digest | None = None,
        algorithm: str | None = None,
        lease: str | None = None,
    ) -> DryWriter:
        return DryWriter(ref, algorithm or "sha256")

    def stage(self, *, algorithm: str) -> DryWriter:
        return DryWriter("", algorithm)


class DryWriter:
    """A Writer that hashes and counts. It cannot be committed."""

    def __init__(self, ref: str, algorithm: str) -> None:
        self.ref = ref
        self._algorithm = algorithm
        self.replay()

    def replay(self) -> None:
        self._hasher = new_hasher(self._algorithm)
        self._offset = 0
        self._kept = bytearray()

    def truncate(self, size: int) -> None:
        if size:
            raise InvalidArgument(f"cannot truncate to {size} bytes, only to 0")
        self.replay()

    def status(self) -> IngestStatus:
        now = clock.now()
        return IngestStatus(self.ref, self._offset, 0, now, now)

    def digest(self) -> Digest:
        return Digest.from_hasher(self._algorithm, self._hasher)

    def write(self, data: Buffer, /) -> int:
        view = memoryview(data).cast("B")
        self._hasher.update(view)
        if len(self._kept) == self._offset:
            self._kept += view[: _DOCUMENT_MAX + 1 - self._offset]
        self._offset += len(view)
        if self._offset > _DOCUMENT_MAX or (self._kept and self._kept[0] != ord("{")):
            del self._kept[_HEAD:]
        return len(view)

    def reader(self) -> DryReader:
        return DryReader(bytes(self._kept), self._offset)

    def copy_from(self, fd: int, limit: int | None = None) -> int:
        start, most = self._offset, None if limit is None else limit + 1
        while most is None or self._offset - start < most:
            left = _READ if most is None else min(_READ, most - (self._offset - start))
            data = os.read(fd, left)
            if not data:
                break
            self.write(data)
        return self._offset - start

    def finish(self) -> None:
        """Nothing is open."""

    def commit(
        self,
        *,
        size: int | None = None,
        expected: Digest | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> ContentInfo:
        raise InvalidArgument("a dry run cannot be committed")

    def close(self) -> None:
        """Nothing is open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is open."""


class DryReader:
    """A Reader of what a DryWriter has kept; the bytes behind that are gone."""

    def __init__(self, kept: bytes, size: int) -> None:
        self._kept = kept
        self._at = 0
        self.size = size

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
