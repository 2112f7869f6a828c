"""Stage plain bytes: a file, a pipe, stdin."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from imgtool.errors import FailedPrecondition, InvalidArgument, from_oserror
from imgtool.model import Descriptor, Image
from imgtool.ops import sources
from imgtool.ops.hold import lease_for
from imgtool.ops.sources import Source
from imgtool.ops.staging import Staged, Wanted
from imgtool.stores import Commit, Ingester, Writer


def stage_file(content: Ingester, source: Source, wanted: Wanted, progress: Callable[[int], None]) -> Staged:
    """Stage a plain file, a pipe or stdin, to become an image.

    Raises:
        InvalidArgument: it is empty and has a name; and as `stage_bytes`.
    """
    commit = stage_bytes(content, source, wanted, progress)
    try:
        return _named(source, wanted, commit)
    except BaseException:
        commit.writer.close()
        raise


def stage_bytes(content: Ingester, source: Source, wanted: Wanted, progress: Callable[[int], None]) -> Commit:
    """Stage the bytes of a plain file, a pipe or stdin. The commit has their size and digest.

    Raises:
        InvalidArgument: it is a directory or device.
        FailedPrecondition: size or digest are not those expected.
        NotFound: it is not there.
    """
    fd = _open(source)
    try:
        expected = wanted.expected_digest
        algorithm = expected.algorithm if expected else wanted.algorithm
        if wanted.ref is None:
            writer: Writer = content.stage(algorithm=algorithm)
        else:
            writer = content.writer(wanted.ref, algorithm=algorithm)
            writer.replay()
        try:
            size = writer.copy_from(fd, wanted.expected_size)
            what = _what(source)
            if wanted.expected_size not in (None, size):
                found = f"{size} bytes" if size < (wanted.expected_size or 0) else "more bytes"
                raise FailedPrecondition(f"{what} has {found}, expected {wanted.expected_size}")
            digest = writer.digest()
            if expected not in (None, digest):
                raise FailedPrecondition(f"{what} is {digest}, expected {expected}")
            writer.finish()
            progress(size)
            return Commit(writer, size=size, expected=digest)
        except BaseException:
            writer.close()
            raise
    finally:
        if source.path != sources.STDIN:
            os.close(fd)


def _named(source: Source, wanted: Wanted, commit: Commit) -> Staged:
    digest, size = commit.expected, commit.size
    assert digest is not None
    assert size is not None
    names = list(wanted.names)
    if not names and source.path != sources.STDIN:
        names = [source.base_name]
    if not size and names:
        raise InvalidArgument(
            f"{_what(source)} is empty, which no image can be",
            hint="imgtool content ingest stores empty content",
        )
    target = Descriptor(wanted.media_type, digest, size)
    return Staged(
        commits=[commit],
        images=[Image(name, target, wanted.labels) for name in names],
        hold=None if names else lease_for(digest),
    )


def _what(source: Source) -> str:
    return "stdin" if source.path == sources.STDIN else f"'{source.path}'"


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
