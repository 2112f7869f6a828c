"""Where the command comes in: imports nothing of the extra before it is known to be there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgtool.errors import FailedPrecondition

if TYPE_CHECKING:
    from imgtool.serve.contracts import Log


def serve(
    root: str,
    address: str | None,
    log: Log,
    *,
    lock_timeout: float = 30.0,
    backend: str | None = None,
    debug: bool = False,
) -> None:
    """Serve the store in `root` until a signal; see `server.run`.

    Raises:
        FailedPrecondition: hpack or protobuf is not installed.
    """
    try:
        import google.protobuf.message  # noqa: F401
        import hpack  # noqa: F401  # only looked for
    except ImportError as error:
        raise FailedPrecondition(
            f"`imgtool serve` needs hpack and protobuf: {error}",
            hint="pip install 'imgtool-store[serve]'",
        ) from None
    from imgtool.serve import server

    server.run(server.Options(root, address, lock_timeout, backend, debug), log)
