"""From argv to an exit status: runs a command and tells what it raised."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

from imgtool.cli.context import Context
from imgtool.errors import ImgtoolError, ResourceExhausted, from_oserror

CLOSED_PIPE = 141


def run(argv: Sequence[str]) -> int:
    """Run one command line; returns the exit status. What a command raises, or letting go of the store
    does, is reported; what is no Exception, such as KeyboardInterrupt, comes out.
    """
    context = Context()
    try:
        try:
            _reported(context, lambda: _invoke(argv, context))
        finally:
            _reported(context, context.close)
        context.out.flush()
    except BrokenPipeError:
        return CLOSED_PIPE
    except ImgtoolError as error:
        context.failures.add(error)
    except BaseException:  # a signal: what has been done is told, unless nobody listens
        with suppress(BrokenPipeError, ImgtoolError):
            context.out.flush()
        raise
    return context.failures.exit_code


def _reported(context: Context, action: Callable[[], None]) -> None:
    """
    Raises:
        BrokenPipeError: nobody reads stdout any more.
    """
    try:
        action()
    except Exception as error:
        context.failures.add(_as_ours(error, context))


def _invoke(argv: Sequence[str], context: Context) -> None:
    from imgtool.cli import fast

    if not fast.invoke(argv, context):
        from imgtool.cli import app

        app.invoke(argv, context)


def _as_ours(error: Exception, context: Context) -> ImgtoolError:
    """The error to report.

    Raises:
        BrokenPipeError: that is `error`, and none to report.
    """
    if isinstance(error, BrokenPipeError):
        raise error
    if isinstance(error, ImgtoolError):
        return error
    if isinstance(error, OSError):
        return from_oserror(error)
    if isinstance(error, MemoryError):
        return ResourceExhausted("out of memory")
    if context.debug:
        import traceback

        traceback.print_exception(error)
    return ImgtoolError(
        f"internal error: {type(error).__name__}: {error}",
        hint=None if context.debug else "repeat the command with --debug for a traceback, and report it",
    )
