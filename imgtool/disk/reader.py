"""Open content: a Reader over a file."""

from __future__ import annotations

import os
from types import TracebackType
from typing import TYPE_CHECKING

from imgtool.errors import from_oserror

if TYPE_CHECKING:
    from typing import Self


class FileReader:
    """A Reader over an object."""

    def __init__(self, fd: int, size: int) -> None:
        self._fd = fd
        self._at = 0
        self.size = size

    def fileno(self) -> int:
        """The descriptor, for copying in the kernel."""
        return self._fd

    def read(self, n: int = -1, /) -> bytes:
        data = self.read_at(self.size - self._at if n < 0 else n, self._at)
        self._at += len(data)
        return data

    def read_at(self, n: int, offset: int) -> bytes:
        parts = []
        while n > 0:
            try:
                data = os.pread(self._fd, n, offset)
            except OSError as error:
                raise from_oserror(error, "cannot read object") from error
            if not data:
                break
            parts.append(data)
            n -= len(data)
            offset += len(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
