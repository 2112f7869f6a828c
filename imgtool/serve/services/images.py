"""containerd.services.images.v1."""

from __future__ import annotations

from google.protobuf.empty_pb2 import Empty

from imgtool.serve import messages
from imgtool.serve.calls import Call, at_once
from imgtool.serve.local.images import LocalImages
from imgtool.serve.proto import images_pb2 as pb


class Images:
    descriptor = pb.DESCRIPTOR.services_by_name["Images"]

    def __init__(self, images: LocalImages) -> None:
        self._images = images

    @at_once
    def get(self, request: pb.GetImageRequest, call: Call) -> pb.GetImageResponse:
        return pb.GetImageResponse(image=messages.image(self._images.get(call.namespace, request.name)))

    def list(self, request: pb.ListImagesRequest, call: Call) -> pb.ListImagesResponse:
        found = self._images.list(call.namespace, request.filters)
        return pb.ListImagesResponse(images=map(messages.image, found))

    def create(self, request: pb.CreateImageRequest, call: Call) -> pb.CreateImageResponse:
        created = self._images.create(call.namespace, messages.to_image(request.image), call.lease)
        return pb.CreateImageResponse(image=messages.image(created))

    def update(self, request: pb.UpdateImageRequest, call: Call) -> pb.UpdateImageResponse:
        image = messages.to_image(request.image)
        updated = self._images.update(call.namespace, image, request.update_mask.paths)
        return pb.UpdateImageResponse(image=messages.image(updated))

    def delete(self, request: pb.DeleteImageRequest, call: Call) -> Empty:
        target = request.target.digest if request.HasField("target") else None
        self._images.delete(call.namespace, request.name, target=target, sync=request.sync)
        return Empty()
