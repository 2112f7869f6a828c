"""The exchange of events, and the watch of the logs that feeds it. No gRPC here."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from itertools import islice
from pathlib import Path

import pytest

from imgtool.disk import open_store
from imgtool.errors import InvalidArgument, ResourceExhausted
from imgtool.serve import exchange as module
from imgtool.serve.contracts import Log
from imgtool.serve.exchange import Envelope, Exchange, Subscription, check_topic
from imgtool.serve.watch import Watch
from imgtool.stores import Store
from tests.conformance.things import add, image
from tests.fixture_runner import ROOT

NS = "default"


class World:
    """A store, its watch and its exchange."""

    def __init__(self, root: Path, poll: float) -> None:
        self.root = str(root)
        self.warned: list[str] = []
        log = Log(lambda text: None, lambda text: None, self.warned.append)
        self.watch = Watch(self.open, log, poll=poll)
        self.exchange = Exchange(self.watch)
        self.watch.start()

    def open(self) -> AbstractContextManager[Store]:
        return open_store(self.root)

    def create(self, *names: str, ns: str = NS) -> None:
        with open_store(self.root) as store:
            for name in names:
                store.images(ns).create(image(name))

    def close(self) -> None:
        self.exchange.close()
        self.watch.stop()


@pytest.fixture
def quick(tmp_path: Path) -> Iterator[World]:
    """One that looks often."""
    with closing(World(tmp_path / "store", 0.01)) as world:
        yield world


@pytest.fixture
def still(tmp_path: Path) -> Iterator[World]:
    """One that looks only when it is told to."""
    with closing(World(tmp_path / "store", 3600)) as world:
        yield world


def names(subscription: Subscription, count: int) -> list[str]:
    """The names in the next `count` events."""
    return [str(envelope.fields.get("name")) for envelope in islice(subscription, count)]


def published(exchange: Exchange, topic: str = "/tasks/start", **fields: str) -> None:
    exchange.publish(NS, topic, "containerd.events.TaskStart", b"\n\1c", fields)


def test_what_any_process_changes_is_told(quick: World) -> None:
    """A command beside the server."""
    with quick.exchange.subscribe() as told:
        argv = [sys.executable, "-m", "imgtool", "--root", quick.root, "namespace", "create", "team"]
        subprocess.run(argv, cwd=ROOT, check=True, capture_output=True)
        (envelope,) = islice(told, 1)
    assert envelope[1:] == (
        "team",
        "/namespaces/create",
        "containerd.events.NamespaceCreate",
        None,
        {"name": "team"},
    )
    assert abs(envelope.timestamp - time.time_ns()) < 60e9


def test_what_the_server_changes_is_told_before_its_reply(still: World) -> None:
    """As in containerd: a client that has its reply need not wait for the event."""
    with still.exchange.subscribe() as told:
        still.create("a")
        still.exchange.changed(NS)
        assert names(told, 1) == ["a"]


def test_an_event_is_told_once_to_each_subscriber(quick: World) -> None:
    """Whether the server was told of the change or found it."""
    with quick.exchange.subscribe() as one, quick.exchange.subscribe() as two:
        quick.create("a")
        quick.exchange.changed(NS)
        quick.create("b")
        quick.watch.look()
        quick.create("c")
        assert names(one, 3) == names(two, 3) == ["a", "b", "c"]


def test_what_was_before_is_not_told(still: World) -> None:
    """Though the watch had not seen it yet."""
    still.create("a")
    with still.exchange.subscribe() as told:
        still.create("b")
        still.watch.look()
        assert names(told, 1) == ["b"]


def test_only_what_matches_a_filter_is_told(still: World) -> None:
    with still.exchange.subscribe("event.name==b", 'topic=="/tasks/start"') as told:
        still.create("a", "b")
        still.watch.look()
        published(still.exchange)
        assert [envelope.topic for envelope in islice(told, 2)] == ["/images/create", "/tasks/start"]


def test_a_filter_that_is_none_is_refused(still: World) -> None:
    with pytest.raises(InvalidArgument):
        still.exchange.subscribe("topic=x")


def test_content_that_is_created_is_left_out(still: World) -> None:
    """A client of containerd 1 says of each that it cannot be read; its deletion is told."""
    with still.exchange.subscribe() as told, open_store(still.root) as store:
        digest = add(store, b"x")
        store.content(NS).delete(digest)
        still.watch.look()
        topics = [envelope.topic for envelope in islice(told, 2)]
    # The namespace began with an unfinished write, which its log does not tell from a creation.
    assert topics == ["/namespaces/create", "/content/delete"]


def test_what_a_client_publishes_is_told_as_it_is(still: World) -> None:
    with still.exchange.subscribe() as told:
        published(still.exchange, name="x")
        (envelope,) = islice(told, 1)
    assert envelope[1:] == (NS, "/tasks/start", "containerd.events.TaskStart", b"\n\1c", {"name": "x"})
    assert abs(envelope.timestamp - time.time_ns()) < 60e9


def test_what_is_forwarded_keeps_its_time(still: World) -> None:
    envelope = Envelope(42, "k8s.io", "/a/b", "c.D", b"")
    with still.exchange.subscribe() as told:
        still.exchange.forward(envelope)
        assert list(islice(told, 1)) == [envelope]


@pytest.mark.parametrize(
    "envelope",
    [
        Envelope(1, "", "/a", "c.D", b""),
        Envelope(1, "a..b", "/a", "c.D", b""),
        Envelope(1, NS, "a", "c.D", b""),
        Envelope(0, NS, "/a", "c.D", b""),
    ],
)
def test_what_containerd_refuses_to_forward_is_refused(still: World, envelope: Envelope) -> None:
    with pytest.raises(InvalidArgument):
        still.exchange.forward(envelope)


@pytest.mark.parametrize("topic", ["/a", "/images/create", "/a.b/c-d/e_f", "/0"])
def test_a_topic_is_identifiers_behind_slashes(topic: str) -> None:
    assert check_topic(topic) == topic


@pytest.mark.parametrize(
    "topic", ["", "/", "a", "a/b", "/a/", "//a", "/a//b", "/a b", "/ä", "/a\n", "/" + "a" * 77]
)
def test_what_is_no_topic_is_refused(topic: str) -> None:
    with pytest.raises(InvalidArgument):
        check_topic(topic)


def test_closing_ends_who_waits(still: World) -> None:
    """The client has gone, or the server stops."""
    told = still.exchange.subscribe()
    heard: list[Envelope] = []
    waiting = threading.Thread(target=lambda: heard.extend(told))
    waiting.start()
    published(still.exchange)
    wait_until(lambda: len(heard) == 1)
    told.close()
    waiting.join(10)
    published(still.exchange)
    assert (len(heard), waiting.is_alive()) == (1, False)


def test_after_the_end_of_the_exchange_nobody_waits(still: World) -> None:
    before = still.exchange.subscribe()
    still.exchange.close()
    assert list(before) == list(still.exchange.subscribe()) == []


def test_subscriptions_end_when_the_server_is_to_stop(tmp_path: Path) -> None:
    """Else they would keep it from stopping."""
    stopping = threading.Event()
    watch = Watch(lambda: open_store(str(tmp_path / "store")), Log(print, print, print), stopping)
    exchange = Exchange(watch)
    watch.start()
    told = exchange.subscribe()
    stopping.set()
    assert list(told) == []
    watch.stop()


def test_a_slow_subscriber_is_told_that_it_lost_something(
    still: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is bounded; the others go on."""
    monkeypatch.setattr(module, "WAITING_MAX", 10_000)
    with still.exchange.subscribe() as slow, still.exchange.subscribe("event.name==5") as other:
        for number in range(100):
            published(still.exchange, name=str(number))
        heard: list[Envelope] = []
        with pytest.raises(ResourceExhausted):
            heard.extend(slow)
        assert [envelope.fields["name"] for envelope in heard] == [str(number) for number in range(9)]
        assert names(other, 1) == ["5"]
    with still.exchange.subscribe() as slow:
        for _ in range(10):
            published(still.exchange, name="early")
        assert names(slow, 9) == ["early"] * 9
        published(still.exchange, name="late")
        with pytest.raises(ResourceExhausted):
            next(iter(slow))
    with still.exchange.subscribe() as slow:
        published(still.exchange, name="x" * 100)
        still.exchange.publish(NS, "/a", "c.D", bytes(20_000))
        assert names(slow, 1) == ["x" * 100]
        with pytest.raises(ResourceExhausted):
            next(iter(slow))


