"""grpc.health.v1. `Watch` is absent: its definition has clients take that for a server that is well."""

from __future__ import annotations

from collections.abc import Collection

from imgtool.errors import NotFound
from imgtool.serve.calls import Call, at_once
from imgtool.serve.proto import health_pb2 as pb


class Health:
    """
    Args:
        services: full names of those that are served; filled when all are made.
    """

    descriptor = pb.DESCRIPTOR.services_by_name["Health"]

    def __init__(self, services: Collection[str]) -> None:
        self._services = services

    @at_once
    def check(self, request: pb.HealthCheckRequest, call: Call) -> pb.HealthCheckResponse:
        if request.service and request.service not in self._services:
            raise NotFound(f"service '{request.service[:200]}'")
        return pb.HealthCheckResponse(status=pb.HealthCheckResponse.SERVING)
