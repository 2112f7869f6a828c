"""Bytes in the making, and bytes to read."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING

from imgtool import clock
from imgtool.digest import Digest
from imgtool.errors import FailedPrecondition, InvalidArgument, Unavailable, from_oserror
from imgtool.model import ContentInfo, IngestStatus, replace
from imgtool.stores import Commit

if TYPE_CHECKING:
    from typing import Self

    from typing_extensions import Buffer

    from imgtool.memory.content import MemoryContent


@dataclass
class Ingest:
    ref: str
    total: int
    started: int
    updated: int
    expires: int | None = None
    expected: Digest | None = None
    lease: str | None = None
    data: bytearray = field(default_factory=bytearray)
    busy: bool = False

    def status(self) -> IngestStatus:
        return IngestStatus(
            self.ref, len(self.data), self.total, self.started, self.updated, self.expires, self.expected
        )


class MemoryWriter:
    """Bytes up to `_offset` are this write's; what lies behind is kept from before, for `replay`. Or they
    are lent.
    """

    def __init__(
        self, content: MemoryContent, ingest: Ingest, algorithm: str, lent: bytes | None = None
    ) -> None:
        self.ref = ingest.ref
        self._content = content
        self._ingest = ingest
        self._algorithm = algorithm
        self._lent = lent
        self._offset = len(ingest.data if lent is None else lent)

    def status(self) -> IngestStatus:
        total = self._ingest.total if self._lent is None else len(self._lent)
        return replace(self._ingest.status(), offset=self._offset, total=total)

    def digest(self) -> Digest:
        return self._digest(self._algorithm)

    def write(self, data: Buffer, /) -> int:
        new, kept = bytes(data), self._ingest.data
        if self._lent is not None and new:
            kept[:], self._lent = self._lent, None
        end = self._offset + len(new)
        if kept[self._offset : end] != new:
            kept[self._offset :] = new
        self._offset = end
        self._ingest.updated = clock.now()
        return len(new)

    def copy_from(self, fd: int, limit: int | None = None) -> int:
        start = self._offset
        while limit is None or self._offset - start <= limit:
            try:
                data = os.read(fd, 1 << 16 if limit is None else limit + 1 - (self._offset - start))
            except OSError as error:
                raise from_oserror(error, "cannot read the source") from error
            if not data:
                break
            self.write(data)
        return self._offset - start

    def truncate(self, size: int) -> None:
        if size != 0:
            raise InvalidArgument(f"cannot truncate ingest '{self.ref}' to {size} bytes, only to 0")
        self.replay()
        self._ingest.data.clear()

    def replay(self) -> None:
        self._lent = None
        self._offset = 0

    def reader(self) -> MemoryReader:
        return MemoryReader(self._bytes())

    def finish(self) -> None:
        pass

    def commit(
        self,
        *,
        size: int | None = None,
        expected: Digest | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> ContentInfo:
        return self._content.publish(Commit(self, size, expected, labels or {}))

    def close(self) -> None:
        self._ingest.busy = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def verified(self, size: int | None, expected: Digest | None) -> Digest:
        """The digest to publish under, compared as `commit` promises."""
        if size is not None and size != self._offset:
            raise FailedPrecondition(f"content for '{self.ref}' has {self._offset} bytes, expected {size}")
        found = self._digest(expected.algorithm if expected else self._algorithm)
        if expected is not None and found != expected:
            raise FailedPrecondition(f"content for '{self.ref}' is {found}, expected {expected}")
        if self._lent is not None and self._content.blob(self.digest()) is None:
            raise Unavailable(f"content for '{self.ref}' was to be {self.digest()}, which is gone")
        return found

    def take(self, digest: Digest) -> bytes:
        """End the write, whose bytes are `digest`, and hand over the bytes."""
        self._content.land(self._ingest, digest)
        return self._bytes()

    def _digest(self, algorithm: str) -> Digest:
        return Digest.of(self._bytes(), algorithm)

    def _bytes(self) -> bytes:
        return bytes(self._ingest.data[: self._offset]) if self._lent is None else self._lent


class MemoryReader(io.BytesIO):
    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.size = len(data)

    def read_at(self, n: int, offset: int) -> bytes:
        return self.getvalue()[offset : offset + n]