def test_a_subscriber_that_keeps_up_loses_nothing(still: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much there is in all."""
    monkeypatch.setattr(module, "WAITING_MAX", 10_000)
    with still.exchange.subscribe() as told:
        for number in range(100):
            published(still.exchange, name=str(number))
            assert names(told, 1) == [str(number)]


def test_nothing_is_kept_of_who_has_left(still: World) -> None:
    """A server runs for months."""
    told = still.exchange.subscribe()
    told.close()
    left = weakref.ref(told)
    del told
    assert left() is None


def test_a_watch_does_not_tell_the_past(still: World) -> None:
    """It would be reasons for gc that the first run has done with."""
    still.create("a")
    told: list[object] = []
    watch = Watch(still.open, Log(print, print, print), poll=3600)
    watch.listen(told.append)
    watch.start()
    watch.look()
    still.create("b")
    watch.look()
    watch.stop()
    assert len(told) == 1


def test_a_line_that_cannot_be_read_is_said_and_the_others_told(still: World) -> None:
    with still.exchange.subscribe() as told:
        still.create("a", "b", "c")
        path = Path(still.root, "namespaces", NS, "log")
        path.write_bytes(path.read_bytes().replace(b'"b"', b'"x"', 1))
        still.watch.look()
        assert names(told, 2) == ["a", "c"]
    assert len(still.warned) == 1


def test_a_listener_that_fails_does_not_end_the_watch(quick: World) -> None:
    def fails(operation: object) -> None:
        raise RuntimeError("no")

    quick.watch.listen(fails)
    with quick.exchange.subscribe() as told:
        quick.create("a")
        assert names(told, 1) == ["a"]
        wait_until(lambda: bool(quick.warned))
        quick.create("b")
        assert names(told, 1) == ["b"]
    assert "RuntimeError" in quick.warned[0]


def test_many_writers_and_subscribers_lose_nothing(quick: World) -> None:
    """Threads of the server, each with its store, and both ways of noticing at once."""
    subscriptions = [quick.exchange.subscribe() for _ in range(3)]

    def write(ns: str) -> None:
        for number in range(20):
            quick.create(f"{number}", ns=ns)
            quick.exchange.changed(ns)

    writers = [threading.Thread(target=write, args=(f"n{i}",)) for i in range(3)]
    for writer in writers:
        writer.start()
    for subscription in subscriptions:
        told = list(islice(subscription, 60))
        for i in range(3):
            expected = [str(number) for number in range(20)]
            assert [e.fields["name"] for e in told if e.namespace == f"n{i}"] == expected
        subscription.close()
    for writer in writers:
        writer.join()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
