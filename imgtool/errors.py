"""Every error that imgtool reports: one class for each exit code of imgtool(1).

The classes are containerd's (`errdefs`), the names those of gRPC, and the exit code stands on the
class, so that the command line and the daemon's face translate nothing.
"""

from __future__ import annotations

import errno


class ImgtoolError(Exception):
    """A bug, or an I/O error with no better class.

    Args:
        message: what failed, on which thing, what was found; lower case, no full stop.
        hint: the way out, if there is one.
    """

    exit_code = 1
    grpc = "INTERNAL"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class InvalidArgument(ImgtoolError):
    """Bad name, label or filter; malformed or incomplete archive; wrong usage."""

    exit_code = 2
    grpc = "INVALID_ARGUMENT"


class NotFound(ImgtoolError):
    """Image, object, lease, namespace or source path that is not there."""

    exit_code = 3
    grpc = "NOT_FOUND"


class AlreadyExists(ImgtoolError):
    """Create over an existing name."""

    exit_code = 4
    grpc = "ALREADY_EXISTS"


class FailedPrecondition(ImgtoolError):
    """Compare-and-swap lost; bytes other than stated; namespace not empty; format too new."""

    exit_code = 5
    grpc = "FAILED_PRECONDITION"


class DataLoss(ImgtoolError):
    """The store's own bytes: an object missing or other than its name; an unreadable record."""

    exit_code = 6
    grpc = "DATA_LOSS"


class Unavailable(ImgtoolError):
    """Lock time-out; network."""

    exit_code = 7
    grpc = "UNAVAILABLE"


class PermissionDenied(ImgtoolError):
    """No permission, read-only file system, registry authorisation."""

    exit_code = 8
    grpc = "PERMISSION_DENIED"


class ResourceExhausted(ImgtoolError):
    """Disk or quota full, stdout full, no descriptors or memory left."""

    exit_code = 9
    grpc = "RESOURCE_EXHAUSTED"


_BY_ERRNO: dict[int, type[ImgtoolError]] = {
    errno.ENOENT: NotFound,
    errno.ENOTDIR: NotFound,
    errno.ENAMETOOLONG: InvalidArgument,
    errno.ELOOP: InvalidArgument,
    errno.EACCES: PermissionDenied,
    errno.EPERM: PermissionDenied,
    errno.EROFS: PermissionDenied,
    errno.ENOSPC: ResourceExhausted,
    errno.EDQUOT: ResourceExhausted,
    errno.EFBIG: ResourceExhausted,
    errno.EMFILE: ResourceExhausted,
    errno.ENFILE: ResourceExhausted,
    errno.ENOMEM: ResourceExhausted,
}


def from_oserror(error: OSError, doing: str = "") -> ImgtoolError:
    """The imgtool error for an operating-system error, by its errno.

    Args:
        error: the error; its file name goes into the message.
        doing: what was being done, for the front of the message ("cannot read").
    """
    cls = _BY_ERRNO.get(error.errno or 0, ImgtoolError)
    what = (error.strerror or str(error) or type(error).__name__).lower()
    where = f" '{error.filename}'" if error.filename is not None else ""
    return cls(f"{doing or 'failed on'}{where}: {what}")
