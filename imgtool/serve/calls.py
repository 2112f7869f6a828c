"""What a call brings in its metadata, and how an error leaves: gRPC's code and containerd's words."""

from __future__ import annotations

from collections.abc import Callable

import grpc

from imgtool.errors import FailedPrecondition, ImgtoolError, InvalidArgument, ResourceExhausted, from_oserror
from imgtool.names import check_namespace

NAMESPACE = "containerd-namespace"
LEASE = "containerd-lease"

_MESSAGE_MAX = 2048  # bytes; three times as many, written as %XX, still fit into the trailer of a reply
# containerd's clients know an error by its code, take this end off the message and put their own there.
_ENDS = {
    "ALREADY_EXISTS": "already exists",
    "FAILED_PRECONDITION": "failed precondition",
    "INVALID_ARGUMENT": "invalid argument",
    "NOT_FOUND": "not found",
    "UNAVAILABLE": "unavailable",
    "UNIMPLEMENTED": "not implemented",
}


class OutOfRange(InvalidArgument):
    """An offset that the content does not have."""

    grpc = "OUT_OF_RANGE"


class Unimplemented(InvalidArgument):
    """A method that imgtool does not have."""

    grpc = "UNIMPLEMENTED"


class Call:
    """What a service is given beside the request.

    Args:
        context: grpc's.
        backend: the namespace that is meant where the client names none.
    """

    def __init__(self, context: grpc.ServicerContext, backend: str | None = None) -> None:
        self._context = context
        self._backend = backend
        self._metadata = context.invocation_metadata()

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
        return bool(self._context.is_active())

    def on_end(self, callback: Callable[[], None]) -> bool:
        """Have `callback` called, in another thread, when the call ends, however it does; False if it has
        ended, and `callback` is not called.
        """
        return bool(self._context.add_callback(callback))

    def _header(self, key: str) -> str:
        """The first value counts, as in containerd."""
        for name, value in self._metadata:
            if name == key:
                return str(value)
        return ""


def as_ours(error: Exception) -> ImgtoolError:
    """The error that the client is told of."""
    if isinstance(error, ImgtoolError):
        return error
    if isinstance(error, OSError):
        return from_oserror(error)
    if isinstance(error, MemoryError):
        return ResourceExhausted("out of memory")
    return ImgtoolError(f"internal error: {type(error).__name__}: {error}")


def status(error: ImgtoolError) -> tuple[grpc.StatusCode, str]:
    """Code and message, by the table in imgtool(1)."""
    message = error.message.encode(errors="backslashreplace")[:_MESSAGE_MAX].decode(errors="ignore")
    if end := _ENDS.get(error.grpc):
        message = f"{message.removesuffix(end).rstrip()}: {end}"
    return grpc.StatusCode[error.grpc], message
