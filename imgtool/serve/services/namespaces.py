"""containerd.services.namespaces.v1. Its calls need no namespace of their own."""

from __future__ import annotations

from google.protobuf.empty_pb2 import Empty

from imgtool.serve import messages
from imgtool.serve.calls import Call, at_once
from imgtool.serve.local.namespaces import LocalNamespaces
from imgtool.serve.proto import namespaces_pb2 as pb


class Namespaces:
    descriptor = pb.DESCRIPTOR.services_by_name["Namespaces"]

    def __init__(self, namespaces: LocalNamespaces) -> None:
        self._namespaces = namespaces

    @at_once
    def get(self, request: pb.GetNamespaceRequest, call: Call) -> pb.GetNamespaceResponse:
        return pb.GetNamespaceResponse(namespace=messages.namespace(self._namespaces.get(request.name)))

    def list(self, request: pb.ListNamespacesRequest, call: Call) -> pb.ListNamespacesResponse:
        """The filter is not looked at, as in containerd."""
        return pb.ListNamespacesResponse(namespaces=map(messages.namespace, self._namespaces.list(())))

    def create(self, request: pb.CreateNamespaceRequest, call: Call) -> pb.CreateNamespaceResponse:
        namespace = messages.to_namespace(request.namespace)
        created = self._namespaces.create(namespace, call.namespace_or(namespace.name))
        return pb.CreateNamespaceResponse(namespace=messages.namespace(created))

    def update(self, request: pb.UpdateNamespaceRequest, call: Call) -> pb.UpdateNamespaceResponse:
        namespace = messages.to_namespace(request.namespace)
        caller = call.namespace_or(namespace.name)
        updated = self._namespaces.update(namespace, request.update_mask.paths, caller)
        return pb.UpdateNamespaceResponse(namespace=messages.namespace(updated))

    def delete(self, request: pb.DeleteNamespaceRequest, call: Call) -> Empty:
        self._namespaces.delete(request.name)
        return Empty()
