"""Judge a log: can its lines be read, and which records should there be, by what they tell?"""

from __future__ import annotations

from typing import IO, NamedTuple

from imgtool.disk import log
from imgtool.errors import from_oserror

_LINE_MAX = 1 << 27


class Wrong(NamedTuple):
    """What is wrong with the lines."""

    errors: list[str]
    remarks: list[str]


def judge(file: IO[bytes]) -> tuple[Wrong, list[tuple[str, str]]]:
    """What is wrong with the lines of a log, and kind and name of the records that there should be.

    Args:
        file: the log; read line by line.
    """
    wrong, story, bad = Wrong([], []), _Story(), list[int]()
    try:
        for number, text in enumerate(iter(lambda: file.readline(_LINE_MAX), b""), 1):
            if not text.endswith(b"\n") and len(text) < _LINE_MAX:
                wrong.remarks.append(f"ends within line {number}, which the next change cuts off")
            elif (line := log.read_line(text.removesuffix(b"\n"))) is None:
                bad.append(number)
            else:
                story.tell(line)
    except OSError as error:
        wrong.errors.append(from_oserror(error, "cannot be read").message)
    if len(bad) == 1:
        wrong.errors.append(f"line {bad[0]} cannot be read")
    elif bad:
        wrong.errors.append(f"{len(bad)} lines cannot be read, the first is line {bad[0]}")
    return wrong, story.settled()


class _Story:
    """Which records there should be, by what a log tells."""

    def __init__(self) -> None:
        self._there: set[tuple[str, str]] = set()
        self._last: set[tuple[str, str]] = set()
        self._op: str | None = None

    def tell(self, line: log.Line) -> None:
        """Take the next line."""
        if line.op != self._op:
            self._op, self._last = line.op, set()
        # What a void line would have changed is not told again, so it is forgotten.
        gone = [*line.void, *line.removed]
        if line.kind:
            self._last.add((line.kind, line.name))
            if line.kind == "namespace":
                self._there.clear()  # it is empty when it begins, and when it ends: its leases go with it
            elif line.new is not None:
                self._there.add((line.kind, line.name))
            else:
                gone.append((line.kind, line.name))
        self._there.difference_update(gone)

    def settled(self) -> list[tuple[str, str]]:
        """Kind and name of the records that there should be, but for those of the last operation:
        it may not have happened.
        """
        return sorted(self._there - self._last)
