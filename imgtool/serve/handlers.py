"""From a service's descriptor and an object to what grpc calls: no generated stubs.

The method `ListStatuses` is answered by `list_statuses(request, call)`. It returns the response, or yields
them where they are streamed; streamed requests come as an iterator. What the object does not have is
Unimplemented, and so is every service that nobody has.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Protocol

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import MethodDescriptorProto
from google.protobuf.message_factory import GetMessageClass

from imgtool.errors import ImgtoolError
from imgtool.serve.calls import Call, Unimplemented, as_ours, status
from imgtool.serve.contracts import Log

Method = Callable[[Any, Call], Any]
_WORD = re.compile(r"(?<!^)(?=[A-Z])")


class Service(Protocol):
    """The face of one gRPC service."""

    @property
    def descriptor(self) -> ServiceDescriptor: ...


class Handlers(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """The methods of all services.

    Args:
        services: each service once.
        log: gets a line for each call, and a warning for each that failed by a fault of our own.
        backend: see `Call`.
        debug: have tracebacks of such faults.
    """

    def __init__(
        self, services: list[Service], log: Log, *, backend: str | None = None, debug: bool = False
    ) -> None:
        self._backend = backend
        self._log = log
        self._debug = debug
        self._methods = {
            f"/{service.descriptor.full_name}/{method.name}": self._handler(service, method)
            for service in services
            for method in service.descriptor.methods
        }

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        return self._methods.get(details.method) or self._absent(details.method)

    def _handler(self, service: Service, method: MethodDescriptor) -> grpc.RpcMethodHandler:
        name = f"/{service.descriptor.full_name}/{method.name}"
        answer = getattr(service, _WORD.sub("_", method.name).lower(), None)
        if answer is None:
            return self._absent(name)
        proto = MethodDescriptorProto()
        method.CopyToProto(proto)
        kinds = {
            (False, False): (grpc.unary_unary_rpc_method_handler, self._once),
            (False, True): (grpc.unary_stream_rpc_method_handler, self._streamed),
            (True, False): (grpc.stream_unary_rpc_method_handler, self._once),
            (True, True): (grpc.stream_stream_rpc_method_handler, self._streamed),
        }
        make, behaviour = kinds[proto.client_streaming, proto.server_streaming]
        return make(
            partial(behaviour, name, answer),
            request_deserializer=GetMessageClass(method.input_type).FromString,
            response_serializer=GetMessageClass(method.output_type).SerializeToString,
        )

    def _absent(self, name: str) -> grpc.RpcMethodHandler:
        def answer(request: object, call: Call) -> None:
            _, service, method = name.split("/", 2)
            raise Unimplemented(f"imgtool has no method {method} of {service}")

        return grpc.unary_unary_rpc_method_handler(partial(self._once, name, answer))

    def _once(self, name: str, answer: Method, request: Any, context: grpc.ServicerContext) -> Any:
        try:
            response = answer(request, Call(context, self._backend))
        except grpc.RpcError:  # of the stream of requests: the client is gone
            raise
        except Exception as error:
            failure = self._failed(name, error)
        else:
            self._log.detail(f"{name}: OK")
            return response
        return context.abort(*status(failure))

    def _streamed(
        self, name: str, answer: Method, request: Any, context: grpc.ServicerContext
    ) -> Iterator[Any]:
        try:
            yield from answer(request, Call(context, self._backend))
        except grpc.RpcError:
            raise
        except Exception as error:
            failure = self._failed(name, error)
        else:
            self._log.detail(f"{name}: OK")
            return
        context.abort(*status(failure))

    def _failed(self, name: str, error: Exception) -> ImgtoolError:
        failure = as_ours(error)
        line = f"{name}: {failure.grpc}: {failure.message}"
        if failure is error or isinstance(error, OSError | MemoryError):
            self._log.detail(line)
        else:
            self._log.warn(line)
            if self._debug:
                traceback.print_exception(error)
        return failure
