"""Errors on their way out, and what a fault of our own looks like."""

from __future__ import annotations

import threading
from pathlib import Path

import grpc
import pytest

from imgtool import errors
from imgtool.disk import DiskStore, open_store
from imgtool.serve.address import Address
from imgtool.serve.calls import as_ours, status
from imgtool.serve.contracts import Log, OutOfRange, Unimplemented
from imgtool.serve.proto import images_pb2
from imgtool.serve.server import Server

from .client import Served

IMAGES = images_pb2.DESCRIPTOR.services_by_name["Images"]


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (errors.NotFound("image 'a' not found"), "NOT_FOUND", "image 'a': not found"),
        (errors.NotFound("image 'a'"), "NOT_FOUND", "image 'a': not found"),
        (errors.AlreadyExists("lease"), "ALREADY_EXISTS", "lease: already exists"),
        (errors.InvalidArgument("bad"), "INVALID_ARGUMENT", "bad: invalid argument"),
        (errors.FailedPrecondition("no"), "FAILED_PRECONDITION", "no: failed precondition"),
        (errors.Unavailable("locked"), "UNAVAILABLE", "locked: unavailable"),
        (errors.DataLoss("rot"), "DATA_LOSS", "rot"),
        (errors.PermissionDenied("no"), "PERMISSION_DENIED", "no"),
        (errors.ResourceExhausted("full"), "RESOURCE_EXHAUSTED", "full"),
        (errors.ImgtoolError("bug"), "INTERNAL", "bug"),
        (OutOfRange("offset"), "OUT_OF_RANGE", "offset"),
        (Unimplemented("no such"), "UNIMPLEMENTED", "no such: not implemented"),
    ],
)
def test_an_error_has_the_code_of_its_class_and_the_end_that_clients_take_off(
    error: errors.ImgtoolError, code: str, text: str
) -> None:
    """containerd's client tells a kind from the code, and trims its words from the message."""
    assert status(error) == (grpc.StatusCode[code].value[0], text)


def test_every_class_of_error_has_a_code() -> None:
    """One that grpc does not know would be a fault in the middle of telling of a fault."""
    classes: list[type[errors.ImgtoolError]] = [errors.ImgtoolError, *errors.ImgtoolError.__subclasses__()]
    for cls in classes:
        assert status(cls("x"))[0] == grpc.StatusCode[cls.grpc].value[0]


def test_what_the_system_refuses_keeps_its_kind() -> None:
    assert as_ours(PermissionError(13, "Permission denied")).grpc == "PERMISSION_DENIED"
    assert as_ours(OSError(28, "No space left on device")).grpc == "RESOURCE_EXHAUSTED"
    assert as_ours(MemoryError()).grpc == "RESOURCE_EXHAUSTED"


def test_a_long_message_arrives_shortened(server: Served) -> None:
    """A trailer that is too long would fail the call in another way, and the client would learn nothing."""
    with pytest.raises(grpc.RpcError) as caught:
        server.stub(IMAGES).get(images_pb2.GetImageRequest(name="é" * 16000))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert caught.value.details().startswith("image 'éé")


def test_a_fault_of_ours_is_internal_and_is_told_and_the_server_goes_on(tmp_path: Path) -> None:
    """Whoever runs the server is to report it; the client is told what little there is to say."""
    warnings: list[str] = []

    def broken() -> DiskStore:
        if threading.current_thread().name.startswith("call"):
            raise KeyError("x")
        return open_store(str(tmp_path))

    server = Server(str(tmp_path), broken, Log(print, print, warnings.append))
    server.start(Address(str(tmp_path / "socket")))
    client = Served(tmp_path, tmp_path / "socket")
    for _ in range(2):
        with pytest.raises(grpc.RpcError) as caught:
            client.stub(IMAGES).list(images_pb2.ListImagesRequest())
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        assert caught.value.details() == "internal error: KeyError: 'x'"
    client.channel.close()
    server.stop(grace=0)
    assert warnings == [f"/{IMAGES.full_name}/List: INTERNAL: internal error: KeyError: 'x'"] * 2
