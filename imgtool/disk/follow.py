"""Read the logs of a store as they grow: each operation once, in order, and only what of it happened.

An operation is told when it is settled: when a later line follows, whose writer has judged it; when
every record is as its lines say; or when no change is under way any more, and then those of its lines
that hold. What is not settled stays before the mark and is read again, so that lines that a writer takes
back are never told. Nothing is written and no lock is taken.

A change is noticed by looking: a directory and a stat for each log. There is no inotify, which not
every file system has, and which loses events when its queue is full.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from functools import partial
from heapq import merge
from typing import NamedTuple

from imgtool.disk import log, read
from imgtool.disk.codec import Record
from imgtool.disk.engine import Engine
from imgtool.errors import DataLoss, ImgtoolError, InvalidArgument
from imgtool.names import check_namespace

_BLOCK = 1 << 16
_LINE_MAX = 1 << 27
_SEAL_END = slice(-66, -2)


class Mark(NamedTuple):
    """A place in a log: behind the line with this seal. Those of all logs are a position, from which
    following can go on after the process has ended.
    """

    offset: int = 0
    seal: str = ""
    time: int = 0  # of that line


Position = Mapping[str, Mark]
"""Namespace -> how far its log has been told. A log that it does not have begins at its first line."""


class Change(NamedTuple):
    """One record: what it was, and what it became. None where there is none."""

    kind: str
    name: str
    old: Record | None
    new: Record | None


class Operation(NamedTuple):
    """The changes that were made in one step, as far as they happened."""

    namespace: str
    time: int
    changes: tuple[Change, ...]
    lines: int  # in the log, also those of changes that did not happen
    mark: Mark  # behind it


class Follower:
    """Tells operations of a store, from a position on.

    Args:
        engine: the store's.
        position: what has been told already; empty: nothing.
        namespaces: only these; None: all that there are and will be, deleted ones too.
        on_error: called with what cannot be read of a log, once for each; the rest is told.
    """

    def __init__(
        self,
        engine: Engine,
        position: Position | None = None,
        *,
        namespaces: Collection[str] | None = None,
        on_error: Callable[[ImgtoolError], None] = lambda error: None,
    ) -> None:
        self._engine = engine
        self._only = namespaces
        self._on_error = on_error
        self._unlisted = ""  # why the namespaces could not be listed
        self._logs = {ns: _Log(engine, ns, mark, on_error) for ns, mark in (position or {}).items()}

    @property
    def position(self) -> Position:
        """Behind the last operation that was told, of each log that there is."""
        return {ns: found.mark for ns, found in self._logs.items()}

    def skip(self) -> None:
        """Go behind everything that is settled now, without telling it. What is still under way is told
        later, if it happens.
        """
        for ns in self._namespaces():
            self._log(ns).skip()

    def poll(self, namespace: str | None = None, *, last: bool = False) -> Iterator[Operation]:
        """What has been settled since the last call: in the order of each log, merged by time. An
        operation counts as told when it is given.

        Args:
            namespace: look only there.
            last: nobody will ask again: of an operation that is not settled, what holds now is told.
        """
        logs = [self._log(ns) for ns in (self._namespaces() if namespace is None else [namespace])]
        for operation in merge(*(each.look(last=last) for each in logs), key=lambda found: found.time):
            self._logs[operation.namespace].mark = operation.mark
            yield operation

    def _log(self, ns: str) -> _Log:
        if ns not in self._logs:
            self._logs[ns] = _Log(self._engine, ns, Mark(), self._on_error)
        return self._logs[ns]

    def _namespaces(self) -> list[str]:
        """Also those that were deleted: their logs stay."""
        try:
            names, self._unlisted = read.entries(self._engine.layout.namespaces), ""
        except ImgtoolError as error:
            if self._unlisted != error.message:
                self._unlisted = error.message
                self._on_error(error)
            return []
        found = []
        for name in names:
            with suppress(InvalidArgument):
                if self._only is None or name in self._only:
                    found.append(check_namespace(name))
        return found


class _Text(NamedTuple):
    text: bytes
    end: int  # offset behind its line feed


class _Group:
    """The lines of one operation."""

    def __init__(self, line: log.Line, text: _Text) -> None:
        self.op = line.op
        self.time = line.time
        self.changes: list[Change] = []
        self.void: set[tuple[str, str]] = set()
        self.add(line, text)

    def add(self, line: log.Line, text: _Text) -> None:
        self.changes.append(Change(line.kind, line.name, line.old, line.new))
        self.mark = Mark(text.end, _seal(text.text), self.time)

    def operation(self, ns: str) -> Operation:
        happened = (change for change in self.changes if (change.kind, change.name) not in self.void)
        return Operation(ns, self.time, tuple(happened), len(self.changes), self.mark)


class _Log:
    """One log, and how far it has been told: `mark`, which is who tells' to move."""

    def __init__(self, engine: Engine, ns: str, mark: Mark, on_error: Callable[[ImgtoolError], None]) -> None:
        self.mark = mark
        self._engine = engine
        self._ns = ns
        self._path = engine.layout.log(ns)
        self._on_error = on_error
        self._state: tuple[int, ...] = ()
        self._awaited: Change | None = None  # what keeps the last operation from being settled
        self._told_of = -1  # offset of the last line that was reported as unreadable

    def look(self, *, last: bool = False) -> Iterator[Operation]:
        """The operations behind the mark that are settled."""
        state = log.state(self._path)
        if not state or (state == self._state and not last and not self._goes_on()):
            return
        self._awaited = None
        try:
            start, told_until = self._place()
            for group, is_closed in self._groups(start):
                if not is_closed and not self._settle(group, state, last=last):
                    break
                if group.time > told_until:
                    yield group.operation(self._ns)
        except FileNotFoundError:
            return
        except ImgtoolError as error:
            self._on_error(error)
        if log.state(self._path) == state:
            self._state = state

    def skip(self) -> None:
        """See `Follower.skip`."""
        try:
            self.mark = self._before_last_group()
        except (FileNotFoundError, ImgtoolError):
            return  # what is wrong with it is told by `look`
        for operation in self.look():
            self.mark = operation.mark

    def _goes_on(self) -> bool:
        """Whether the operation at the end may be settled now, though the log is as it was."""
        if self._awaited is None:
            return False
        return not self._is_under_way() or self._holds(self._awaited) is True

    # Where to go on

    def _place(self) -> tuple[int, int]:
        """The offset to read from, and the time up to which what is read there has been told.

        The log may have been replaced, by a copy or an older one. What was told last is looked for; where
        it is not there, only what is younger than that is new.
        """
        mark = self.mark
        if not mark.offset or self._seal_at(mark.offset) == mark.seal:
            return mark.offset, -1
        for text in self._texts(0):
            if _seal(text.text) == mark.seal:
                return text.end, -1
        return 0, mark.time

    def _seal_at(self, offset: int) -> str:
        """The seal of the line that ends at `offset`; empty where none does."""
        data = self._read(max(0, offset - 67), min(67, offset))
        return _seal(data[:-1]) if data.endswith(b"\n") and len(data) == min(67, offset) else ""

    def _before_last_group(self) -> Mark:
        """Before the lines at the end that have one operation id."""
        size, window = self._size(), _BLOCK
        while True:
            start = max(0, size - window)
            data = self._read(start, size - start)
            *lines, torn = data.split(b"\n")
            end = start + len(data) - len(torn)
            op: str | None = None
            for text in reversed(lines[1:] if start else lines):
                line = log.read_line(text)
                mine = line.op if line and line.kind else ""
                if op is not None and (mine != op or not op):
                    return Mark(end, _seal(text), line.time if line else 0)
                op = mine
                end -= len(text) + 1
            if not start:
                return Mark()
            window *= 4

    # Reading

    def _groups(self, start: int) -> Iterator[tuple[_Group, bool]]:
        """The operations from `start` on, and whether something follows, by whose writer each was
        judged. Only the last can have nothing behind it.
        """
        group: _Group | None = None
        for text in self._texts(start):
            line = log.read_line(text.text)
            if line is None:
                self._unreadable(text)
            if group is not None and line is not None and line.op == group.op:
                if line.kind:
                    group.add(line, text)
                    continue
                group.void.update(line.void)
            if group is not None:
                yield group, True
            group = _Group(line, text) if line and line.kind else None
        if group is not None:
            yield group, False

    def _unreadable(self, text: _Text) -> None:
        if text.end > self._told_of:
            self._told_of = text.end
            self._on_error(DataLoss(f"'{self._path}': a line cannot be read, what it tells is left out"))

    def _texts(self, start: int) -> Iterator[_Text]:
        """The lines from an offset on. What follows the last line feed is none yet, and may be replaced
        by what is longer; so nothing is read behind it.
        """
        offset, rest, is_more = start, b"", True
        while is_more:
            count = max(_BLOCK, len(rest))
            data = self._read(offset, count)
            is_more = len(data) == count
            offset += len(data)
            end = offset - len(rest) - len(data)
            *whole, rest = (rest + data).split(b"\n")
            for text in whole:
                end += len(text) + 1
                yield _Text(text, end)
            if len(rest) > _LINE_MAX:
                raise DataLoss(f"'{self._path}' has a line of more than {_LINE_MAX} bytes")

    def _read(self, offset: int, count: int) -> bytes:
        """Bytes of the log. It is not kept open: there may be as many logs as files may be open."""
        fd, _ = read.open_regular(self._path)
        try:
            with read.errors(f"'{self._path}'"):
                return os.pread(fd, count, offset)
        finally:
            os.close(fd)

    def _size(self) -> int:
        fd, status = read.open_regular(self._path)
        os.close(fd)
        return status.st_size

    # What of the last operation has happened

    def _settle(self, group: _Group, state: tuple[int, ...], *, last: bool) -> bool:
        """Judge the operation that nothing follows; False if it is too early."""
        is_over = last or not self._is_under_way()
        verdicts = [(change, self._holds(change)) for change in group.changes]
        if log.state(self._path) != state:
            return False  # the records may be those of an operation that follows by now
        if not is_over:
            self._awaited = next((change for change, holds in verdicts if not holds), None)
            if self._awaited is not None:
                return False
        group.void.update((change.kind, change.name) for change, holds in verdicts if holds is False)
        return True

    def _holds(self, change: Change) -> bool | None:
        """See `log.holds`."""
        return log.holds(partial(self._engine.current, self._ns), change.kind, change.name, change.new)

    def _is_under_way(self) -> bool:
        """Whether a change is being made, or its writer died and nobody has come by since."""
        return any(_length(self._engine.layout.lock(name)) for name in (f"ns-{self._ns}", "store"))


def _length(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _seal(line: bytes) -> str:
    """The seal of a line without its line feed; of one that has none, what stands in its place."""
    return line[_SEAL_END].decode("ascii", "replace")
