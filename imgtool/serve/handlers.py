"""From a service's descriptor and an object to the methods that answer calls: no generated stubs.

The method `ListStatuses` is answered by `list_statuses(request, call)`. It returns the response, or is a
generator of them where they are streamed; streamed requests come as an iterator. What the object does not
have is Unimplemented, and so is every service that nobody has.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import Any, Protocol

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import MethodDescriptorProto
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from imgtool.errors import ImgtoolError
from imgtool.serve.calls import Call, as_ours, at_once, is_at_once
from imgtool.serve.contracts import Log, Unimplemented
from imgtool.serve.streams import Gone

_WORD = re.compile(r"(?<!^)(?=[A-Z])")


class Service(Protocol):
    """The face of one gRPC service."""

    @property
    def descriptor(self) -> ServiceDescriptor: ...


class Method:
    """See `rpc.Method`.

    Args:
        name: `/SERVICE/METHOD`.
        answer: what the service has for it.
        log: gets a line for each call, and a warning for each that failed by a fault of our own.
        debug: have tracebacks of such faults.
        descriptor: of the method; without one it takes and gives anything.
    """

    def __init__(
        self,
        name: str,
        answer: Callable[[Any, Call], Any],
        log: Log,
        debug: bool,
        descriptor: MethodDescriptor | None = None,
    ) -> None:
        kind, asked, given = MethodDescriptorProto(), Empty, Empty
        if descriptor is None:
            kind.client_streaming = kind.server_streaming = True
        else:
            descriptor.CopyToProto(kind)
            asked, given = GetMessageClass(descriptor.input_type), GetMessageClass(descriptor.output_type)
        self.name = name
        self.is_at_once = is_at_once(answer)
        self.takes_stream: bool = kind.client_streaming
        self.gives_stream: bool = kind.server_streaming
        self._answer = answer
        self._log = log
        self._debug = debug
        self._parse = asked.FromString
        self._serialize = given.SerializeToString

    def answers(self, requests: Iterator[bytes], call: Call) -> Generator[bytes, None, None]:
        parsed = map(self._parsed, requests)
        answer = self._answer(parsed if self.takes_stream else next(parsed), call)
        if not self.gives_stream:
            yield self._serialize(answer)
            return
        with closing(answer):
            yield from map(self._serialize, answer)

    def ended(self, error: Exception | None) -> ImgtoolError | None:
        if error is None:
            self._log.detail(f"{self.name}: OK")
            return None
        if isinstance(error, Gone):
            self._log.detail(f"{self.name}: nobody waits for the answer")
            return None
        failure = as_ours(error)
        line = f"{self.name}: {failure.grpc}: {failure.message}"
        if failure is error or isinstance(error, OSError | MemoryError):
            self._log.detail(line)
        else:
            self._log.warn(line)
            if self._debug:
                traceback.print_exception(error)
        return failure

    def _parsed(self, request: bytes) -> Any:
        try:
            return self._parse(request)
        except DecodeError:
            raise ImgtoolError("the request cannot be read") from None


class Handlers:
    """The methods of all services.

    Args:
        services: each service once.
        log: see `Method`.
        debug: see `Method`.
    """

    def __init__(self, services: list[Service], log: Log, *, debug: bool = False) -> None:
        self._log = log
        self._debug = debug
        self._methods = {}
        for service in services:
            for method in service.descriptor.methods:
                name = f"/{service.descriptor.full_name}/{method.name}"
                answer = getattr(service, _WORD.sub("_", method.name).lower(), None)
                if answer is not None:
                    self._methods[name] = Method(name, answer, log, debug, method)

    def find(self, path: str) -> Method:
        """The one of that path; where there is none, one that says so."""
        return self._methods.get(path) or Method(path, _absent(path), self._log, self._debug)


def _absent(path: str) -> Callable[[Any, Call], Any]:
    @at_once
    def answer(requests: object, call: Call) -> None:
        service, _, method = path.removeprefix("/").rpartition("/")
        raise Unimplemented(f"imgtool has no method {method} of {service}")

    return answer
