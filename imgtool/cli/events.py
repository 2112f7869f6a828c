"""Events for a person and for programs: as `ctr events` prints them, and as rows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

from imgtool import clock
from imgtool.cli.context import Context
from imgtool.cli.output import Kind, Row
from imgtool.errors import InvalidArgument
from imgtool.ops.events import POLL, Event, event_fields, follow, history

EVENTS = Kind("events", ("timestamp", "namespace", "topic", "name", "event"))

_STDOUT = 1


def rows(
    c: Context, filters: Sequence[str], *, following: bool, since: str | None, all_namespaces: bool
) -> Iterator[Row]:
    """The events that match: those that the logs tell, or with `following` those to come, and before them
    those since the time `since`, if that is given.

    Raises:
        InvalidArgument: a filter or time is none; or what follows is to be one JSON document.
    """
    from imgtool.filters import compile

    matches = compile(filters).matches
    start = None if since is None else moment(since)
    if following and c.format == "json":
        raise InvalidArgument("--follow does not go with --format json", hint="use --format jsonl")
    only = None if all_namespaces or c.namespace_option is None else {c.namespace}
    for event in _events(c, only, following=following, past=start is not None):
        is_wanted = start is None or event.timestamp >= start
        if is_wanted and matches(event_fields(event.namespace, event.topic, event.fields)):
            yield row(event)


def _events(
    c: Context, namespaces: Collection[str] | None, *, following: bool, past: bool
) -> Iterator[Event]:
    store, add = c.store(), c.failures.add
    if following:
        return follow(store, lambda: _idle(c), past=past, namespaces=namespaces, on_error=add)
    return history(store, namespaces=namespaces, on_error=add)


def _idle(c: Context) -> bool:
    """Hand out what was printed, and let some time pass.

    Raises:
        BrokenPipeError: nobody reads it any more.
    """
    import select

    c.out.flush()
    stdout = select.poll()
    stdout.register(_STDOUT, 0)  # only that the other end is closed
    if stdout.poll(POLL * 1000):
        raise BrokenPipeError
    return True


def moment(text: str) -> int:
    """A time in RFC 3339, or a duration before now; in nanoseconds since the epoch.

    Raises:
        InvalidArgument: it is neither.
    """
    try:
        return clock.wall() - clock.parse_duration(text)
    except InvalidArgument:
        pass
    try:
        return clock.parse_time(text)
    except InvalidArgument as error:
        raise InvalidArgument(
            f"'{text[:64]}' is neither a time nor a duration", hint="such as 2026-01-31T12:00:00Z or 10m"
        ) from error


def row(event: Event) -> Row:
    """An event, as JSON has it."""
    return {
        "timestamp": clock.format_time(event.timestamp),
        "namespace": event.namespace,
        "topic": event.topic,
        "name": event.name,
        "event": event.fields,
    }


def _go_time(row: Row) -> str:
    day, _, time = str(row["timestamp"]).removesuffix("Z").partition("T")
    return f"{day} {time.rstrip('0').removesuffix('.') if '.' in time else time} +0000 UTC"


def _go_json(row: Row) -> str:
    """As Go writes it: without blanks, and safe within HTML; and on a terminal."""
    import json

    text = json.dumps(row["event"], ensure_ascii=False, separators=(",", ":"))
    return "".join(c if c.isprintable() and c not in "<>&" else _escaped(c) for c in text)


def _escaped(c: str) -> str:
    units = c.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4))


COLUMNS: dict[str, Callable[[Row], str]] = {
    "TIME": _go_time,
    "NAMESPACE": lambda row: str(row["namespace"]),
    "TOPIC": lambda row: str(row["topic"]),
    "EVENT": _go_json,
}
