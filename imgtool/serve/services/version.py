"""containerd.services.version.v1."""

from __future__ import annotations

from google.protobuf.empty_pb2 import Empty

from imgtool import __version__
from imgtool.serve.calls import Call, at_once
from imgtool.serve.proto import version_pb2 as pb


class Version:
    descriptor = pb.DESCRIPTOR.services_by_name["Version"]

    @at_once
    def version(self, request: Empty, call: Call) -> pb.VersionResponse:
        """imgtool's own version; the revision tells that it is imgtool's."""
        return pb.VersionResponse(version=__version__, revision="imgtool")
