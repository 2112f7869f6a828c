"""Events made of the log: `imgtool.ops.events`. What the commands make is in fixtures/events-*."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

import pytest

from imgtool import clock, filters
from imgtool.cli import events as view
from imgtool.digest import Digest
from imgtool.disk import DiskStore, log, open_store
from imgtool.errors import DataLoss, ImgtoolError, InvalidArgument
from imgtool.model import ContentInfo, Image, Lease, Namespace
from imgtool.ops.events import TYPES, Event, event_fields, follow, history
from tests.conformance.things import add, image, target

NS = "default"
LABELS = {"a.b": "1", "x.io/c": "2"}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DiskStore]:
    with open_store(str(tmp_path / "store")) as store:
        yield store


def topics(store: DiskStore) -> list[str]:
    return [event.topic for event in history(store)]


def test_each_topic_has_the_message_of_containerd(store: DiskStore) -> None:
    """Those of images are in another package than the rest: seen on the wire of 1.6.20."""
    digest = add(store, b"x")
    store.images(NS).create(image("a"))
    store.images(NS).update(Image("a", target(), {"k": "v"}), "labels")
    store.images(NS).delete("a")
    store.content(NS).delete(digest)
    store.namespaces.update(Namespace(NS, {"k": "v"}))
    store.namespaces.delete(NS)
    assert sorted(topics(store)) == sorted(TYPES)
    packages = {topic: name.rpartition(".")[0] for topic, name in TYPES.items()}
    assert {packages[t] for t in packages if t.startswith("/images/")} == {"containerd.services.images.v1"}
    assert {packages[t] for t in packages if not t.startswith("/images/")} == {"containerd.events"}


def test_what_containerd_is_silent_about_makes_no_event(store: DiskStore) -> None:
    """Leases, unfinished writes, labels of content."""
    store.namespaces.create(Namespace(NS))
    digest = add(store, b"x")
    before = topics(store)
    store.leases(NS).create(Lease("l"))
    store.leases(NS).add("l", "content", digest)
    store.content(NS).update(ContentInfo(digest, 0, {"k": "v"}), "labels.k")
    store.content(NS).writer("r").close()
    store.leases(NS).delete("l")
    assert topics(store) == before


def test_a_record_that_cannot_be_read_is_deleted_too(store: DiskStore) -> None:
    digest = add(store, b"x")
    path = Path(store.engine.layout.content_record(NS, digest))
    path.chmod(0o600)
    path.write_bytes(b"rot")
    store.content(NS).delete(digest)
    *_, last = history(store)
    assert last[1:] == (NS, "/content/delete", {"digest": digest})


def test_a_namespace_is_told_with_what_has_changed(store: DiskStore) -> None:
    """As a client of containerd sends it: what is gone, with an empty value."""
    store.namespaces.create(Namespace("n", {"a": "1", "b": "2", "c": "3"}))
    store.namespaces.update(Namespace("n", {"a": "1", "c": "4", "d": "5"}))
    *_, last = history(store)
    assert last.fields == {"name": "n", "labels": {"b": "", "c": "4", "d": "5"}}


def test_history_tells_what_a_dead_writer_has_done(store: DiskStore) -> None:
    """Half of its operation, of which nobody has said so in the log yet."""
    store.images(NS).create(image("a"))
    Path(store.engine.layout.lock(f"ns-{NS}")).write_bytes(b"\1")
    changes: list[log.Change] = [
        ("image", "b", None, {}),
        ("image", "a", None, store.engine.current(NS, "image", "a")),
    ]
    log.append(store.engine.layout.log(NS), "0" * 16, 0, changes, partial(store.engine.current, NS))
    assert [event.name for event in history(store)] == ["a", "a"]


def test_the_time_is_that_of_the_change(store: DiskStore) -> None:
    before = clock.wall()
    store.namespaces.create(Namespace("n"))
    (event,) = history(store)
    assert before <= event.timestamp <= clock.wall()


@pytest.mark.parametrize(
    ("filter", "matches"),
    [
        ("namespace==default", True),
        ("namespace==other", False),
        ('topic=="/images/create"', True),
        ("topic~=^/images/", True),
        ("event.name==a", True),
        ("event.name", True),
        ("event.labels.a.b==1", True),
        ('event.labels."x.io/c"==2', True),
        ("event.labels.a", False),
        ("event.digest", False),
        ("event.size", False),
        ("event", False),
        ("timestamp", False),
        ("name==a", False),
        ("event.name!=b", True),
    ],
)
def test_filters_ask_for_what_containerd_lets_them_ask_for(filter: str, matches: bool) -> None:
    fields = {"name": "a", "labels": LABELS, "size": 1}
    adaptor = event_fields(NS, "/images/create", fields)
    assert filters.compile([filter]).matches(adaptor) is matches


def test_following_begins_with_the_call(store: DiskStore) -> None:
    """Not with the first look: whoever has called may change something and be told."""
    store.images(NS).create(image("a"))
    events = follow(store, lambda: True)
    store.images(NS).create(image("b"))
    assert next(events).fields == {"name": "b"}


def test_following_may_begin_with_the_past(store: DiskStore) -> None:
    store.images(NS).create(image("a"))
    events = follow(store, lambda: True, past=True)
    assert next(events).name == "a"
    store.images(NS).create(image("b"))
    assert next(events).name == "b"


def test_following_ends_when_it_is_told_to(store: DiskStore) -> None:
    waits = iter([True, True, False])
    assert list(follow(store, lambda: next(waits))) == []


def test_following_tells_what_another_thread_changes(store: DiskStore) -> None:
    pause = threading.Event()
    events = follow(store, lambda: not pause.wait(0.01))

    def change() -> None:
        with open_store(store.engine.layout.root) as another:
            for number in range(20):
                another.images(NS).create(image(str(number)))

    writer = threading.Thread(target=change)
    writer.start()
    assert [event.name for event in islice(events, 20)] == [str(number) for number in range(20)]
    writer.join()


def test_a_damaged_line_goes_to_who_asks(store: DiskStore) -> None:
    errors: list[ImgtoolError] = []
    store.namespaces.create(Namespace(NS))
    Path(store.engine.layout.log(NS)).write_bytes(b"{}\n")
    assert list(history(store, on_error=errors.append)) == []
    assert [type(error) for error in errors] == [DataLoss]


# How they are printed


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "1970-01-01 00:00:00 +0000 UTC"),
        (1, "1970-01-01 00:00:00.000000001 +0000 UTC"),
        (1_100_000_000, "1970-01-01 00:00:01.1 +0000 UTC"),
        (10 * clock.SECOND, "1970-01-01 00:00:10 +0000 UTC"),
    ],
)
def test_a_time_is_written_as_ctr_does(ns: int, text: str) -> None:
    """The fraction without zeros at its end, or none."""
    assert line(Event(ns, NS, "/t", {}))[0] == text


def test_an_event_is_written_as_ctr_does() -> None:
    """Go's JSON has no blanks, and escapes what would matter in HTML; what would in a terminal, too."""
    fields = {"name": 'a"<&>é\x1b\x7f\u2028\U000e0001', "labels": {"k": "v"}}
    expected = r'{"name":"a\"\u003c\u0026\u003eé\u001b\u007f\u2028\udb40\udc01","labels":{"k":"v"}}'
    assert line(Event(0, NS, "/t", fields))[3] == expected


def line(event: Event) -> Sequence[str]:
    row = view.row(event)
    return [cell(row) for cell in view.COLUMNS.values()]


def test_a_moment_is_a_time_or_a_duration_before_now() -> None:
    assert view.moment("1970-01-01T00:00:01Z") == clock.SECOND
    now = clock.wall()
    assert 0 <= view.moment("1h") - (now - clock.HOUR) < clock.HOUR
    with pytest.raises(InvalidArgument):
        view.moment("soon")


def test_the_digest_or_the_name_is_what_it_is_about() -> None:
    digest = Digest.of(b"")
    assert [Event(0, NS, "/t", fields).name for fields in ({"name": "a"}, {"digest": digest}, {})] == [
        "a",
        digest,
        "",
    ]
