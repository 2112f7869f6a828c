"""What the log of a namespace tells of its records, as nouns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from imgtool.disk import log
from imgtool.disk.codec import Record
from imgtool.disk.engine import KINDS, Engine
from imgtool.errors import ImgtoolError
from imgtool.stores import Entry


def history(engine: Engine, ns: str) -> Iterator[Entry]:
    """See `stores.Store.history`."""
    void = set[tuple[str, str, str]]()
    with suppress(FileNotFoundError):
        for text in log.newest_first(engine.layout.log(ns)):
            line = log.read_line(text)
            if line is None:
                continue
            void.update((line.op, kind, name) for kind, name in line.void)
            for kind, name in line.removed:
                yield Entry(line.time, kind, name, by_gc=True)
            if line.kind in KINDS and (line.op, line.kind, line.name) not in void:
                with suppress(ImgtoolError):
                    old, new = (_record(line.kind, record) for record in (line.old, line.new))
                    yield Entry(line.time, line.kind, line.name, old, new)


def _record(kind: str, record: Record | None) -> Any:
    return None if record is None else KINDS[kind].load(record, "log")
