"""Write what goes out: an archive to a file or a stream, or the directory of a layout. The same images
make the same bytes, whoever writes them and when.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from imgtool import clock
from imgtool.digest import Digest, Hasher, new_hasher
from imgtool.disk import atomic, copying
from imgtool.disk.beside import new_directory, new_file
from imgtool.disk.copying import COPY, PAGE, READ, Behind
from imgtool.disk.layout import inside
from imgtool.disk.reader import FileReader
from imgtool.errors import DataLoss, NotFound
from imgtool.ops.export_plan import HEALED, Member, Object, Parcel, check_digest, check_size
from imgtool.stores import Provider, Reader

Progress = Callable[[int], None]

_SMALL = 256 << 10  # bytes that are read and written with what is around them
_END = bytes(2 * tarfile.BLOCKSIZE)


def to_file(content: Provider, parcel: Parcel, path: str, progress: Progress) -> None:
    """Write an archive, which takes the place of `path` when it is whole, right and durable.

    Raises:
        DataLoss: an object is missing or damaged.
        NotFound: the directory is not there.
    """

    def write(fd: int) -> None:
        with Behind() as behind:
            out = _File(fd, behind)
            for member, header in _headers(parcel):
                out.write(header)
                out.put(content, member)
                out.write(_padding(member))
                progress(member.size)
            out.write(_END)
            out.flush()
            atomic.sync_fd(fd)  # while the last of it is still being hashed

    new_file(path, write)


def to_directory(content: Provider, parcel: Parcel, path: str, progress: Progress) -> None:
    """Write a layout, which takes the place of `path` when it is whole, right and durable.

    Raises:
        AlreadyExists: something else than an empty directory is there.
        DataLoss: an object is missing or damaged.
        NotFound: the directory around it is not there.
    """

    def fill(top: str, batch: atomic.Batch) -> None:
        written: list[str] = []
        for member in parcel.members():
            here = inside(top, member.path.rstrip("/"))
            if member.path.endswith("/"):
                atomic.mkdir(here, private=False)
                batch.touched(here)
                continue
            fd = atomic.create(here, private=False)
            try:
                with Behind() as behind:
                    out = _File(fd, behind)
                    out.put(content, member)
                    out.flush()
                    if member.size >= COPY:
                        atomic.sync_fd(fd)  # while the last of it is still being hashed
            finally:
                os.close(fd)
            # Small ones are synced together. From so many on, one call syncs also those not listed.
            if member.size < COPY and len(written) < atomic.SYNCFS_FROM:
                written.append(here)
            progress(member.size)
        atomic.sync_files(written)

    new_directory(path, fill)


def to_stream(
    content: Provider, parcel: Parcel, write: Callable[[bytes], object], progress: Progress
) -> None:
    """Write an archive into a pipe. What has been written cannot be taken back: see `verify`.

    Raises:
        DataLoss: an object has vanished or been damaged since.
    """
    for member, header in _headers(parcel):
        write(header)
        for data in _chunks(content, member):
            write(data)
            progress(len(data))
        write(_padding(member))
    write(_END)


def verify(content: Provider, parcel: Parcel, progress: Progress) -> None:
    """Read and hash every object.

    Raises:
        DataLoss: one is missing or damaged.
    """
    for member in parcel.members():
        for data in _chunks(content, member):
            progress(len(data))


class _File:
    """A file that grows: small pieces are gathered, large objects copied and hashed behind."""

    def __init__(self, fd: int, behind: Behind) -> None:
        self._fd = fd
        self._behind = behind
        self._end = 0
        self._gathered = bytearray()

    def write(self, data: bytes) -> None:
        self._gathered += data
        if len(self._gathered) >= READ:
            self.flush()

    def flush(self) -> None:
        os.lseek(self._fd, self._end, os.SEEK_SET)
        atomic.write(self._fd, bytes(self._gathered))
        self._end += len(self._gathered)
        self._gathered.clear()

    def put(self, content: Provider, member: Member) -> None:
        """Append the bytes of a member.

        Raises:
            DataLoss: they are missing or damaged; it may come only when `behind` ends.
        """
        if member.object and member.size > _SMALL:
            with _opened(content, member.object, member.size) as reader:
                if isinstance(reader, FileReader) and self._copy(member.object, reader):
                    return
        for data in _chunks(content, member):
            self.write(data)

    def _copy(self, stored: Object, reader: FileReader) -> bool:
        """Append an object; False where nothing could be copied."""
        self.flush()
        hasher, begin = new_hasher(stored.digest.algorithm), self._end

        def written(end: int) -> None:
            self._behind.do(partial(_hash, hasher, self._fd, self._end, end))
            self._end = end

        copy = copying.by_hand if begin % PAGE else copying.in_kernel
        if not copy(reader.fileno(), self._fd, begin, reader.size, written):
            return False
        check_size(stored.name, self._end - begin, reader.size)
        self._behind.do(partial(_check, stored, hasher))
        return True


def _hash(hasher: Hasher, fd: int, start: int, end: int) -> None:
    for chunk in copying.chunks(fd, start, end, "the export"):
        hasher.update(chunk)


def _headers(parcel: Parcel) -> Iterator[tuple[Member, bytes]]:
    """The members with their headers: ustar, and pax where that has no room for a name or a size."""
    mtime = clock.source_date_epoch() or 0
    for member in parcel.members():
        info = tarfile.TarInfo(member.path.rstrip("/"))
        info.mtime, info.size, info.mode = mtime, member.size, 0o644
        if member.path.endswith("/"):
            info.type, info.mode = tarfile.DIRTYPE, 0o755
        yield member, info.tobuf(tarfile.PAX_FORMAT)


def _padding(member: Member) -> bytes:
    return bytes(-member.size % tarfile.BLOCKSIZE)


def _chunks(content: Provider, member: Member) -> Iterator[bytes]:
    """The bytes of a member, in pieces.

    Raises:
        DataLoss: they are missing or, told behind the last piece, damaged.
    """
    if member.object is None:
        yield member.data
        return
    hasher, size = new_hasher(member.object.digest.algorithm), 0
    with _opened(content, member.object, member.size) as reader:
        while data := reader.read(READ):
            hasher.update(data)
            size += len(data)
            yield data
    check_size(member.object.name, size, member.size)
    _check(member.object, hasher)


@contextmanager
def _opened(content: Provider, stored: Object, size: int) -> Iterator[Reader]:
    try:
        reader = content.reader(stored.name)
    except NotFound:
        raise DataLoss(f"object '{stored.name}' is missing from the store", hint=HEALED) from None
    with reader:
        check_size(stored.name, reader.size, size)
        yield reader


def _check(stored: Object, hasher: Hasher) -> None:
    check_digest(stored.name, Digest.from_hasher(stored.digest.algorithm, hasher), stored.digest)
