"""Read files of a store: regular files only, no link followed, never waiting."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Generic, NamedTuple, TypeVar

from imgtool import clock
from imgtool.disk.layout import base, inside, is_branch, parent
from imgtool.errors import DataLoss, from_oserror

T = TypeVar("T")
Identity = tuple[int, ...]
"""Of a file or directory; an mtime and a ctime in nanoseconds are the last."""

# A scan may miss entries that exist all along while others are renamed over (seen on btrfs and tmpfs).
_SCANS_MAX = 5
# Nanoseconds after which what looks the same is the same, whatever step the clock has.
_SETTLED = 2_000_000_000
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
# A time of access for every file that is read would have to be written, by the next sync at the latest.
_QUIETLY = _FLAGS | getattr(os, "O_NOATIME", 0)
_SMALL = 4096  # bytes; most records have fewer
_LARGE = 1 << 20  # hardly any has more


def open_regular(path: str) -> tuple[int, os.stat_result]:
    """Open a file for reading.

    Raises:
        FileNotFoundError: it is not there.
        DataLoss: it is a link, a pipe, a device or a directory, or lies below a file.
    """
    try:
        fd = _open(path)
    except FileNotFoundError:
        raise FileNotFoundError(path) from None
    except OSError as error:
        if error.errno == errno.ENOTDIR:
            raise _not_below(path) from None
        if error.errno == errno.ELOOP:
            raise DataLoss(f"'{path}' is a symbolic link, expected a file") from None
        if error.errno == errno.ENXIO:
            raise DataLoss(f"'{path}' is not a regular file") from None
        raise from_oserror(error, "cannot open") from error
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        os.close(fd)
        raise DataLoss(f"'{path}' is not a regular file")
    return fd, status


def _open(path: str, at: int | None = None, more: int = 0) -> int:
    try:
        return os.open(path, _QUIETLY | more, dir_fd=at)
    except PermissionError:  # of a file that is not ours; or it must not be read at all
        return os.open(path, _FLAGS | more, dir_fd=at)


def read_regular(path: str, limit: int) -> bytes:
    """The bytes of a file of at most `limit` bytes.

    Raises:
        FileNotFoundError: it is not there.
        DataLoss: it is no regular file, or longer.
    """
    return read_with_status(path, limit)[0]


def read_with_status(path: str, limit: int) -> tuple[bytes, os.stat_result]:
    """As `read_regular`, and the status of the file that was read."""
    fd, status = open_regular(path)
    try:
        # One read tells, where the file has not grown since its size was asked.
        data = os.read(fd, min(limit, status.st_size) + 1)
        if len(data) != status.st_size:
            data += read_fd(fd, limit + 1 - len(data), status.st_size + 1)
    except OSError as error:
        error.filename = path
        raise from_oserror(error, "cannot read") from error
    finally:
        os.close(fd)
    if len(data) > limit:
        raise DataLoss(f"'{path}' is longer than {limit} bytes")
    return data, status


def small_files(directory: str, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """The bytes of files in `directory`, at half the cost of `read_regular`, for who judges them by a seal:
    that they are regular files is not looked at. What cannot be read, or is longer than a record, has no
    bytes: what it is, `read_regular` tells. What is not there is left out.
    """
    try:
        at = _open(directory, more=os.O_DIRECTORY)
    except OSError:
        yield from ((name, b"") for name in names)
        return
    try:
        for name in names:
            try:
                fd = _open(name, at)
            except FileNotFoundError:
                continue
            except OSError:
                yield name, b""
                continue
            try:
                data = os.read(fd, _SMALL)
                if len(data) == _SMALL:
                    data += read_fd(fd, _LARGE)
            except OSError:
                data = b""
            finally:
                os.close(fd)
            yield name, data if len(data) < _LARGE else b""
    finally:
        os.close(at)


@contextmanager
def errors(what: str) -> Iterator[None]:
    """Turn what the machine refuses while `what` is read into an imgtool error."""
    try:
        yield
    except OSError as error:
        raise from_oserror(error, f"cannot read {what}") from error


def read_fd(fd: int, count: int, step: int | None = None) -> bytes:
    """Up to `count` bytes, fewer only at the end of the file; at most `step` at once, because Python
    allocates what it asks for.
    """
    parts, left = [], count
    while left and (data := os.read(fd, min(left, step or left))):
        parts.append(data)
        left -= len(data)
    return b"".join(parts)


def entries(directory: str) -> list[str]:
    """The names in a directory, as `listed` has them.

    Raises:
        DataLoss: as `is_directory`.
    """
    return listed(directory).found


class Seen(NamedTuple, Generic[T]):
    """What was found by a look at a file or directory.

    `identity` is empty where that was not everything, or has changed meanwhile; `is_steady` says whether the
    same identity means, later, that there is the same: not if it had changed so lately before the look that
    another change would not show.
    """

    found: T
    identity: Identity
    is_steady: bool


def listed(directory: str, *, or_file: bool = False) -> Seen[list[str]]:
    """The names in a directory, in byte order; none where it is absent. Where it changes, or has just been
    changed, scans until two scans agree, five times at most, and takes their union.

    Raises:
        DataLoss: as `is_directory`.
    """
    now, status = clock.wall(), _directory(directory, or_file)
    if status is None:
        return Seen([], (), False)
    before, seen = identified(status), _scan(directory)
    is_same = identity(directory) == before
    is_steady = is_same and is_settled(before, now)
    if not is_steady:
        for _ in range(_SCANS_MAX - 1):
            again = _scan(directory)
            if again == seen:
                break
            seen |= again
    # Of ASCII the order of text is that of bytes.
    names = sorted(seen) if all(map(str.isascii, seen)) else sorted(seen, key=os.fsencode)
    return Seen(names, before if is_same else (), is_steady)


def steadily(path: str, look: Callable[[], tuple[T, bool]]) -> Seen[T]:
    """What `look` finds at `path`.

    Args:
        look: returns also whether it has found everything.
    """
    now, before = clock.wall(), identity(path)
    found, is_whole = look()
    if not (is_whole and before and identity(path) == before):
        return Seen(found, (), False)
    return Seen(found, before, is_settled(before, now))


def identity(path: str) -> Identity:
    """What changes whenever a file or directory does; empty where there is none."""
    try:
        return identified(os.lstat(path))
    except OSError:
        return ()


def identified(status: os.stat_result) -> Identity:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def is_settled(identity: Identity, now: int) -> bool:
    """Whether another change would show: it would make mtime and ctime the same, so it would where they
    differ, as after a stamp or a rename; and where they are so long ago that the clock has gone on.

    Args:
        identity: of a file or directory.
        now: before it was looked at; by the wall clock, nanoseconds since the epoch.
    """
    modified, changed = identity[-2:]
    return modified != changed or now - changed > _SETTLED


def is_older(identity: Identity, inode: int, now: int) -> bool:
    """Whether a file that had `inode` before `now` is the same still: no other was put into its place, and by
    its own time it had its last change before.
    """
    return bool(identity) and identity[1] == inode and now - identity[-1] > _SETTLED


def inodes(directory: str) -> dict[str, int]:
    """The inodes of the files in a directory, by their names; none where it cannot be read."""
    try:
        fd = _open(directory, more=os.O_DIRECTORY)
    except OSError:
        return {}
    try:
        with os.scandir(fd) as entries:
            return {entry.name: entry.inode() for entry in entries}
    except OSError:
        return {}
    finally:
        os.close(fd)


def branch(directory: str) -> Seen[list[str]]:
    """As `listed`, of what lies between the records or objects. A file that no directory would be called
    like is not ours, and nothing is in it.

    Raises:
        DataLoss: it is a file that has a directory's name: what was in there cannot be told.
    """
    return listed(directory, or_file=not is_branch(base(directory)))


def walk_fan_out(directory: str) -> Iterator[tuple[str, str]]:
    """Each file below `directory/<algorithm>/<2 hex>/`, as its path and `algorithm:hex…`, in order.
    What does not lie at that depth is not ours, and left out.

    Raises:
        DataLoss: as `branch`.
    """
    for algorithm in entries(directory):
        for prefix in branch(inside(directory, algorithm)).found:
            deep = inside(inside(directory, algorithm), prefix)
            for rest in branch(deep).found:
                yield inside(deep, rest), f"{algorithm}:{prefix}{rest}"


def is_directory(path: str, *, or_file: bool = False) -> bool:
    """Whether a directory is there.

    Args:
        or_file: a file of that name may be there, which is not ours.

    Raises:
        DataLoss: it is a link: none is followed below the root of a store; or something else.
    """
    return _directory(path, or_file) is not None


def _directory(path: str, or_file: bool) -> os.stat_result | None:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        raise _not_below(path) from None
    except OSError as error:
        raise from_oserror(error, "cannot open") from error
    if stat.S_ISDIR(status.st_mode):
        return status
    if stat.S_ISLNK(status.st_mode):
        raise DataLoss(f"'{path}' is a symbolic link, expected a directory")
    if not or_file:
        raise _file(path)
    return None


def _not_below(path: str) -> DataLoss:
    while not os.path.lexists(path):
        path = parent(path)
    return _file(path)


def _file(path: str) -> DataLoss:
    return DataLoss(
        f"'{path}' is a file, expected a directory",
        hint="put back the directory; or if there was none, move the file out of the store",
    )


def _scan(directory: str) -> set[str]:
    try:
        fd = _open(directory, more=os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except OSError as error:
        raise from_oserror(error, "cannot list") from error
    try:
        return set(os.listdir(fd))
    except OSError as error:
        error.filename = directory
        raise from_oserror(error, "cannot list") from error
    finally:
        os.close(fd)
