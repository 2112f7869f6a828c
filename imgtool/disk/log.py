"""The log of a namespace: one JSON object a line, written before the record that it tells of.

    {"op": "…", "time": "…", "kind": "image", "name": "…", "old": {…} or null, "new": {…} or null}
    {"op": "…", "time": "…", "void": [["image", "…"]]}                these lines of op did not happen
    {"op": "…", "time": "…", "gc": {"content": ["sha256:…"], …}}        what one gc is about to remove
    {"op": "…", "time": "…", "gc": {}}                        a gc has ended: nothing more is garbage

The last member of each line is `seal`, the sha256 of the bytes before it; a line that does not fit its
seal cannot be read.

The owner's execute bit of the file says that there is a gap: a full disk had no room for the line of a
removal. It takes no space, and goes when a gc has ended.

`Line` is what readers get of a line: nothing else knows its members.

A line whose `new` is not what its record holds did not happen, which only the last operation can be
in; the next writer looks, under the namespace's lock, and says so in the log.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from imgtool.clock import format_time, parse_time
from imgtool.digest import SHA256, Digest
from imgtool.disk import atomic, read
from imgtool.disk.codec import Record
from imgtool.disk.layout import parent
from imgtool.errors import ImgtoolError, InvalidArgument, ResourceExhausted

Change = tuple[str, str, Record | None, Record | None]  # kind, name, old, new
Current = Callable[[str, str], Record | None]
"""Reads the record of a kind and name as it is."""
GAP_MODE = atomic.PRIVATE_MODE | stat.S_IXUSR
_SEAL = b',"seal":"'
_BLOCK = 1 << 16
_ENDED = b',"gc":{}'
# The kinds of records that gc removes without telling what they were, in the order in which they go, and
# the members of `gc`.
_REMOVED = {"lease": "leases", "content": "content"}


class Line(NamedTuple):
    """What one line tells: a change of a record, what of its operation did not happen, or what a gc did.

    `time`: in nanoseconds since the epoch; 0 where it cannot be read. `kind`, `name`, `old`, `new`: of a
    change; else `kind` is empty. `void`: kind and name of what did not happen. `gc`: what one was about to
    remove, `content` and `leases`; of an empty one, that a gc had ended.
    """

    op: str
    time: int
    kind: str
    name: str
    old: Record | None
    new: Record | None
    void: Sequence[tuple[str, str]]
    gc: Mapping[str, Sequence[str]] | None

    @property
    def removed(self) -> list[tuple[str, str]]:
        """Kind and name of the records that a gc was about to remove, in the order of removal."""
        gc = self.gc or {}
        return [(kind, name) for kind, member in _REMOVED.items() for name in gc.get(member, ())]


def append(path: str, op: str, now: int, changes: Sequence[Change], current: Current) -> None:
    """Write the lines of one operation, durable when this returns.

    Args:
        path: the log's; its directory is there.
        op: the operation's id.
        now: its time, in nanoseconds since the epoch.
        changes: what it is about to do.
        current: reads the record of a kind and name as it is, to judge the operation before; what it
            cannot read is not judged.
    """
    stamp = {"op": op, "time": format_time(now)}
    lines = [
        _line({**stamp, "kind": kind, "name": name, "old": old, "new": new})
        for kind, name, old, new in changes
    ]
    _append(path, lines, current, now)


def append_gc(path: str, op: str, now: int, removed: dict[str, list[str]], current: Current) -> None:
    """Write the line of a gc: what it is about to remove, by kind. Other changes are shut out."""
    _append(path, [_line({"op": op, "time": format_time(now), "gc": removed})], current, now)


def append_end(path: str, op: str, now: int, current: Current) -> None:
    """Write that a gc has ended, by which nothing before this line makes one due, and no gap. Not durable,
    because without it only another gc is due.
    """
    _append(path, [_line({"op": op, "time": format_time(now), "gc": {}})], current, now, durable=False)
    if has_gap(path):
        atomic.make_private(path)


def mark_gap(path: str) -> None:
    """Say that something is removed of which no line tells, durable when this returns. A log that is not
    there is gap enough.
    """
    try:
        fd, _ = read.open_regular(path)
    except FileNotFoundError:
        return
    try:
        atomic.set_mode(fd, GAP_MODE)
        with suppress(ResourceExhausted):  # by what was written before
            atomic.sync_fd(fd)
    finally:
        os.close(fd)


def has_gap(path: str) -> bool:
    """Whether something was removed of which no line tells, since the last gc that ended."""
    try:
        return bool(os.lstat(path).st_mode & stat.S_IXUSR)
    except OSError:
        return False


def is_end(line: bytes) -> bool:
    """Whether a line without its line feed is what `append_end` writes."""
    body, _, seal = line.rpartition(_SEAL)
    return body.endswith(_ENDED) and seal == _seal(body)


def _append(
    path: str,
    lines: list[bytes],
    current: Current,
    now: int,
    *,
    durable: bool = True,
) -> None:
    fd = atomic.open_or_create(path)
    is_new = os.fstat(fd).st_size == 0
    try:
        end = _cut_torn_tail(fd)
        if void := undone(last_operation(_backwards(fd, end, "the log")), current):
            names = [(line.kind, line.name) for line in void]
            lines = [_line({"op": void[0].op, "time": format_time(now), "void": names}), *lines]
        os.lseek(fd, end, os.SEEK_SET)
        try:
            atomic.write(fd, b"".join(lines))
            if durable or is_new:
                atomic.sync_fd(fd)
        except BaseException:
            _forget(fd, end)
            raise
    finally:
        os.close(fd)
    if is_new:
        batch = atomic.Batch()
        batch.touched(parent(path))
        batch.sync()


def _forget(fd: int, end: int) -> None:
    """Take back lines that could not be written whole; the next writer does it where this cannot."""
    try:
        atomic.truncate(fd, end)
    except Exception:
        return


def _cut_torn_tail(fd: int) -> int:
    """Remove what a crash left after the last line feed; returns the length then."""
    size = os.fstat(fd).st_size
    end = size
    while end:
        start = max(0, end - _BLOCK)
        with read.errors("the log"):
            block = os.pread(fd, end - start, start)
        at = block.rfind(b"\n")
        end = start + at + 1 if at >= 0 else start
        if at >= 0:
            break
    if end != size:
        atomic.truncate(fd, end)
    return end


def last_operation(newest_first: Iterable[bytes]) -> list[Line]:
    """The lines that share the last line's operation id, that one first; none where it needs no judgement.

    Args:
        newest_first: the lines of a log; only as many are asked for as it takes.
    """
    operation: list[Line] = []
    for text in newest_first:
        line = read_line(text)
        if line is None or not line.kind or (operation and line.op != operation[0].op):
            break
        operation.append(line)
    return operation


def undone(operation: Sequence[Line], current: Current) -> list[Line]:
    """What of `last_operation` did not happen, in the order of the log."""
    judged = ((line, holds(current, line.kind, line.name, line.new)) for line in reversed(operation))
    return [line for line, has_happened in judged if has_happened is False]


def holds(current: Current, kind: str, name: str, new: Record | None) -> bool | None:
    """Whether a record is as a line of the log says it became; None where it cannot be read, and may well
    be.
    """
    try:
        return _text(current(kind, name)) == _text(new)
    except ImgtoolError:
        return None


def state(path: str) -> tuple[int, ...]:
    """What a log looks like from outside, which changes whenever it does; empty where there is none."""
    try:
        status = os.lstat(path)
    except OSError:
        return ()
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def entries(path: str) -> list[dict[str, Any] | None]:
    """The lines of a log, oldest first, none where it is absent; None for a line that cannot be read."""
    try:
        fd, status = read.open_regular(path)
    except FileNotFoundError:
        return []
    try:
        with read.errors(f"'{path}'"):
            data = read.read_fd(fd, status.st_size)
    finally:
        os.close(fd)
    *lines, _torn = data.split(b"\n")
    return [parse(line) for line in lines]


def newest_first(path: str) -> Iterator[bytes]:
    """The lines of a log without their line feeds, the last one first. Only as much is read as is asked
    for. What follows the last line feed is no line.

    Raises:
        FileNotFoundError: there is no log.
        DataLoss: it is no regular file.
    """
    fd, status = read.open_regular(path)
    try:
        yield from _backwards(fd, status.st_size, f"'{path}'")
    finally:
        os.close(fd)


def _backwards(fd: int, end: int, what: str) -> Iterator[bytes]:
    """The lines before `end`, the last one first; `what` they are read from, for messages."""
    is_torn = True
    later: list[bytes] = []  # the end of a line that begins in an earlier block, its blocks reversed
    while end:
        start = max(0, end - _BLOCK)
        with read.errors(what):
            first, *lines = os.pread(fd, end - start, start).split(b"\n")
        if lines:
            last = b"".join([lines.pop(), *reversed(later)])
            if not is_torn:
                yield last
            is_torn, later = False, []
            yield from reversed(lines)
        later.append(first)
        end = start
    if not is_torn:
        yield b"".join(reversed(later))


def _line(entry: dict[str, Any]) -> bytes:
    import json

    body = json.dumps(entry, separators=(",", ":"), default=str).encode()[:-1]
    return body + _SEAL + _seal(body) + b"\n"


def _seal(body: bytes) -> bytes:
    return Digest.of(body, SHA256).encoded.encode() + b'"}'


def _text(record: Record | None) -> str:
    """What tells a record from others, also after it has been a line of the log."""
    import json

    return json.dumps(record, default=str, sort_keys=True)


def read_line(text: bytes) -> Line | None:
    """What a line without its line feed tells; None if it cannot be read. What is not as it should be in a
    line that can is passed over.
    """
    entry = parse(text)
    if entry is None:
        return None
    kind, name, gc = entry.get("kind"), entry.get("name"), entry.get("gc")
    is_change = isinstance(kind, str) and isinstance(name, str)
    return Line(
        op=str(entry.get("op", "")),
        time=_time(entry.get("time")),
        kind=str(kind) if is_change else "",
        name=str(name) if is_change else "",
        old=_record(entry.get("old")),
        new=_record(entry.get("new")),
        void=[(pair[0], pair[1]) for pair in _list(entry.get("void")) if len(_texts(pair)) == 2],
        gc={of: _texts(names) for of, names in gc.items()} if isinstance(gc, dict) else None,
    )


def _time(value: Any) -> int:
    with suppress(InvalidArgument):
        return parse_time(str(value))
    return 0


def _record(value: Any) -> Record | None:
    return value if isinstance(value, dict) else None


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _texts(value: Any) -> list[str]:
    return [text for text in _list(value) if isinstance(text, str)]


def parse(line: bytes) -> dict[str, Any] | None:
    """The members of a line without its line feed, but for the seal; None if it cannot be read."""
    body, _, seal = line.rpartition(_SEAL)
    if seal != _seal(body):
        return None
    import json

    try:
        entry = json.loads(body + b"}")
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None
