"""Failures and talk on stderr, and the exit status that comes of them.

A command over several names goes on past a failure: each is reported at once, and the status is
that of the first. With `--format json` or `jsonl` a report is one JSON object a line.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

from imgtool.cli.output import json_text, safe
from imgtool.errors import ImgtoolError, from_oserror

if TYPE_CHECKING:
    from imgtool.cli.context import Context

T = TypeVar("T")
R = TypeVar("R")


class Failures:
    """The failures of one call."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.exit_code = 0

    def add(self, error: ImgtoolError) -> None:
        """Report `error` and remember its exit code, if it is the first."""
        self.exit_code = self.exit_code or error.exit_code
        self._report("error", error.message, hint=error.hint, code=error.grpc, exit=error.exit_code)

    def warn(self, text: str, *, hint: str | None = None) -> None:
        """Say that something is wrong which does not change the exit status."""
        self._report("warning", text, hint=hint)

    def note(self, text: str) -> None:
        """Say something."""
        self._report("note", text)

    def for_each(
        self,
        items: Iterable[T],
        action: Callable[[T], R],
        *,
        ignore: type[ImgtoolError] | None = None,
        silent: type[ImgtoolError] | None = None,
    ) -> Iterator[R]:
        """The results of `action` for each of `items`, past those that fail.

        Args:
            ignore: an error that is no failure.
            silent: an error that is not reported, but sets the exit status.
        """
        for item in items:
            try:
                result = action(item)
            except BrokenPipeError:
                raise
            except ImgtoolError as error:
                if silent and isinstance(error, silent):
                    self.exit_code = self.exit_code or error.exit_code
                elif not (ignore and isinstance(error, ignore)):
                    self.add(error)
            except OSError as error:
                self.add(from_oserror(error))
            else:
                yield result

    def drop(self, results: Iterable[R | ImgtoolError]) -> Iterator[R]:
        """`results` without the errors among them, which are reported."""
        for result in results:
            if isinstance(result, ImgtoolError):
                self.add(result)
            else:
                yield result

    def _report(self, level: str, text: str, *, hint: str | None = None, **more: object) -> None:
        self._context.clear_line()
        if self._context.json:
            row = {"schema": 1, "level": level, **more, "message": text}
            _write(json_text({**row, "hint": hint} if hint else row))
            return
        _write(f"imgtool: {'warning: ' if level == 'warning' else ''}{safe(text)}")
        if hint:
            _write(f"hint: {safe(hint)}")


def _write(line: str) -> None:
    # Standard output first: who reads both sees them in the order in which they were made.
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        pass  # reported when the output itself is flushed
    try:
        if sys.stderr is not None:
            sys.stderr.buffer.write(line.encode("utf-8", "backslashreplace") + b"\n")
            sys.stderr.flush()
    except OSError:
        pass  # nobody is listening
