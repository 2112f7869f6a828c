"""containerd.services.snapshots.v1: there are none, which is what `ctr images check` wants to hear."""

from __future__ import annotations

from imgtool.errors import NotFound
from imgtool.serve.calls import Call, at_once
from imgtool.serve.proto import snapshots_pb2 as pb


class Snapshots:
    descriptor = pb.DESCRIPTOR.services_by_name["Snapshots"]

    @at_once
    def stat(self, request: pb.StatSnapshotRequest, call: Call) -> pb.StatSnapshotResponse:
        raise NotFound(f"snapshot '{request.key[:200]}' in namespace '{call.namespace}'")
