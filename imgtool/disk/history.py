"""What the log of a namespace tells of its records, as nouns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from itertools import tee
from typing import Any

from imgtool.disk import log
from imgtool.disk.codec import Record
from imgtool.disk.engine import KINDS, Engine
from imgtool.errors import ImgtoolError
from imgtool.stores import Entry


def history(engine: Engine, ns: str) -> Iterator[Entry]:
    """See `stores.Store.history`."""
    with suppress(FileNotFoundError, ImgtoolError):
        texts, void = _judged(engine, ns)
        for line in filter(None, map(log.read_line, texts)):
            void.update((line.op, kind, name) for kind, name in line.void)
            for kind, name in reversed(line.removed):
                yield Entry(line.time, kind, name, by_gc=True)
            if line.kind in KINDS and (line.op, line.kind, line.name) not in void:
                with suppress(ImgtoolError):
                    old, new = (_record(line.kind, record) for record in (line.old, line.new))
                    yield Entry(line.time, line.kind, line.name, old, new)


def _judged(engine: Engine, ns: str) -> tuple[Iterator[bytes], set[tuple[str, str, str]]]:
    """The lines of the log, the newest first; and operation, kind and name of what did not happen and no
    line says so yet.
    """
    path = engine.layout.log(ns)
    while True:
        state = log.state(path)
        texts, ahead = tee(log.newest_first(path))
        undone = log.undone(log.last_operation(ahead), partial(engine.current, ns))
        # Else the records may be those of an operation that follows by now.
        if not undone or log.state(path) == state:
            return texts, {(line.op, line.kind, line.name) for line in undone}


def _record(kind: str, record: Record | None) -> Any:
    return None if record is None else KINDS[kind].load(record, "log")
