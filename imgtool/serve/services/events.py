"""containerd.services.events.v1. What is subscribed to is of all namespaces; filters narrow it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any as Anything

from google.protobuf.any_pb2 import Any
from google.protobuf.empty_pb2 import Empty
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError

from imgtool.ops.events import TYPES
from imgtool.serve import messages
from imgtool.serve.calls import Call
from imgtool.serve.exchange import Envelope, Exchange
from imgtool.serve.proto import events_pb2 as pb
from imgtool.serve.proto import happenings_pb2, images_pb2, types_pb2

_KNOWN = {
    name: getattr(images_pb2 if "images" in name else happenings_pb2, name.rpartition(".")[2])
    for name in TYPES.values()
}


class Events:
    descriptor = pb.DESCRIPTOR.services_by_name["Events"]

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def publish(self, request: pb.PublishRequest, call: Call) -> Empty:
        event = request.event
        self._exchange.publish(call.namespace, request.topic, event.type_url, event.value, _fields(event))
        return Empty()

    def forward(self, request: pb.ForwardRequest, call: Call) -> Empty:
        told, event = request.envelope, request.envelope.event
        time = told.timestamp.seconds * 1_000_000_000 + told.timestamp.nanos
        self._exchange.forward(
            Envelope(time, told.namespace, told.topic, event.type_url, event.value, _fields(event))
        )
        return Empty()

    def subscribe(self, request: pb.SubscribeRequest, call: Call) -> Iterator[types_pb2.Envelope]:
        with self._exchange.subscribe(*request.filters) as told:
            if call.on_end(told.close):
                yield from map(_message, told)


def _fields(event: Any) -> Mapping[str, Anything]:
    """What filters can ask of an event; nothing where its type is not known."""
    try:
        message = _KNOWN[event.type_url].FromString(event.value)
    except (KeyError, DecodeError):
        return {}
    found: Mapping[str, Anything] = MessageToDict(message, preserving_proto_field_name=True)
    return found


def _message(envelope: Envelope) -> types_pb2.Envelope:
    value = envelope.value
    if value is None:
        value = _KNOWN[envelope.type_url](**envelope.fields).SerializeToString()
    return types_pb2.Envelope(
        timestamp=messages.timestamp(envelope.timestamp),
        namespace=envelope.namespace,
        topic=envelope.topic,
        event=Any(type_url=envelope.type_url, value=value),
    )
