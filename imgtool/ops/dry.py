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
from imgtool.ops.spool import KeptReader, Spool

if TYPE_CHECKING:
    from typing import Self

    from typing_extensions import Buffer

_READ = 1 << 20
# Documents are read back, of the rest only the first bytes.
_DOCUMENT_MAX = 4 << 20
_HEAD = 16


class DryIngester:
    """An Ingester that keeps nothing in a store. Documents can be read until it is closed."""

    def __init__(self) -> None:
        self._spool = Spool()

    def writer(
        self,
        ref: str,
        *,
        size: int | None = None,
        expected: Digest | None = None,
        algorithm: str | None = None,
        lease: str | None = None,
    ) -> DryWriter:
        return DryWriter(ref, algorithm or "sha256", self._spool)

    def stage(self, *, algorithm: str) -> DryWriter:
        return DryWriter("", algorithm, self._spool)

    def close(self) -> None:
        self._spool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class DryWriter:
    """A Writer that hashes and counts. It cannot be committed."""

    def __init__(self, ref: str, algorithm: str, spool: Spool) -> None:
        self.ref = ref
        self._algorithm = algorithm
        self._spool = spool
        self.replay()

    def replay(self) -> None:
        self._hasher = new_hasher(self._algorithm)
        self._offset = 0
        self._kept = bytearray()
        self._place: int | None = None  # in the spool, from `finish` on

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

    def reader(self) -> KeptReader:
        kept = bytes(self._kept) if self._place is None else self._spool.get(self._place)
        return KeptReader(kept, self._offset)

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
        if self._place is None:
            self._place = self._spool.add(self._kept)
            self._kept = bytearray()

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
