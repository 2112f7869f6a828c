"""What a call brings in its metadata, and how an error leaves: gRPC's code and containerd's words."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any, TypeVar

from imgtool.errors import FailedPrecondition, ImgtoolError, ResourceExhausted, from_oserror
from imgtool.names import check_namespace
from imgtool.serve.streams import Stream

NAMESPACE = "containerd-namespace"
LEASE = "containerd-lease"
TIMEOUT = "grpc-timeout"

CODES = {
    "INVALID_ARGUMENT": 3,
    "NOT_FOUND": 5,
    "ALREADY_EXISTS": 6,
    "PERMISSION_DENIED": 7,
    "RESOURCE_EXHAUSTED": 8,
    "FAILED_PRECONDITION": 9,
    "OUT_OF_RANGE": 11,
    "UNIMPLEMENTED": 12,
    "INTERNAL": 13,
    "UNAVAILABLE": 14,
    "DATA_LOSS": 15,
}
"""gRPC's numbers for the codes that errors have."""

MESSAGE_MAX = (
    2048  # bytes, of an error; three times as many, written as %XX, still fit into the trailer of a reply
)
_MARK = "is_at_once"
# containerd's clients know an error by its code, take this end off the message and put their own there.
_ENDS = {
    "ALREADY_EXISTS": "already exists",
    "FAILED_PRECONDITION": "failed precondition",
    "INVALID_ARGUMENT": "invalid argument",
    "NOT_FOUND": "not found",
    "UNAVAILABLE": "unavailable",
    "UNIMPLEMENTED": "not implemented",
}
_TIMEOUT = re.compile(r"(\d{1,8})([HMSmun])", re.ASCII)
_SECONDS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}

M = TypeVar("M", bound=Callable[..., Any])


def at_once(method: M) -> M:
    """Mark a method of a service that waits for no lock and for nobody: the thread that reads the client's
    connection answers it, which is quicker, and reads nothing meanwhile.
    """
    setattr(method, _MARK, True)
    return method


def is_at_once(method: Callable[..., Any]) -> bool:
    return getattr(method, _MARK, False)


class Call:
    """What a service is given beside the request.

    Args:
        stream: on which it came.
        backend: the namespace that is meant where the client names none.
    """

    def __init__(self, stream: Stream, backend: str | None = None) -> None:
        self._stream = stream
        self._backend = backend
        self._header = stream.headers.get
        self._deadline = _deadline(self._header(TIMEOUT))

    @property
    def namespace(self) -> str:
        """
        Raises:
            FailedPrecondition: the client names none, and none is meant.
            InvalidArgument: it can be none.
        """
        name = self._header(NAMESPACE) or self._backend
        if not name:
            raise FailedPrecondition("namespace is required")
        return check_namespace(name)

    def namespace_or(self, other: str) -> str:
        """The one that the client names; `other` where it names none.

        Raises:
            InvalidArgument: it can be none.
        """
        name = self._header(NAMESPACE)
        return check_namespace(name) if name else other

    @property
    def is_backend(self) -> bool:
        """Whether it is a daemon that calls, whose content store this is: it names no namespace."""
        return self._backend is not None and not self._header(NAMESPACE)

    @property
    def lease(self) -> str | None:
        """The id of the lease under which the client works, if it names one. It need not be there."""
        return self._header(LEASE) or None

    def is_active(self) -> bool:
        """Whether somebody still waits for the answer."""
        is_late = self._deadline is not None and time.monotonic() > self._deadline
        return self._stream.is_open and not is_late

    def on_end(self, callback: Callable[[], None]) -> bool:
        """Have `callback` called, in whatever thread, when the call ends, however it does; False if it has
        ended, and `callback` is not called.
        """
        return self._stream.on_end(callback)


def _deadline(timeout: str | None) -> float | None:
    """When a call is to have ended, of `time.monotonic`; None for one that is given all the time."""
    found = _TIMEOUT.fullmatch(timeout) if timeout else None
    return time.monotonic() + int(found[1]) * _SECONDS[found[2]] if found else None


def as_ours(error: Exception) -> ImgtoolError:
    """The error that the client is told of."""
    if isinstance(error, ImgtoolError):
        return error
    if isinstance(error, OSError):
        return from_oserror(error)
    if isinstance(error, MemoryError):
        return ResourceExhausted("out of memory")
    return ImgtoolError(f"internal error: {type(error).__name__}: {error}")


def status(error: ImgtoolError) -> tuple[int, str]:
    """Code and message, by the table in imgtool(1)."""
    message = error.message.encode(errors="backslashreplace")[:MESSAGE_MAX].decode(errors="ignore")
    if end := _ENDS.get(error.grpc):
        message = f"{message.removesuffix(end).rstrip()}: {end}"
    return CODES[error.grpc], message
