"""Events are the log: what any command has changed, as the events that containerd publishes of it.

Topics and fields are containerd's (`api/events`). As there, leases, labels of content, what gc removes
but for images, and a namespace that comes into being with its first record are no events.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from imgtool.disk.follow import Change, Follower, Operation

if TYPE_CHECKING:
    from imgtool.disk import DiskStore
    from imgtool.errors import ImgtoolError
    from imgtool.filters import Adaptor

POLL = 0.1
"""Seconds between two looks at the logs; one costs some microseconds a namespace."""

TYPES = {
    "/images/create": "containerd.services.images.v1.ImageCreate",
    "/images/update": "containerd.services.images.v1.ImageUpdate",
    "/images/delete": "containerd.services.images.v1.ImageDelete",
    "/content/create": "containerd.events.ContentCreate",
    "/content/delete": "containerd.events.ContentDelete",
    "/namespaces/create": "containerd.events.NamespaceCreate",
    "/namespaces/update": "containerd.events.NamespaceUpdate",
    "/namespaces/delete": "containerd.events.NamespaceDelete",
}
"""Topic -> full name of the protobuf message that is its event: the `type_url`."""


class Event(NamedTuple):
    """What happened to one thing, and when (nanoseconds since the epoch)."""

    timestamp: int
    namespace: str
    topic: str
    fields: Mapping[str, Any]  # of the message that `TYPES` names; those that are empty are left out

    @property
    def name(self) -> str:
        """What it happened to: the name of an image or namespace, or a digest."""
        return str(self.fields.get("name") or self.fields.get("digest") or "")


def event_fields(namespace: str, topic: str, fields: Mapping[str, Any]) -> Adaptor:
    """What filters ask of an event: `namespace`, `topic`, `event.FIELD`, `event.labels.KEY`. `event.size`
    is absent, as in containerd.
    """

    def field(path: Sequence[str]) -> tuple[str, bool]:
        match path:
            case ["namespace", *_]:
                return namespace, bool(namespace)
            case ["topic", *_]:
                return topic, bool(topic)
            case ["event", "labels", *key]:
                labels = fields.get("labels") or {}
                return labels.get(".".join(key), ""), ".".join(key) in labels
            case ["event", name, *_] if isinstance(value := fields.get(name), str):
                return value, bool(value)
        return "", False

    return field


def events_of(operation: Operation) -> Iterator[Event]:
    """The events that an operation makes, in the order of its lines."""
    for change in operation.changes:
        told = _told(change, alone=operation.lines == 1)
        if told is not None:
            topic, fields = told
            present = {key: value for key, value in fields.items() if value}
            yield Event(operation.time, operation.namespace, topic, present)


def history(
    store: DiskStore,
    *,
    namespaces: Collection[str] | None = None,
    on_error: Callable[[ImgtoolError], None] = lambda error: None,
) -> Iterator[Event]:
    """All that the logs tell up to now; of each namespace in order, merged by time.

    Args:
        store: whose.
        namespaces: only these; None: all, deleted ones too.
        on_error: called with what cannot be read of a log; the rest is told.
    """
    follower = Follower(store.engine, namespaces=namespaces, on_error=on_error)
    for last in (False, True):
        for operation in follower.poll(last=last):
            yield from events_of(operation)


def follow(
    store: DiskStore,
    wait: Callable[[], bool],
    *,
    past: bool = False,
    namespaces: Collection[str] | None = None,
    on_error: Callable[[ImgtoolError], None] = lambda error: None,
) -> Iterator[Event]:
    """What is changed from the call on, as it happens, each event once.

    Args:
        store: whose. It need not exist yet.
        wait: called when all is told; lets some time pass, such as `POLL`, and is False to end.
        past: also, and first, all that the logs tell already.
        namespaces, on_error: as in `history`.
    """
    follower = Follower(store.engine, namespaces=namespaces, on_error=on_error)
    if not past:
        follower.skip()
    return _following(follower, wait)


def _following(follower: Follower, wait: Callable[[], bool]) -> Iterator[Event]:
    is_going_on = True
    while is_going_on:
        for operation in follower.poll():
            yield from events_of(operation)
        is_going_on = wait()


def _told(change: Change, *, alone: bool) -> tuple[str, Mapping[str, Any]] | None:
    """Topic and fields of the event of a change; None if it makes none."""
    old, new = change.old, change.new
    verb = "delete" if new is None else "create" if old is None else "update"
    named = {"name": change.name}
    match change.kind, verb:
        case "image", "delete":
            return "/images/delete", named
        case "image", _:
            return f"/images/{verb}", {**named, "labels": _labels(new)}
        case "content", "delete":
            return "/content/delete", {"digest": change.name}
        case "content", "create":
            return "/content/create", {"digest": change.name, "size": (new or {}).get("size")}
        case "namespace", "delete":
            return "/namespaces/delete", named
        case "namespace", "create" if alone:
            return "/namespaces/create", {**named, "labels": _labels(new)}
        case "namespace", "update":
            return "/namespaces/update", {**named, "labels": _difference(_labels(old), _labels(new))}
    return None


def _labels(record: Mapping[str, Any] | None) -> dict[str, str]:
    labels = (record or {}).get("labels")
    return labels if isinstance(labels, dict) else {}


def _difference(old: Mapping[str, str], new: Mapping[str, str]) -> dict[str, str]:
    """The labels that are other than before; an empty value where one is gone. What a client of
    containerd sends to get there, and what its event has.
    """
    return {key: new.get(key, "") for key in sorted({*old, *new}) if old.get(key) != new.get(key)}
