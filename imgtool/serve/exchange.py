"""The exchange of events: what the log tells, and what clients publish, to all who subscribe.

Topics, filters and checks are those of containerd's `core/events/exchange`. What the server's own
services change comes from the log as well, so that an event is told once, whoever made it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from imgtool import clock, filters
from imgtool.disk.follow import Operation
from imgtool.errors import ImgtoolError, InvalidArgument, ResourceExhausted
from imgtool.model import EMPTY
from imgtool.names import check_namespace
from imgtool.ops.events import TYPES, event_fields, events_of
from imgtool.serve.watch import Watch

if TYPE_CHECKING:
    from typing import Self

WAITING_MAX = 1 << 26
"""So many bytes of events may wait for one subscriber. In containerd only its memory is the limit."""
_ENVELOPE = 1 << 10  # bytes that one takes, besides what it holds

NEWER = frozenset({"/content/create"})
"""What containerd publishes only since 2.0: a client of 1.x complains of each that it cannot be read."""

_OF_CALLERS = frozenset({"/namespaces/create", "/namespaces/update"})


class Envelope(NamedTuple):
    """An event on its way.

    Args:
        timestamp: nanoseconds since the epoch.
        namespace: where it happened.
        topic: such as `/images/create`.
        type_url: full name of the event's protobuf message.
        value: that message, encoded; None where it is to be made of `fields`.
        fields: of the message by their names, as far as they are known; filters ask them.
    """

    timestamp: int
    namespace: str
    topic: str
    type_url: str
    value: bytes | None = None
    fields: Mapping[str, Any] = EMPTY


class Subscription:
    """The events for one subscriber, from its beginning on. Iterating waits for the next, and ends when
    it is closed, which any thread may do.

    Raises:
        ResourceExhausted: while iterating: too many have been waiting, and the rest is lost.
    """

    def __init__(self, exchange: Exchange, wanted: filters.Filter) -> None:
        self._exchange = exchange
        self._wanted = wanted
        self._waiting: deque[tuple[Envelope, int]] = deque()
        self._size = 0  # of what waits
        self._changed = threading.Condition()
        self._is_closed = False
        self._is_behind = False

    def offer(self, envelope: Envelope, size: int) -> None:
        """Put it into the queue, if it is wanted. Does not wait."""
        if not self._wanted.matches(event_fields(envelope.namespace, envelope.topic, envelope.fields)):
            return
        with self._changed:
            if self._is_closed:
                return
            if self._size + size > WAITING_MAX:
                self._is_behind = self._is_closed = True
            else:
                self._waiting.append((envelope, size))
                self._size += size
            self._changed.notify()

    def close(self) -> None:
        """End it; what waits is dropped."""
        self._exchange.leave(self)
        with self._changed:
            self._is_closed = True
            self._waiting.clear()
            self._changed.notify()

    def __iter__(self) -> Iterator[Envelope]:
        while True:
            with self._changed:
                while not self._waiting and not self._is_closed:
                    self._changed.wait()
                if not self._waiting:
                    break
                envelope, size = self._waiting.popleft()
                self._size -= size
            yield envelope
        if self._is_behind:
            raise ResourceExhausted("subscriber is too slow: later events are lost", hint="subscribe anew")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Exchange:
    """Publisher, forwarder and subscriber in one.

    Args:
        watch: tells what is changed.
        without: topics of the log that are not told.
    """

    def __init__(self, watch: Watch, *, without: Collection[str] = NEWER) -> None:
        self._watch = watch
        self._without = without
        self._callers: dict[str, tuple[str, str | None]] = {}
        self._subscribers: tuple[Subscription, ...] = ()
        self._joining = threading.Lock()
        self._is_closed = False
        watch.listen(self._happened)
        watch.at_end(self.close)

    def changed(self, namespace: str) -> None:
        """The log of `namespace` has new lines: subscribers are told when this returns."""
        self._watch.look(namespace)

    @contextmanager
    def changing(self, namespace: str, caller: str, topic: str | None) -> Iterator[None]:
        """Inside, a client changes the namespace itself. That is told under the namespace in which the
        client works, and as what it has asked for, or not at all where that is None; the log knows neither.
        When it ends, subscribers have been told.
        """
        self._callers[namespace] = caller, topic
        try:
            yield
            self.changed(namespace)
        finally:
            self._callers.pop(namespace, None)

    def publish(
        self, namespace: str, topic: str, type_url: str, value: bytes, fields: Mapping[str, Any] = EMPTY
    ) -> None:
        """Tell of what a client says has happened now.

        Raises:
            InvalidArgument: the namespace or the topic can be none.
        """
        self.forward(Envelope(clock.wall(), namespace, topic, type_url, value, fields))

    def forward(self, envelope: Envelope) -> None:
        """Tell of what somebody else has published.

        Raises:
            InvalidArgument: its namespace or topic can be none, or it has no time.
        """
        check_namespace(envelope.namespace)
        check_topic(envelope.topic)
        if not envelope.timestamp:
            raise InvalidArgument("an event that is forwarded has a timestamp")
        self._tell(envelope)

    def subscribe(self, *wanted: str) -> Subscription:
        """Everything that happens from the call on and meets one of the filters; see `event_fields`.

        Raises:
            InvalidArgument: a filter cannot be parsed.
        """
        subscription = Subscription(self, filters.compile(wanted))
        with self._watch.caught_up(), self._joining:
            if not self._is_closed:
                self._subscribers = (*self._subscribers, subscription)
                return subscription
        subscription.close()
        return subscription

    def leave(self, subscription: Subscription) -> None:
        """Tell it nothing more."""
        with self._joining:
            self._subscribers = tuple(s for s in self._subscribers if s is not subscription)

    def close(self) -> None:
        """End all subscriptions; those that begin from here on end at once."""
        with self._joining:
            self._is_closed = True
        for subscription in self._subscribers:
            subscription.close()

    def _happened(self, operation: Operation) -> None:
        if self._subscribers:
            for time, namespace, topic, fields in events_of(operation):
                told: tuple[str, str | None] = namespace, topic
                where, what = self._callers.get(namespace, told) if topic in _OF_CALLERS else told
                if what is not None and what not in self._without:
                    self._tell(Envelope(time, where, what, TYPES[what], None, fields))

    def _tell(self, envelope: Envelope) -> None:
        labels = envelope.fields.get("labels") or {}
        held = sum(len(key) + len(value) for key, value in labels.items()) + len(envelope.value or b"")
        for subscription in self._subscribers:
            subscription.offer(envelope, _ENVELOPE + held)


def check_topic(topic: str) -> str:
    """`topic` if it is one: a slash and then identifiers, with slashes between them.

    Raises:
        InvalidArgument: it is none.
    """
    if not topic:
        raise InvalidArgument("topic is empty")
    if not topic.startswith("/"):
        raise InvalidArgument(f"topic '{topic[:80]}' does not start with '/'")
    if topic == "/":
        raise InvalidArgument("topic '/' has no component")
    for component in topic[1:].split("/"):
        try:
            check_namespace(component)
        except ImgtoolError:
            raise InvalidArgument(f"topic '{topic[:80]}' has the component '{component[:80]}'") from None
    return topic
