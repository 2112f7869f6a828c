"""containerd.services.content.v1."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice

from google.protobuf.empty_pb2 import Empty

from imgtool.digest import Digest
from imgtool.errors import InvalidArgument
from imgtool.serve import messages
from imgtool.serve.calls import Call, at_once
from imgtool.serve.local.content import Action, LocalContent, Progress, Step
from imgtool.serve.proto import content_pb2 as pb

_BLOCK = 100  # records in a message: as containerd
_ACTIONS: dict[pb.WriteAction, Action] = {pb.STAT: "stat", pb.WRITE: "write", pb.COMMIT: "commit"}
_NUMBERS = {action: number for number, action in _ACTIONS.items()}


class Content:
    """
    Args:
        content: of the namespaces that clients name.
        backend: where they name none, and there is one for such calls.
    """

    descriptor = pb.DESCRIPTOR.services_by_name["Content"]

    def __init__(self, content: LocalContent, backend: LocalContent) -> None:
        self._content = content
        self._backend = backend

    @at_once
    def info(self, request: pb.InfoRequest, call: Call) -> pb.InfoResponse:
        found = self._of(call).info(call.namespace, Digest.parse(request.digest))
        return pb.InfoResponse(info=messages.info(found))

    def update(self, request: pb.UpdateRequest, call: Call) -> pb.UpdateResponse:
        info = messages.to_info(request.info)
        updated = self._of(call).update(call.namespace, info, request.update_mask.paths)
        return pb.UpdateResponse(info=messages.info(updated))

    def list(self, request: pb.ListContentRequest, call: Call) -> Iterator[pb.ListContentResponse]:
        found = map(messages.info, self._of(call).list(call.namespace, request.filters))
        while block := tuple(islice(found, _BLOCK)):
            yield pb.ListContentResponse(info=block)

    def delete(self, request: pb.DeleteContentRequest, call: Call) -> Empty:
        self._of(call).delete(call.namespace, Digest.parse(request.digest))
        return Empty()

    @at_once
    def read(self, request: pb.ReadContentRequest, call: Call) -> Iterator[pb.ReadContentResponse]:
        """Offsets of the responses count from where the reading begins, as containerd's do."""
        digest, at = Digest.parse(request.digest), 0
        for data in self._of(call).read(call.namespace, digest, request.offset, request.size):
            yield pb.ReadContentResponse(offset=at, data=data)
            at += len(data)

    def status(self, request: pb.StatusRequest, call: Call) -> pb.StatusResponse:
        found = self._of(call).status(call.namespace, request.ref)
        return pb.StatusResponse(status=messages.ingest(found))

    def list_statuses(self, request: pb.ListStatusesRequest, call: Call) -> pb.ListStatusesResponse:
        found = self._of(call).statuses(call.namespace, request.filters)
        return pb.ListStatusesResponse(statuses=map(messages.ingest, found))

    def write(
        self, requests: Iterator[pb.WriteContentRequest], call: Call
    ) -> Iterator[pb.WriteContentResponse]:
        first = next(requests, None)
        if first is None:
            return
        if not first.ref:
            raise InvalidArgument("first message must have a reference")
        steps = map(_step, chain((first,), requests))
        yield from map(_progress, self._of(call).write(call.namespace, first.ref, steps, call.lease))

    def abort(self, request: pb.AbortRequest, call: Call) -> Empty:
        self._of(call).abort(call.namespace, request.ref)
        return Empty()

    def _of(self, call: Call) -> LocalContent:
        return self._backend if call.is_backend else self._content


def _step(request: pb.WriteContentRequest) -> Step:
    if request.action not in _ACTIONS:
        raise InvalidArgument(f"a write has no action {request.action}")
    return Step(
        _ACTIONS[request.action],
        request.offset,
        request.data,
        request.total,
        Digest.parse(request.expected) if request.expected else None,
        dict(request.labels),
    )


def _progress(progress: Progress) -> pb.WriteContentResponse:
    return pb.WriteContentResponse(
        action=_NUMBERS[progress.action],
        started_at=messages.timestamp(progress.started),
        updated_at=messages.timestamp(progress.updated),
        offset=progress.offset,
        total=progress.total,
        digest=progress.digest,
    )
