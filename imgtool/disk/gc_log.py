"""What the logs tell gc: what has changed since the last one. And what gc writes there when it ends.

Nothing here may make a gc fail, or wait: where a log cannot be read, or not be written, gc is due again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

from imgtool import clock
from imgtool.disk import log, read
from imgtool.disk.engine import Engine, new_id
from imgtool.disk.locks import Locks
from imgtool.errors import ImgtoolError, InvalidArgument
from imgtool.model import Happening, is_root_no_more, lets_go
from imgtool.names import check_namespace

_PATIENCE = 0.1  # seconds that gc waits for a lock only to write that there was nothing to do


def since_gc(engine: Engine) -> Iterator[Happening]:
    """See `stores.Store.since_gc`."""
    for ns in _namespaces(engine):
        try:
            yield from _told(engine, ns)
        except ImgtoolError as error:
            yield Happening(ns, doubt=error.message)


def looking(engine: Engine) -> Callable[[], None]:
    """See `stores.Store.looking`."""
    before = {ns: _settled(engine, ns) for ns in _namespaces(engine)}

    def looked() -> None:
        locks = Locks(engine.layout, _PATIENCE, enabled=engine.setup.locking)
        for ns, state in before.items():
            if _is_ended(engine, ns):
                continue
            with suppress(ImgtoolError):
                engine.ready()
                with locks.changing(ns):
                    if log.state(engine.layout.log(ns)) == state:
                        _end(engine, ns)

    return looked


def ended(engine: Engine) -> None:
    """Write that a gc has ended to each log that tells of changes since the last. Changes are shut out.
    Where that fails, which is warned of, gc is due again.
    """
    for ns in _namespaces(engine):
        try:
            if not _is_ended(engine, ns):
                _end(engine, ns)
        except ImgtoolError as error:
            engine.warn(f"gc has ended without a line in the log of namespace '{ns}': {error.message}")


def _namespaces(engine: Engine) -> list[str]:
    """Also those that were deleted: their logs stay."""
    found = []
    for ns in read.entries(engine.layout.namespaces):
        with suppress(InvalidArgument):
            found.append(check_namespace(ns))
    return found


def _told(engine: Engine, ns: str) -> Iterator[Happening]:
    if log.has_gap(engine.layout.log(ns)):
        yield Happening(ns, doubt="something was removed without a line in the log, on a full disk")
        return
    line: log.Line | None = None
    try:
        for text in log.newest_first(engine.layout.log(ns)):
            if log.is_end(text):
                return
            line = log.read_line(text)
            if line is None:
                yield Happening(ns, doubt="a line of the log cannot be read")
                return
            if line.gc is not None:
                if line.gc:
                    yield Happening(ns, doubt="a gc did not end")
                return
            if line.kind:
                yield Happening(ns, deletes=deletes(line.kind, line.old, line.new))
    except FileNotFoundError:
        pass
    if line is None:
        if os.path.lexists(engine.layout.namespace_record(ns)):
            yield Happening(ns, doubt="the log is missing")
    elif line.kind != "namespace" or line.old is not None:
        yield Happening(ns, doubt="the beginning of the log is missing")


def deletes(kind: str, old: Any, new: Any) -> bool:
    """Whether a change in the log is a deletion: as containerd counts them for its collector, and content
    that is no root any more, which is how a daemon deletes from its content store.
    """
    if new is None:
        return kind in ("image", "content", "lease")
    if kind == "content":
        return is_root_no_more(_labels(old), _labels(new))
    return kind == "lease" and lets_go(_held(old), _held(new))


def _labels(content: Any) -> dict[str, Any]:
    labels = content.get("labels") if isinstance(content, dict) else None
    return labels if isinstance(labels, dict) else {}


def _held(lease: Any) -> dict[str, list[str]]:
    """What a lease in the log holds."""
    resources = lease.get("resources") if isinstance(lease, dict) else None
    if not isinstance(resources, dict):
        return {}
    return {kind: list(map(str, ids)) for kind, ids in resources.items() if isinstance(ids, list)}


def _settled(engine: Engine, ns: str) -> tuple[int, ...] | None:
    """What the log looks like; None where a change that it tells of may be still under way, or its
    writer died: then the lock is taken all the same, by which the next gc finds it settled.
    """
    state = log.state(engine.layout.log(ns))
    try:
        under_way = os.stat(engine.layout.lock(f"ns-{ns}")).st_size
    except OSError:
        under_way = 0
    return None if under_way else state


def _is_ended(engine: Engine, ns: str) -> bool:
    """Whether nothing has been logged since a gc ended, or there never was anything to log."""
    if log.has_gap(engine.layout.log(ns)):
        return False
    try:
        return log.is_end(next(log.newest_first(engine.layout.log(ns)), b""))
    except FileNotFoundError:
        return not os.path.lexists(engine.layout.namespace_record(ns))
    except ImgtoolError:
        return False


def _end(engine: Engine, ns: str) -> None:
    log.append_end(engine.layout.log(ns), new_id(), clock.now(), partial(engine.current, ns))
