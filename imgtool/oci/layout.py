"""OCI image layouts: a directory that somebody else made.

The path that the user typed may be a link; nothing below it is followed, and nothing but regular
files is opened, so that no link leads out, and no pipe or device makes a reader wait (FAULTS T3).
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from imgtool.digest import Digest
from imgtool.errors import FailedPrecondition, ImgtoolError, InvalidArgument, NotFound, from_oserror
from imgtool.model import Descriptor
from imgtool.oci import media
from imgtool.oci.manifest import parse
from imgtool.oci.strictjson import LIMIT, kind, load_object

if TYPE_CHECKING:
    from typing import Self

IMAGE_NAME = "io.containerd.image.name"
REF_NAME = "org.opencontainers.image.ref.name"

_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_VERSION = re.compile(r"1\.[0-9]{1,9}\.[0-9]{1,9}", re.ASCII)
_HINT = "an OCI image layout has the files oci-layout and index.json and the directory blobs"


@dataclass(frozen=True)
class Root:
    """An entry of index.json. `name` is what `ctr images import` would call it before it puts a
    prefix in front of a mere tag; None if the layout does not say.
    """

    descriptor: Descriptor
    name: str | None


class FileReader:
    """An open regular file as a `stores.Reader`. Owns `fd`; `path` is for messages."""

    def __init__(self, fd: int, path: str) -> None:
        self.fd = fd
        self.path = path
        self.size = os.fstat(fd).st_size

    def read(self, n: int = -1, /) -> bytes:
        try:
            if n >= 0:
                return os.read(self.fd, n)
            chunks = []
            while chunk := os.read(self.fd, LIMIT):
                chunks.append(chunk)
            return b"".join(chunks)
        except OSError as e:
            raise _io_error(e, self.path, "read") from None

    def read_at(self, n: int, offset: int) -> bytes:
        try:
            return os.pread(self.fd, n, offset)
        except OSError as e:
            raise _io_error(e, self.path, "read") from None

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Layout:
    """An open layout: its roots and its blobs. It is a `stores.Provider`, whose bytes nobody has
    vouched for. `with` closes it.

    Args:
        path: of the directory.

    Raises:
        NotFound: nothing is there.
        InvalidArgument: no layout, one of another version than 1, or a malformed index.json.
        PermissionDenied: it cannot be read.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._directories: dict[str, int | None] = {}
        try:
            self._root = os.open(path, _DIRECTORY)
        except NotADirectoryError:
            raise InvalidArgument(f"'{path}' is not a directory", hint=_HINT) from None
        except (OSError, ValueError) as e:  # ValueError: NUL in the path
            if isinstance(e, ValueError):
                raise InvalidArgument(f"'{path}' is no path") from None
            raise from_oserror(e, "cannot open") from None
        try:
            self._check_version()
            self.roots = self._read_roots()
        except BaseException:
            self.close()
            raise

    def find(self, ref: str) -> tuple[Root, ...]:
        """As `find_roots`."""
        return find_roots(self.roots, ref, f"layout '{self.path}'")

    def has(self, digest: Digest) -> bool:
        """Whether there is an entry for `digest`, whatever it holds."""
        directory = self._directory(digest.algorithm)
        try:
            if directory is not None:
                os.stat(digest.encoded, dir_fd=directory, follow_symlinks=False)
                return True
        except FileNotFoundError:
            pass
        except OSError as e:
            raise _io_error(e, self._blob_path(digest)) from None
        return False

    def open_blob(self, digest: Digest, size: int | None = None) -> int:
        """A file descriptor of the blob `digest`, which the caller closes. Its bytes are not hashed.

        Args:
            size: what its length must be; None takes any.

        Raises:
            NotFound: it is not there.
            InvalidArgument: it is no regular file.
            FailedPrecondition: it has another length.
        """
        directory = self._directory(digest.algorithm)
        if directory is None:
            raise NotFound(f"layout '{self.path}' has no blob {digest}")
        fd = self._open(directory, digest.encoded, self._blob_path(digest))
        found = os.fstat(fd).st_size
        if size is not None and found != size:
            os.close(fd)
            raise FailedPrecondition(f"blob {digest} in '{self.path}' has {found} bytes, expected {size}")
        return fd

    def reader(self, digest: Digest) -> FileReader:
        """Open the blob `digest`.

        Raises:
            NotFound: it is not there.
            InvalidArgument: it is no regular file.
        """
        return FileReader(self.open_blob(digest), self._blob_path(digest))

    def close(self) -> None:
        for fd in (self._root, *self._directories.values()):
            if fd is not None and fd >= 0:
                os.close(fd)
        self._root = -1
        self._directories.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_version(self) -> None:
        try:
            raw = self._read("oci-layout")
        except NotFound:
            raise InvalidArgument(self._no_layout(), hint=_HINT) from None
        check_version(raw, self.path)

    def _no_layout(self) -> str:
        why = "it has no file 'oci-layout'"
        try:
            os.stat("docker/registry/v2", dir_fd=self._root)
            why = "it is the storage folder of a registry"
        except OSError:
            pass
        return f"'{self.path}' is no OCI image layout: {why}"

    def _read_roots(self) -> tuple[Root, ...]:
        try:
            raw = self._read("index.json")
        except NotFound:
            raise InvalidArgument(f"layout '{self.path}' has no file 'index.json'", hint=_HINT) from None
        return roots_of(raw, f"'{self.path}/index.json'")

    def _read(self, name: str) -> bytes:
        path = f"{self.path}/{name}"
        with FileReader(self._open(self._root, name, path), path) as reader:
            if reader.size > LIMIT:
                raise InvalidArgument(f"'{path}' has {reader.size} bytes, at most {LIMIT} are read")
            return reader.read(LIMIT)

    def _directory(self, algorithm: str) -> int | None:
        """`blobs/<algorithm>`, opened once; None where it is absent."""
        if algorithm not in self._directories:
            parent = self._root
            try:
                parent = os.open("blobs", _DIRECTORY | os.O_NOFOLLOW, dir_fd=self._root)
                self._directories[algorithm] = os.open(algorithm, _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
            except FileNotFoundError:
                self._directories[algorithm] = None
            except OSError as e:
                raise _io_error(e, f"{self.path}/blobs/{algorithm}") from None
            finally:
                if parent != self._root:
                    os.close(parent)
        return self._directories[algorithm]

    def _open(self, directory: int, name: str, path: str) -> int:
        try:
            fd = os.open(name, _FILE, dir_fd=directory)
        except OSError as e:
            raise _io_error(e, path) from None
        mode = os.fstat(fd).st_mode
        if not stat.S_ISREG(mode):
            os.close(fd)
            raise InvalidArgument(f"'{path}' is no regular file")
        return fd

    def _blob_path(self, digest: Digest) -> str:
        return f"{self.path}/blobs/{digest.algorithm}/{digest.encoded}"


def check_version(raw: bytes, path: str) -> None:
    """Judge the file `oci-layout`.

    Args:
        raw: its bytes.
        path: of the layout, for messages.

    Raises:
        InvalidArgument: it is malformed, or the layout has another version than 1.
    """
    version = load_object(raw, f"'{path}/oci-layout'").get("imageLayoutVersion")
    if not isinstance(version, str):
        raise InvalidArgument(f"imageLayoutVersion of '{path}' is {kind(version)}, expected a string")
    if not _VERSION.fullmatch(version):
        raise InvalidArgument(f"layout '{path}' has version '{version[:40]}', imgtool reads 1.x")


def roots_of(raw: bytes, what: str) -> tuple[Root, ...]:
    """The entries of the `index.json` that `raw` is.

    Raises:
        InvalidArgument: it is malformed.
    """
    # The file has no descriptor that could state its type.
    stated = load_object(raw, what).get("mediaType")
    index = parse(raw, media.DOCKER_LIST if stated == media.DOCKER_LIST else media.OCI_INDEX, what)
    return tuple(Root(d, root_name(d.annotations)) for d in index.manifests)


def find_roots(roots: Iterable[Root], ref: str, what: str) -> tuple[Root, ...]:
    """Those of `roots` that are called `ref`, in full or by the tag that `skopeo` and `umoci` use.

    Raises:
        NotFound: none is.
    """
    roots = tuple(roots)
    found = tuple(r for r in roots if ref == r.name or ref == r.descriptor.annotations.get(REF_NAME))
    if not found:
        names = ", ".join(sorted({r.name for r in roots if r.name})) or "no names"
        raise NotFound(f"{what} has no image '{ref}'", hint=f"it has {names[:400]}")
    return found


def root_name(annotations: Mapping[str, str]) -> str | None:
    """The name that annotations of a descriptor in index.json give: containerd's own before OCI's."""
    return annotations.get(IMAGE_NAME) or annotations.get(REF_NAME) or None


def _io_error(error: OSError, path: str, doing: str = "open") -> ImgtoolError:
    # A link is ELOOP for a file and ENOTDIR for a directory; a socket is ENXIO.
    if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO):
        return InvalidArgument(f"'{path}' is a link or no regular file, which a layout cannot have")
    return from_oserror(OSError(error.errno, error.strerror, path), f"cannot {doing}")
