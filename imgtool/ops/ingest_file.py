"""Stage plain bytes: a file, a pipe, stdin."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from imgtool.errors import FailedPrecondition, InvalidArgument, from_oserror
from imgtool.model import Descriptor, Image
from imgtool.oci import manifest, media
from imgtool.oci.strictjson import LIMIT
from imgtool.ops import sources
from imgtool.ops.sources import Source
from imgtool.ops.staging import Staged, Wanted, copy
from imgtool.stores import Commit, Ingester, Writer

HEAD = 1 << 20  # bytes that tell what a source is: a bzip2 block has to fit


@dataclass(frozen=True)
class Opened:
    """An open source. `head` has been read from it already; empty where it can be read again."""

    source: Source
    fd: int
    head: bytes = b""


@contextmanager
def opened(source: Source) -> Iterator[Opened]:
    """Open a file, a pipe or stdin.

    Raises:
        InvalidArgument: it is a directory or a device.
        NotFound: it is not there.
    """
    fd = _open(source)
    try:
        yield Opened(source, fd)
    finally:
        if source.path != sources.STDIN:
            os.close(fd)


def peek(here: Opened) -> tuple[bytes, Opened]:
    """The first bytes, up to HEAD, and the source to go on with."""
    if stat.S_ISREG(os.fstat(here.fd).st_mode):
        return os.pread(here.fd, HEAD, os.lseek(here.fd, 0, os.SEEK_CUR)), here
    parts, left = [], HEAD
    while left and (data := os.read(here.fd, left)):
        parts.append(data)
        left -= len(data)
    head = b"".join(parts)
    return head, replace(here, head=head)


def stage_file(content: Ingester, here: Opened, wanted: Wanted, progress: Callable[[int], None]) -> Staged:
    """Stage plain bytes, to become an image.

    Raises:
        InvalidArgument: they are none and have a name, or are not the manifest that they are said to
            be; and as `stage_bytes`.
    """
    commit = stage_bytes(content, here, wanted, progress)
    try:
        if media.has_children(wanted.media_type):
            _check_document(commit, wanted.media_type, here.source.what)
        return _named(here.source, wanted, commit)
    except BaseException:
        commit.writer.close()
        raise


def stage_bytes(content: Ingester, here: Opened, wanted: Wanted, progress: Callable[[int], None]) -> Commit:
    """Stage plain bytes. The commit has their size and digest.

    Raises:
        FailedPrecondition: size or digest are not those expected.
    """
    expected, limit, what = wanted.expected_digest, wanted.expected_size, here.source.what
    algorithm = expected.algorithm if expected else wanted.algorithm
    if wanted.ref is None:
        writer: Writer = content.stage(algorithm=algorithm)
    else:
        writer = content.writer(wanted.ref, algorithm=algorithm, lease=wanted.lease)
        writer.replay()
    try:
        size = writer.write(here.head)
        progress(size)
        if limit is None or size <= limit:
            size += copy(writer, here.fd, progress, None if limit is None else limit - size)
        if limit not in (None, size):
            found = f"{size} bytes" if size < (limit or 0) else "more bytes"
            raise FailedPrecondition(f"{what} has {found}, expected {limit}")
        digest = writer.digest()
        if expected not in (None, digest):
            raise FailedPrecondition(f"{what} is {digest}, expected {expected}")
        writer.finish()
        return Commit(writer, size=size, expected=digest)
    except BaseException:
        writer.close()
        raise


def _check_document(commit: Commit, media_type: str, what: str) -> None:
    """Refuse under the name of a manifest what is none: gc could not tell what it keeps."""
    with commit.writer.reader() as reader:
        if reader.size > LIMIT:
            raise InvalidArgument(f"{what} has {reader.size} bytes, and a manifest at most {LIMIT}")
        manifest.parse(reader.read(), media_type, what)


def _named(source: Source, wanted: Wanted, commit: Commit) -> Staged:
    digest, size = commit.expected, commit.size
    assert digest is not None
    assert size is not None
    names = list(wanted.names)
    if not names and source.path != sources.STDIN:
        names = [source.base_name]
    if not size and names:
        raise InvalidArgument(
            f"{source.what} is empty, which no image can be",
            hint="imgtool content ingest stores empty content",
        )
    target = Descriptor(wanted.media_type, digest, size)
    return Staged(
        commits=[commit],
        images=[Image(name, target, wanted.labels) for name in names],
        nameless=not names,
    )


def _open(source: Source) -> int:
    if source.path == sources.STDIN:
        return 0
    try:
        fd = os.open(source.path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise from_oserror(error, "cannot open source") from None
    mode = os.fstat(fd).st_mode
    if stat.S_ISREG(mode) or stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
        return fd
    os.close(fd)
    kind = "a directory" if stat.S_ISDIR(mode) else "a device"
    raise InvalidArgument(f"source '{source.path}' is {kind}, expected a file or a pipe")
