"""containerd.services.introspection.v1."""

from __future__ import annotations

import os

from google.protobuf.empty_pb2 import Empty

from imgtool.serve.calls import Call, at_once
from imgtool.serve.local.introspection import LocalIntrospection, Plugin
from imgtool.serve.proto import introspection_pb2 as pb


class Introspection:
    descriptor = pb.DESCRIPTOR.services_by_name["Introspection"]

    def __init__(self, introspection: LocalIntrospection) -> None:
        self._introspection = introspection

    @at_once
    def plugins(self, request: pb.PluginsRequest, call: Call) -> pb.PluginsResponse:
        return pb.PluginsResponse(plugins=map(_plugin, self._introspection.plugins(request.filters)))

    @at_once
    def server(self, request: Empty, call: Call) -> pb.ServerResponse:
        pidns = os.stat("/proc/self/ns/pid").st_ino
        return pb.ServerResponse(uuid=self._introspection.uuid, pid=os.getpid(), pidns=pidns)

    @at_once
    def plugin_info(self, request: pb.PluginInfoRequest, call: Call) -> pb.PluginInfoResponse:
        found = self._introspection.plugin(request.type, request.id)
        return pb.PluginInfoResponse(plugin=_plugin(found))


def _plugin(plugin: Plugin) -> pb.Plugin:
    return pb.Plugin(type=plugin.type, id=plugin.id, requires=plugin.requires)
