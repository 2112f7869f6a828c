"""Clients of a server: stubs made from descriptors, and Debian's `ctr`."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.descriptor_pb2 import MethodDescriptorProto
from google.protobuf.message_factory import GetMessageClass

from imgtool.disk import DiskStore, open_store
from imgtool.serve.proto import events_pb2, types_pb2


class Stub:
    """The methods of a service, in snake case: `stub.list_statuses(request)`.

    Args:
        channel: how to get there.
        service: its descriptor.
        headers: what goes along as metadata with every call.
    """

    def __init__(self, channel: grpc.Channel, service: ServiceDescriptor, headers: dict[str, str]) -> None:
        self._metadata = tuple(headers.items())
        for method in service.methods:
            proto = MethodDescriptorProto()
            method.CopyToProto(proto)
            kind = "_".join(
                "stream" if streams else "unary"
                for streams in (proto.client_streaming, proto.server_streaming)
            )
            call = getattr(channel, kind)(
                f"/{service.full_name}/{method.name}",
                request_serializer=GetMessageClass(method.input_type).SerializeToString,
                response_deserializer=GetMessageClass(method.output_type).FromString,
            )
            setattr(self, re.sub(r"(?<!^)(?=[A-Z])", "_", method.name).lower(), self._bound(call))

    def _bound(self, call: Any) -> Any:
        def bound(request: Any, **more: Any) -> Any:
            return call(request, **{"metadata": self._metadata, "timeout": 30, **more})

        return bound

    def code(self, name: str, request: Any) -> str:
        """The name of the status with which the method `name` answers."""
        try:
            getattr(self, name)(request)
        except grpc.RpcError as error:
            return str(error.code().name)
        return "OK"

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


class Served:
    """A server that runs."""

    def __init__(self, root: Path, path: Path) -> None:
        self.root = root
        self.path = path
        self.warned: list[str] = []  # by the server, in this process
        self.may_warn: tuple[str, ...] = ()  # how warnings begin that are no fault of ours
        self.channel = grpc.insecure_channel(f"unix:{path}")

    def stub(self, service: ServiceDescriptor, namespace: str = "default", **headers: str) -> Stub:
        """A client of `service`; without namespace where that is empty."""
        if namespace:
            headers["containerd-namespace"] = namespace
        return Stub(self.channel, service, headers)

    @contextmanager
    def told(self, *filters: str) -> Iterator[Iterator[types_pb2.Envelope]]:
        """The events that are told inside, as a subscriber hears them; without end of their own."""
        events = self.stub(events_pb2.DESCRIPTOR.services_by_name["Events"], "begin")
        wanted = [*filters, 'topic=="/begin"'] if filters else []
        stream = events.subscribe(events_pb2.SubscribeRequest(filters=wanted), timeout=600)
        is_heard = threading.Event()

        def begin() -> None:
            while not is_heard.wait(0.05):
                events.publish(events_pb2.PublishRequest(topic="/begin"))

        beginning = threading.Thread(target=begin)
        beginning.start()
        try:
            next(stream)
            is_heard.set()
            beginning.join()
            yield (envelope for envelope in stream if envelope.topic != "/begin")
        finally:
            is_heard.set()
            stream.cancel()

    def store(self) -> DiskStore:
        """The same store, as an imgtool command beside the server opens it."""
        return open_store(str(self.root))

    def ctr(self, *args: str | Path, namespace: str = "default") -> subprocess.CompletedProcess[str]:
        """Debian's client; skips the test where it is missing."""
        if shutil.which("ctr") is None:
            pytest.skip("ctr is not installed")
        argv = ["ctr", "--address", str(self.path), "--namespace", namespace, *map(str, args)]
        return subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)
