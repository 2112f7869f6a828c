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
        self._hasher.update(data)
        self._offset += len(memoryview(data))
        return len(memoryview(data))

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
