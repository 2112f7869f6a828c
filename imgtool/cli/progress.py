"""Progress on stderr: how many bytes or things are done. Nothing unless somebody watches."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from imgtool.cli.output import size_text

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from imgtool.cli.context import Context

_EVERY = {"auto": 0.2, "plain": 5.0}


class Progress:
    """`with Progress(c, "ingesting") as p: … p.add(n)`.

    `--progress auto` rewrites one line when stderr is a terminal and is silent elsewhere; `plain`
    writes a line every five seconds anywhere; `none`, `-q` and `--format json` are silent.

    Args:
        doing: what is being done.
    """

    def __init__(self, c: Context, doing: str) -> None:
        self._context = c
        self._doing = doing
        self._done = 0
        how = "none" if c.quiet or c.json or sys.stderr is None else c.progress
        self._how = "none" if how == "auto" and not sys.stderr.isatty() else how
        self._next = time.monotonic() + _EVERY.get(self._how, 0.0)
        self._shown = False

    def add(self, n: int) -> None:
        """`n` more bytes are done."""
        self._done += n
        if self._how != "none" and time.monotonic() >= self._next:
            self._next = time.monotonic() + _EVERY[self._how]
            self._write(f"{self._doing}: {size_text(self._done)}")

    def clear(self) -> None:
        """Take back the line that is shown: something else is to be printed."""
        if self._shown and self._how == "auto":
            self._write("")

    def __enter__(self) -> Self:
        self._context.clear_line = self.clear
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()

    def _write(self, text: str) -> None:
        line = f"\r\x1b[K{text}" if self._how == "auto" else f"imgtool: {text}\n"
        try:
            sys.stderr.write(line)
            sys.stderr.flush()
            self._shown = bool(text)
        except OSError:
            self._how = "none"  # nobody is listening
