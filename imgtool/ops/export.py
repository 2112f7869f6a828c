"""Write images for other tools: an archive, or a layout's directory. One archive is one thing: it has all
that was asked for, whole and right, or it is not there.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imgtool.disk.beside import check_free
from imgtool.errors import DataLoss, ImgtoolError, InvalidArgument, NotFound, from_oserror
from imgtool.ops import export_write
from imgtool.ops.export_plan import Exported, Parcel, plan
from imgtool.ops.sources import DOCKER_ARCHIVE, LAYOUT, OCI_ARCHIVE

if TYPE_CHECKING:
    from imgtool.model import Image, Platform
    from imgtool.stores import Store

KINDS = (LAYOUT, OCI_ARCHIVE, DOCKER_ARCHIVE)
STDOUT = "-"

_TRIES = 3  # while others change the images

Write = Callable[[bytes], object]


@dataclass(frozen=True)
class Wanted:
    """What is asked for besides the images; see imgtool-export(1). Made by `wanted`."""

    path: str
    kind: str
    platform: Platform | None = None
    dry_run: bool = False


def wanted(path: str, kind: str | None, platform: Platform | None = None, *, dry_run: bool = False) -> Wanted:
    """What is asked for, checked before anything is read.

    Args:
        path: where to; `-` is stdout, and so is another name of the same file.
        kind: one of KINDS; None: a layout where `path` is a directory or ends with a slash, else an
            oci-archive.
        platform: leave out the manifests that are for others.
        dry_run: check everything, and write nothing.

    Raises:
        InvalidArgument: there is no such kind, or `path` cannot be one.
    """
    if not path:
        raise InvalidArgument("--output is empty", hint="- is stdout")
    if _is_stdout(path):
        path = STDOUT
    is_directory = path != STDOUT and (path.endswith("/") or os.path.isdir(path))
    if kind is None:
        kind = LAYOUT if is_directory else OCI_ARCHIVE
    if kind not in KINDS:
        raise InvalidArgument(f"cannot export to '{kind}'", hint=f"--to takes {', '.join(KINDS)}")
    if kind == LAYOUT and path == STDOUT:
        raise InvalidArgument("a layout is a directory, which stdout is not", hint="use --to oci-archive")
    if kind != LAYOUT and is_directory:
        raise InvalidArgument(f"'{path}' is a directory, and an {kind} a file")
    return Wanted(path, kind, platform, dry_run)


class Export:
    """One call of export.

    Args:
        store: where from.
        namespace: whose.
        wanted: the options.
        stdout: writes bytes there.
        on_error: called with the failure of each name that cannot be read.
        say: called with what the user should know, such as what is absent by choice.
        warn: called with what other tools may trip over.
        progress: called with numbers of bytes that are done.
    """

    def __init__(
        self,
        store: Store,
        namespace: str,
        wanted: Wanted,
        *,
        stdout: Write,
        on_error: Callable[[ImgtoolError], None],
        say: Callable[[str], None],
        warn: Callable[[str], None],
        progress: Callable[[int], None],
    ) -> None:
        self._images = store.images(namespace)
        self._content = store.content(namespace)
        self._wanted = wanted
        self._stdout = stdout
        self._on_error = on_error
        self._say = say
        self._warn = warn
        self._progress = progress

    def run(self, names: Sequence[str]) -> list[Exported]:
        """Export the images called `names`; all of them, or nothing where one cannot be read.

        Raises:
            DataLoss: content is missing or damaged.
            AlreadyExists: something is where a layout should be.
            InvalidArgument, NotFound: see `export_plan.plan`.
        """
        if not names:
            raise InvalidArgument("no image is named")
        if self._wanted.kind == LAYOUT:
            check_free(self._wanted.path)
        with self._stream() as write:
            parcel = self._settled(sorted(set(names), key=os.fsencode))
            if parcel is None:
                return []
            for note in parcel.notes:
                self._say(note)
            for warning in parcel.warnings:
                self._warn(warning)
            if write:
                export_write.to_stream(self._content, parcel, write, self._progress)
            return parcel.images

    def _settled(self, names: Sequence[str]) -> Parcel | None:
        """Write a file or directory, and make sure of what goes into a stream. Starts over while what is
        missing is so because images were changed meanwhile. None where an image cannot be read.
        """
        images = self._load(names)
        for left in reversed(range(_TRIES)):
            if images is None:
                return None
            try:
                parcel = plan(self._content, images, self._wanted.kind, self._wanted.platform)
                self._write(parcel)
                return parcel
            except (DataLoss, NotFound):
                before, images = images, self._load(names)
                if images == before or not left:
                    raise
        return None

    def _load(self, names: Sequence[str]) -> list[Image] | None:
        found = []
        for name in names:
            try:
                found.append(self._images.get(name))
            except ImgtoolError as error:
                self._on_error(error)
        return found if len(found) == len(names) else None

    def _write(self, parcel: Parcel) -> None:
        path, content, progress = self._wanted.path, self._content, self._progress
        if self._wanted.dry_run:
            export_write.verify(content, parcel, progress)
        elif self._wanted.kind == LAYOUT:
            export_write.to_directory(content, parcel, path, progress)
        elif _is_stream(path):
            export_write.verify(content, parcel, lambda _: None)
        else:
            export_write.to_file(content, parcel, path, progress)

    @contextmanager
    def _stream(self) -> Iterator[Write | None]:
        """What writes to stdout, or to a pipe or device that is named like a file; None for a file."""
        path = self._wanted.path
        if self._wanted.dry_run or self._wanted.kind == LAYOUT or not _is_stream(path):
            yield None
        elif path == STDOUT:
            _refuse_terminal(1)
            yield self._stdout
        else:
            fd = _open(path)
            try:
                _refuse_terminal(fd)
                yield lambda data: _write_all(fd, data, path)
            finally:
                os.close(fd)


def _is_stdout(path: str) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(1))
    except OSError:
        return False


def _is_stream(path: str) -> bool:
    """Whether a path cannot be replaced by a new file, because it is none."""
    if path == STDOUT:
        return True
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _refuse_terminal(fd: int) -> None:
    if os.isatty(fd):
        raise InvalidArgument(
            "an archive is not written to a terminal", hint="redirect stdout to a file or a pipe"
        )


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        raise from_oserror(error, "cannot write") from None


def _write_all(fd: int, data: bytes, path: str) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BrokenPipeError:
            raise
        except OSError as error:
            raise from_oserror(OSError(error.errno, error.strerror, path), "cannot write") from None
