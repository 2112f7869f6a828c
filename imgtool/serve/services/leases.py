"""containerd.services.leases.v1."""

from __future__ import annotations

from google.protobuf.empty_pb2 import Empty

from imgtool.model import Lease
from imgtool.serve import messages
from imgtool.serve.calls import Call
from imgtool.serve.local.leases import LocalLeases
from imgtool.serve.proto import leases_pb2 as pb


class Leases:
    descriptor = pb.DESCRIPTOR.services_by_name["Leases"]

    def __init__(self, leases: LocalLeases) -> None:
        self._leases = leases

    def create(self, request: pb.CreateRequest, call: Call) -> pb.CreateResponse:
        created = self._leases.create(call.namespace, Lease(request.id, dict(request.labels)))
        return pb.CreateResponse(lease=messages.lease(created))

    def delete(self, request: pb.DeleteRequest, call: Call) -> Empty:
        self._leases.delete(call.namespace, request.id, sync=request.sync)
        return Empty()

    def list(self, request: pb.ListRequest, call: Call) -> pb.ListResponse:
        found = self._leases.list(call.namespace, request.filters)
        return pb.ListResponse(leases=map(messages.lease, found))

    def add_resource(self, request: pb.AddResourceRequest, call: Call) -> Empty:
        resource = request.resource
        self._leases.add(call.namespace, request.id, resource.type, resource.id)
        return Empty()

    def delete_resource(self, request: pb.DeleteResourceRequest, call: Call) -> Empty:
        resource = request.resource
        self._leases.remove(call.namespace, request.id, resource.type, resource.id)
        return Empty()

    def list_resources(self, request: pb.ListResourcesRequest, call: Call) -> pb.ListResourcesResponse:
        held = self._leases.resources(call.namespace, request.id)
        return pb.ListResourcesResponse(resources=[pb.Resource(type=type, id=id) for type, id in held])
