"""What let go of garbage, and when: from the log, from what has expired, else from its record.

The log says what a record was and what it became. A change let go of content if what the record said
before leads there, through what is still recorded, and what it says afterwards does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from imgtool import clock
from imgtool.digest import Digest
from imgtool.disk import DiskStore, log, records
from imgtool.errors import ImgtoolError, InvalidArgument
from imgtool.model import ContentInfo, Image, Lease
from imgtool.ops.documents import UNKNOWN
from imgtool.ops.hold import EXPIRE
from imgtool.ops.mark import (
    BACK,
    BACK_IMAGE,
    FLAT,
    FLAT_IMAGE,
    FLAT_LABEL,
    IMAGE,
    REF,
    REF_IMAGE,
    ROOT,
    Node,
    Space,
    labelled,
    referred,
)

_Record = Image | ContentInfo | Lease
_FROM_LOG: Mapping[str, Callable[[Mapping[str, Any], str], _Record]] = {
    "image": records.image_from_record,
    "content": records.content_from_record,
    "lease": records.lease_from_record,
}


class Released(NamedTuple):
    """What let go, for a person; and when, in nanoseconds since the epoch, if anything tells."""

    by: str
    time: int | None


def of_content(store: DiskStore, space: Space, digest: Digest) -> Released:
    """The last change after which nothing kept `digest`, which is garbage in `space`."""
    above = _above(space, digest)
    last = Released("recorded, and nothing has led to it since", space.records[digest].created)
    leases: dict[str, Lease] = {}
    for entry in _entries(store, space.name):
        removed = entry.get("gc")
        if isinstance(removed, Mapping):
            for id in removed.get("leases", ()):
                if id in leases and above & _leads_to(leases[id]):
                    last = _gone(leases[id], _time(entry))
            continue
        kind, name, old, new = (
            entry.get("kind"),
            entry.get("name"),
            _record(entry, "old"),
            _record(entry, "new"),
        )
        if kind == "content" and name == digest and new is not None and old is None:
            last = Released("recorded, and nothing has led to it since", _time(entry))
        if isinstance(new, Lease):
            leases[new.id] = new
        if old is not None and above & _leads_to(old) and not (new and above & _leads_to(new)):
            last = _gone(old, _time(entry)) if new is None else Released(_change(old, new), _time(entry))
    return max([*_expired(store, space, above), last], key=_when)


def of_object(store: DiskStore, namespaces: Iterable[str], digest: Digest) -> Released:
    """The last time that a record of `digest`, which no namespace has any more, was removed."""
    last = Released("no namespace has a record of it", None)
    for namespace in namespaces:
        for entry in _entries(store, namespace):
            removed, time = entry.get("gc"), _time(entry)
            dropped = entry.get("kind") == "content" and entry.get("name") == digest and not entry.get("new")
            if dropped or (isinstance(removed, Mapping) and digest in removed.get("content", ())):
                last = max(Released(f"its record in namespace '{namespace}' removed", time), last, key=_when)
    return last


def _when(gone: Released) -> int:
    return gone.time or 0


def _above(space: Space, digest: Digest) -> set[Node]:
    """What would keep `digest` if it were reached: itself, and what leads to it and nothing follows."""
    parents: dict[str, list[str]] = {}
    for name in space.records.keys() - space.followed():
        for part in space.parts(name):
            parents.setdefault(part, []).append(name)
    found: set[Node] = {(digest, FLAT)}
    todo: list[Node] = [(digest, UNKNOWN)]
    while todo:
        node = todo.pop()
        if node in found:
            continue
        found.add(node)
        name, kind = node
        todo += ((parent, UNKNOWN) for parent in parents.get(name, ()))
        if kind != IMAGE and name in space.records:
            todo += ((subject, UNKNOWN) for subject in space.subjects(name))
            todo += ((image, IMAGE) for _, image in labelled(space.records[name].labels, BACK_IMAGE))
    return found


def _leads_to(record: _Record) -> set[Node]:
    """What a record leads to by what it says; itself, if it is a root or lives with something."""
    if isinstance(record, Lease):
        flat = FLAT_LABEL in record.labels
        held = {(name, FLAT if flat else UNKNOWN) for name in record.resources.get("content", ())}
        return held | {(name, FLAT_IMAGE if flat else IMAGE) for name in record.resources.get("images", ())}
    found = {node for _, node in referred(record.labels, REF, REF_IMAGE)}
    if isinstance(record, Image):
        return found | {(record.name, IMAGE), (record.target.digest, UNKNOWN)}
    if any(any(labelled(record.labels, key)) for key in (ROOT, BACK, BACK_IMAGE)):
        found.add((record.digest, UNKNOWN))
    return found


def _expired(store: DiskStore, space: Space, above: set[Node]) -> Iterator[Released]:
    """What led there, and is still there though its time is up. Before it was made, it kept nothing."""
    for image in space.images.values():
        if above & _leads_to(image):
            yield _gone(image, max(_until(image) or 0, image.created))
    for id in space.expired_leases:
        lease = store.leases(space.name).get(id)
        if above & _leads_to(lease):
            yield _gone(lease, max(_until(lease) or 0, lease.created))
    for status in space.content.statuses():
        if status.expires is not None and status.expected and (status.expected, UNKNOWN) in above:
            yield Released(f"ingest '{status.ref}' expired", status.expires)


def _gone(record: _Record, time: int) -> Released:
    """A record that is no more, or no root any more, since `time` at the latest."""
    until = _until(record)
    if until is not None and until <= time:
        return Released(f"{_called(record)} expired", max(until, record.created))
    return Released(f"{_called(record)} {'removed' if isinstance(record, ContentInfo) else 'deleted'}", time)


def _change(old: _Record, new: _Record) -> str:
    """What was changed that let go, from `old` to `new`."""
    if isinstance(old, Image) and isinstance(new, Image) and old.target.digest != new.target.digest:
        return f"{_called(old)} given another target"
    if isinstance(old, Lease) and isinstance(new, Lease) and old.resources != new.resources:
        return f"resource removed from {_called(old)}"
    keys = [key for key, value in old.labels.items() if new.labels.get(key) != value]
    keys += [key for key in new.labels if key not in old.labels]
    return f"label '{keys[0]}' of {_called(old)} changed" if keys else f"{_called(old)} changed"


def _called(record: _Record) -> str:
    if isinstance(record, Lease):
        return f"lease '{record.id}'"
    return f"image '{record.name}'" if isinstance(record, Image) else f"content '{record.digest}'"


def _until(record: _Record) -> int | None:
    """When an image or lease expires."""
    try:
        return None if isinstance(record, ContentInfo) else clock.parse_time(record.labels[EXPIRE])
    except (KeyError, InvalidArgument):
        return None


def _entries(store: DiskStore, namespace: str) -> Iterator[Mapping[str, Any]]:
    """The lines of the log that can be read and that happened, oldest first."""
    entries = [entry for entry in log.entries(store.engine.layout.log(namespace)) if entry is not None]
    void = set[tuple[Any, ...]]()
    for entry in entries:
        for thing in entry.get("void", ()):
            void.add((entry.get("op"), *thing))
    for entry in entries:
        if (entry.get("op"), entry.get("kind"), entry.get("name")) not in void:
            yield entry


def _record(entry: Mapping[str, Any], key: str) -> _Record | None:
    load, found = _FROM_LOG.get(str(entry.get("kind"))), entry.get(key)
    if load is not None and isinstance(found, Mapping):
        with suppress(ImgtoolError):
            return load(found, "log")
    return None


def _time(entry: Mapping[str, Any]) -> int:
    try:
        return clock.parse_time(str(entry.get("time")))
    except InvalidArgument:
        return 0
