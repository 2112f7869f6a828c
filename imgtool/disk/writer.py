"""A write that is under way: bytes into a file, hashed as they are stored."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Protocol

from imgtool import clock
from imgtool.digest import Digest, Hasher, new_hasher
from imgtool.disk import atomic, copying, read
from imgtool.disk.copying import READ, Behind
from imgtool.disk.reader import FileReader
from imgtool.errors import FailedPrecondition, ImgtoolError, InvalidArgument, Unavailable, from_oserror
from imgtool.model import ContentInfo, IngestStatus

if TYPE_CHECKING:
    from typing import Self

    from typing_extensions import Buffer


class Place(Protocol):
    """Where a writer's bytes lie, and what becomes of them when it ends."""

    ref: str
    data: str
    total: int
    started: int
    expires: int | None
    expected: Digest | None
    lease: str | None

    def release(self) -> None:
        """Give up the lock; remove what is not kept."""

    def discard(self) -> None:
        """Remove everything, and give up the lock."""


class Lent(NamedTuple):
    """An object that another namespace has, and that stands for the bytes of a write until it has its own."""

    path: str
    digest: Digest
    size: int


class FileWriter:
    """A Writer over a file. Hashes what it wrote, on the way where it can.

    Args:
        place: where the bytes lie.
        fd: the file there, open.
        algorithm: what to hash with.
        publish: what `commit` calls.
        lent: stands for the bytes, of which the file has none then.
    """

    def __init__(
        self,
        place: Place,
        fd: int,
        algorithm: str,
        publish: Callable[..., ContentInfo],
        lent: Lent | None = None,
    ) -> None:
        self._place = place
        self._fd = fd
        self._algorithm = algorithm
        self._publish = publish
        self._hasher: Hasher = new_hasher(algorithm)
        self._offset = 0
        self._kept = 0  # bytes in the file from the offset on that a replay may still find equal
        self._open = True
        self._lent = lent
        there = os.fstat(fd)
        self._updated = there.st_mtime_ns if there.st_size else place.started
        self._touched = False
        if lent is not None:
            self._offset = lent.size
            return
        try:
            self._hash_file(there.st_size)
        except BaseException:
            self.close()
            raise

    @property
    def ref(self) -> str:
        return self._place.ref

    @property
    def path(self) -> str:
        """The file with the bytes, for the engine."""
        return self._lent.path if self._lent else self._place.data

    @property
    def is_lent(self) -> bool:
        """Whether that is an object, which is not to be changed."""
        return self._lent is not None

    @property
    def lease(self) -> str | None:
        return self._place.lease

    def status(self) -> IngestStatus:
        place = self._place
        return IngestStatus(
            place.ref,
            offset=self._offset,
            total=self._lent.size if self._lent else place.total,
            started=place.started,
            updated=self._updated,
            expires=place.expires,
            expected=place.expected,
        )

    def digest(self) -> Digest:
        return self._lent.digest if self._lent else Digest.from_hasher(self._algorithm, self._hasher)

    def write(self, data: Buffer, /) -> int:
        self._check_writable()
        view = memoryview(data).cast("B")
        left = self._skip_equal(view) if self._kept else view
        if left:
            self._own()
            self._seek()
            atomic.write(self._fd, left)
            self._touch()
            self._hasher.update(left)
            self._offset += len(left)
        return len(view)

    def copy_from(self, fd: int, limit: int | None = None) -> int:
        self._check_writable()
        most = None if limit is None else limit + 1
        start = self._offset
        if not self._lent and not self._kept and os.fstat(fd).st_size:
            self._copy_in_kernel(fd, most)
        # What the kernel could not copy, such as files of /proc that claim to have a size, or nothing.
        buffer = memoryview(bytearray(READ))
        while most is None or self._offset - start < most:
            want = READ if most is None else min(READ, most - (self._offset - start))
            try:
                count = os.readv(fd, [buffer[:want]])
            except OSError as error:
                raise from_oserror(error, "cannot read the source") from error
            if not count:
                break
            self.write(buffer[:count])
        return self._offset - start

    def truncate(self, size: int) -> None:
        if size != 0:
            raise InvalidArgument(f"cannot truncate ingest '{self.ref}' to {size} bytes, only to 0")
        self.replay()
        self._drop_rest()

    def replay(self) -> None:
        self._check_writable()
        if self._lent:
            self._lent, self._offset = None, 0
        self._kept += self._offset
        self._offset = 0
        self._hasher = new_hasher(self._algorithm)

    def reader(self) -> FileReader:
        try:
            fd, _ = read.open_regular(self.path)
        except FileNotFoundError:
            raise self.gone() from None
        return FileReader(fd, self._offset)

    def finish(self) -> None:
        if self._fd < 0:
            return
        self._drop_rest()
        atomic.set_mode(self._fd, atomic.FILE_MODE)
        os.close(self._fd)
        self._fd = -1

    def verified(self, size: int | None, expected: Digest | None) -> Digest:
        """The digest to publish under, after the comparisons that `commit` promises.

        Raises:
            FailedPrecondition: length or digest differ, or the write has ended.
        """
        if not self._open:
            raise self._closed()
        if self._fd >= 0:
            self._drop_rest()
        if size is not None and size != self._offset:
            raise FailedPrecondition(f"{self._what()} has {self._offset} bytes, expected {size}")
        found = self.digest()
        if expected is None:
            return found
        if expected.algorithm != found.algorithm:
            if self._lent:
                self._check_writable()
                self._own()
            found = self._hashed_anew(expected.algorithm)
        if found != expected:
            raise FailedPrecondition(
                f"{self._what()} is {found}, expected {expected}",
                hint="the source is damaged or was changed; get it again, then repeat the same command",
            )
        return found

    @property
    def size(self) -> int:
        return self._offset

    def commit(
        self,
        *,
        size: int | None = None,
        expected: Digest | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> ContentInfo:
        return self._publish(self, size=size, expected=expected, labels=labels or {})

    def drop(self) -> None:
        """End, and keep nothing: the engine has the bytes, or they cannot be trusted."""
        self._end(self._place.discard)

    def close(self) -> None:
        try:
            if self._touched and self._fd >= 0:
                # The kernel's own stamps are as coarse as its tick, and may lie before what they tell of.
                with suppress(ImgtoolError):
                    atomic.stamp_file(self._fd, self._updated)
        finally:
            self._end(self._place.release)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _end(self, how: Callable[[], None]) -> None:
        if not self._open:
            return
        self._open = False
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        how()

    def gone(self) -> Unavailable:
        """The error where what was lent is not there any more."""
        return Unavailable(
            f"{self._what()} was to be {self.digest()}, which no namespace has any more",
            hint="begin the write anew, and send the bytes",
        )

    def _own(self) -> None:
        """Copy what is lent, so that more can follow it."""
        if not self._lent:
            return
        with self.reader() as reader:
            lent, self._lent, self._offset = self._lent, None, 0
            try:
                self.copy_from(reader.fileno())
            except BaseException:
                self._lent, self._offset, self._hasher = lent, lent.size, new_hasher(self._algorithm)
                raise

    def _check_writable(self) -> None:
        if self._fd < 0:
            raise self._closed()

    def _closed(self) -> FailedPrecondition:
        return FailedPrecondition(f"{self._what()} is closed")

    def _what(self) -> str:
        return f"content for '{self.ref}'" if self.ref else "content"

    def _touch(self) -> None:
        self._updated, self._touched = clock.now(), True

    def _seek(self) -> None:
        os.lseek(self._fd, self._offset, os.SEEK_SET)

    def _skip_equal(self, view: memoryview) -> memoryview:
        """Step over the bytes of `view` that are there already; what is left begins with a difference."""
        while view and self._kept:
            with read.errors(self._what()):
                there = os.pread(self._fd, min(len(view), self._kept, READ), self._offset)
            here = view[: len(there)]
            if not there or here != there:
                self._drop_rest()
                break
            self._hasher.update(here)
            self._offset += len(there)
            self._kept -= len(there)
            view = view[len(there) :]
        return view

    def _drop_rest(self) -> None:
        """Cut off what lies behind the offset: kept from before, or part of a write that failed."""
        if not self._lent and os.fstat(self._fd).st_size != self._offset:
            atomic.truncate(self._fd, self._offset)
        self._kept = 0

    def _hash_file(self, until: int) -> None:
        """Hash the file from the offset up to `until`, and move there."""
        for chunk in copying.chunks(self._fd, self._offset, until, self._what()):
            self._hasher.update(chunk)
            self._offset += len(chunk)

    def _hashed_anew(self, algorithm: str) -> Digest:
        """The digest in another algorithm than the one that was asked for at first."""
        hasher = new_hasher(algorithm)
        with self.reader() as reader:
            while data := reader.read(READ):
                hasher.update(data)
        return Digest.from_hasher(algorithm, hasher)

    def _copy_in_kernel(self, fd: int, most: int | None) -> None:
        self._touch()
        with Behind() as behind:
            copying.in_kernel(
                fd, self._fd, self._offset, most, lambda end: behind.do(partial(self._hash_file, end))
            )
