"""Judge a log: can its lines be read, and which records should there be, by what they tell?"""

from __future__ import annotations

from typing import IO, Any, NamedTuple

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
        for number, line in enumerate(iter(lambda: file.readline(_LINE_MAX), b""), 1):
            if not line.endswith(b"\n") and len(line) < _LINE_MAX:
                wrong.remarks.append(f"ends within line {number}, which the next change cuts off")
            elif (entry := log.parse(line.removesuffix(b"\n"))) is None:
                bad.append(number)
            else:
                story.tell(entry)
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
        self._op: object = None

    def tell(self, entry: dict[str, Any]) -> None:
        """Take the next line."""
        if entry.get("op") != self._op:
            self._op, self._last = entry.get("op"), set()
        kind, name = entry.get("kind"), entry.get("name")
        # What a void line would have changed is not told again, so it is forgotten.
        gone = _pairs(entry.get("void"))
        if isinstance(kind, str) and isinstance(name, str):
            self._last.add((kind, name))
            if entry.get("new") is None:
                gone.append((kind, name))
            elif kind != "namespace":
                self._there.add((kind, name))
            if kind == "namespace":
                self._there.clear()  # it is empty when it begins, and when it ends: its leases go with it
        if isinstance(removed := entry.get("gc"), dict):
            gone += [("content", name) for name in _texts(removed.get("content"))]
            gone += [("lease", name) for name in _texts(removed.get("leases"))]
        self._there.difference_update(gone)

    def settled(self) -> list[tuple[str, str]]:
        """Kind and name of the records that there should be, but for those of the last operation:
        it may not have happened.
        """
        return sorted(self._there - self._last)


def _texts(value: object) -> list[str]:
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []


def _pairs(value: object) -> list[tuple[str, str]]:
    pairs = value if isinstance(value, list) else []
    return [(pair[0], pair[1]) for pair in pairs if len(_texts(pair)) == 2]
