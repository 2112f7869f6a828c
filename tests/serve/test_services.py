"""The services, one call at a time, as a client of containerd sees them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty

from imgtool import __version__
from imgtool.digest import Digest
from imgtool.model import Descriptor, Image, Lease, Namespace
from imgtool.names import EXPIRE
from imgtool.serve.proto import (
    health_pb2,
    images_pb2,
    introspection_pb2,
    namespaces_pb2,
    snapshots_pb2,
    types_pb2,
    version_pb2,
)

from .client import Served, Stub

IMAGES = images_pb2.DESCRIPTOR.services_by_name["Images"]
NAMESPACES = namespaces_pb2.DESCRIPTOR.services_by_name["Namespaces"]
INTROSPECTION = introspection_pb2.DESCRIPTOR.services_by_name["Introspection"]
HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"]
A, B = Digest.of(b"a"), Digest.of(b"b")


@contextmanager
def refused(code: grpc.StatusCode, text: str) -> Iterator[None]:
    """The call fails with exactly this code and message."""
    with pytest.raises(grpc.RpcError) as caught:
        yield
    assert (caught.value.code(), caught.value.details()) == (code, text)


@pytest.fixture
def images(server: Served) -> Stub:
    return server.stub(IMAGES)


@pytest.fixture
def namespaces(server: Served) -> Stub:
    return server.stub(NAMESPACES, namespace="")


def image(name: str = "app", digest: str = A, **labels: str) -> images_pb2.Image:
    target = types_pb2.Descriptor(media_type="text/plain", digest=digest, size=1, annotations={"x": "y"})
    return images_pb2.Image(name=name, labels=labels, target=target)


# --- images ----------------------------------------------------------------------------------------


def test_an_image_that_is_created_is_a_record_of_the_store(server: Served, images: Stub) -> None:
    """The files are the truth: an imgtool command sees it at once."""
    answer = images.create(images_pb2.CreateImageRequest(image=image(env="prod", gone=""))).image
    with server.store() as store:
        stored = store.images("default").get("app")
    assert stored.target == Descriptor("text/plain", A, 1, {"x": "y"})
    assert dict(answer.labels) == stored.labels == {"env": "prod"}
    assert answer.created_at.ToNanoseconds() == stored.created > 0
    assert answer.updated_at.ToNanoseconds() == stored.updated


def test_what_a_command_has_changed_is_what_a_client_gets(server: Served, images: Stub) -> None:
    """A server that remembers would show what is long gone."""
    with server.store() as store:
        store.images("default").create(Image("app", Descriptor("text/plain", A, 1)))
        assert images.get(images_pb2.GetImageRequest(name="app")).image.target.digest == A
        store.images("default").update(Image("app", Descriptor("text/plain", B, 1)))
    assert images.get(images_pb2.GetImageRequest(name="app")).image.target.digest == B


def test_a_list_is_sorted_and_filters_are_alternatives(images: Stub) -> None:
    """As containerd's, in byte order of the names."""
    for name in ("b", "a", "c"):
        images.create(images_pb2.CreateImageRequest(image=image(name)))
    found = images.list(images_pb2.ListImagesRequest()).images
    assert [i.name for i in found] == ["a", "b", "c"]
    found = images.list(images_pb2.ListImagesRequest(filters=["name==c", "name==a"])).images
    assert [i.name for i in found] == ["a", "c"]


def test_a_name_can_be_created_once(images: Stub) -> None:
    images.create(images_pb2.CreateImageRequest(image=image()))
    with refused(grpc.StatusCode.ALREADY_EXISTS, "image 'app': already exists"):
        images.create(images_pb2.CreateImageRequest(image=image(digest=B)))


def test_an_update_with_a_mask_changes_only_what_it_names(images: Stub) -> None:
    """`ctr images label` sends an image without target, and the label that it is about."""
    images.create(images_pb2.CreateImageRequest(image=image(keep="1", drop="2")))
    request = images_pb2.UpdateImageRequest(image=images_pb2.Image(name="app", labels={"new.key": "3"}))
    request.update_mask.paths.extend(["labels.new.key", "labels.drop"])
    updated = images.update(request).image
    assert dict(updated.labels) == {"keep": "1", "new.key": "3"}
    assert updated.target == image().target
    assert updated.updated_at.ToNanoseconds() > updated.created_at.ToNanoseconds()


def test_an_update_without_a_mask_replaces_the_record(images: Stub) -> None:
    images.create(images_pb2.CreateImageRequest(image=image(old="1")))
    updated = images.update(images_pb2.UpdateImageRequest(image=image(digest=B, new="2"))).image
    assert (updated.target.digest, dict(updated.labels)) == (B, {"new": "2"})


def test_an_update_of_an_unknown_field_changes_nothing(images: Stub) -> None:
    images.create(images_pb2.CreateImageRequest(image=image()))
    request = images_pb2.UpdateImageRequest(image=image(digest=B, x="y"))
    request.update_mask.paths.extend(["labels", "target.size"])
    with pytest.raises(grpc.RpcError) as caught:
        images.update(request)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    there = images.get(images_pb2.GetImageRequest(name="app")).image
    assert (there.target.digest, dict(there.labels)) == (A, {})


@pytest.mark.parametrize("digest", ["", "sha256:abc", "md5:0123", "../../x"])
def test_a_malformed_digest_is_refused(images: Stub, digest: str) -> None:
    """It becomes part of a path."""
    with pytest.raises(grpc.RpcError) as caught:
        images.create(images_pb2.CreateImageRequest(image=image(digest=digest)))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert not images.list(images_pb2.ListImagesRequest()).images


def test_a_deleted_image_is_gone(images: Stub) -> None:
    images.create(images_pb2.CreateImageRequest(image=image()))
    images.delete(images_pb2.DeleteImageRequest(name="app"))
    with refused(grpc.StatusCode.NOT_FOUND, "image 'app': not found"):
        images.delete(images_pb2.DeleteImageRequest(name="app"))


def test_a_delete_with_another_target_leaves_the_image(images: Stub) -> None:
    """What 2.x clients send, so that a tag that was moved meanwhile is not lost. To them it is NotFound."""
    images.create(images_pb2.CreateImageRequest(image=image()))
    stale = images_pb2.DeleteImageRequest(name="app", target=image(digest=B).target)
    with pytest.raises(grpc.RpcError) as caught:
        images.delete(stale)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    images.delete(images_pb2.DeleteImageRequest(name="app", target=image().target))
    assert not images.list(images_pb2.ListImagesRequest()).images


def test_only_a_synchronous_delete_waits_for_gc(server: Served, images: Stub) -> None:
    """When it returns the space is free."""
    with server.store() as store, store.content("default").writer("w") as writer:
        writer.write(b"a")
        writer.commit()
    images.create(images_pb2.CreateImageRequest(image=image("one")))
    images.create(images_pb2.CreateImageRequest(image=image("two")))
    images.delete(images_pb2.DeleteImageRequest(name="one"))
    with server.store() as store:
        assert dict(store.objects()) == {A: 1}
    images.delete(images_pb2.DeleteImageRequest(name="two", sync=True))
    with server.store() as store:
        assert dict(store.objects()) == {}


def test_an_image_that_can_expire_is_held_by_the_lease_of_its_creator(server: Served) -> None:
    """As in containerd 2: else gc could take it while its creator works."""
    with server.store() as store:
        store.leases("default").create(Lease("l"))
    leased = server.stub(IMAGES, **{"containerd-lease": "l"})
    leased.create(images_pb2.CreateImageRequest(image=image("stays")))
    leased.create(images_pb2.CreateImageRequest(image=image("goes", **{EXPIRE: "2020-01-01T00:00:00Z"})))
    with server.store() as store:
        assert store.leases("default").get("l").resources == {"images": ("goes",)}


def test_an_image_of_a_lease_that_is_not_there_is_not_created(server: Served, images: Stub) -> None:
    leased = server.stub(IMAGES, **{"containerd-lease": "gone"})
    with pytest.raises(grpc.RpcError) as caught:
        leased.create(images_pb2.CreateImageRequest(image=image(**{EXPIRE: "2020-01-01T00:00:00Z"})))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert not images.list(images_pb2.ListImagesRequest()).images


def test_a_damaged_record_fails_the_list_and_not_the_server(server: Served, images: Stub) -> None:
    """A list without it would be taken for whole."""
    server.may_warn = ("gc failed: ",)
    images.create(images_pb2.CreateImageRequest(image=image("bad")))
    images.create(images_pb2.CreateImageRequest(image=image("good")))
    record = server.root / "namespaces" / "default" / "images" / "bad.toml"
    record.chmod(0o644)
    record.write_text("rot")
    with pytest.raises(grpc.RpcError) as caught:
        images.list(images_pb2.ListImagesRequest())
    assert caught.value.code() is grpc.StatusCode.DATA_LOSS
    assert images.get(images_pb2.GetImageRequest(name="good")).image.name == "good"


# --- namespaces ------------------------------------------------------------------------------------


def test_a_call_without_namespace_is_refused_in_the_words_of_containerd(server: Served) -> None:
    """Clients compare them."""
    nowhere = server.stub(IMAGES, namespace="")
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "namespace is required: failed precondition"):
        nowhere.list(images_pb2.ListImagesRequest())


def test_a_call_with_a_malformed_namespace_is_refused(server: Served) -> None:
    """It becomes a directory."""
    with pytest.raises(grpc.RpcError) as caught:
        server.stub(IMAGES, namespace="../x").list(images_pb2.ListImagesRequest())
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_reading_brings_nothing_into_being(server: Served, images: Stub, namespaces: Stub) -> None:
    images.list(images_pb2.ListImagesRequest())
    namespaces.list(namespaces_pb2.ListNamespacesRequest())
    assert not server.root.exists()


def test_an_absent_namespace_has_no_labels(namespaces: Stub) -> None:
    """`ctr` asks for the default snapshotter of namespaces that nobody has made."""
    answer = namespaces.get(namespaces_pb2.GetNamespaceRequest(name="nowhere")).namespace
    assert (answer.name, dict(answer.labels)) == ("nowhere", {})


def test_a_namespace_is_created_labelled_and_deleted(server: Served, namespaces: Stub) -> None:
    new = namespaces_pb2.Namespace(name="ns", labels={"a": "1", "b": "2"})
    namespaces.create(namespaces_pb2.CreateNamespaceRequest(namespace=new))
    with refused(grpc.StatusCode.ALREADY_EXISTS, "namespace 'ns': already exists"):
        namespaces.create(namespaces_pb2.CreateNamespaceRequest(namespace=new))
    request = namespaces_pb2.UpdateNamespaceRequest(
        namespace=namespaces_pb2.Namespace(name="ns", labels={"c": "3"})
    )
    request.update_mask.paths.extend(["labels.c", "labels.a"])
    namespaces.update(request)
    with server.store() as store:
        assert store.namespaces.get("ns").labels == {"b": "2", "c": "3"}
    namespaces.delete(namespaces_pb2.DeleteNamespaceRequest(name="ns"))
    assert not namespaces.list(namespaces_pb2.ListNamespacesRequest()).namespaces


def test_a_namespace_with_images_is_not_deleted(images: Stub, namespaces: Stub) -> None:
    images.create(images_pb2.CreateImageRequest(image=image()))
    text = "namespace 'default' must be empty, but it still has images: failed precondition"
    with refused(grpc.StatusCode.FAILED_PRECONDITION, text):
        namespaces.delete(namespaces_pb2.DeleteNamespaceRequest(name="default"))


def test_the_filter_of_a_list_of_namespaces_is_not_looked_at(server: Served, namespaces: Stub) -> None:
    """As in containerd."""
    with server.store() as store:
        store.namespaces.create(Namespace("ns"))
    assert namespaces.list(namespaces_pb2.ListNamespacesRequest(filter="name==other")).namespaces


# --- the server ------------------------------------------------------------------------------------


def test_plugins_are_the_parts_of_the_server(server: Served) -> None:
    stub = server.stub(INTROSPECTION, namespace="")
    wanted = ["type==io.containerd.service.v1,id==images-service"]
    (plugin,) = stub.plugins(introspection_pb2.PluginsRequest(filters=wanted)).plugins
    assert list(plugin.requires) == [
        "io.containerd.metadata.v1",
        "io.containerd.gc.v1",
        "io.containerd.event.v1",
    ]
    request = introspection_pb2.PluginInfoRequest(type=plugin.type, id=plugin.id)
    assert stub.plugin_info(request).plugin == plugin


def test_a_plugin_that_is_not_there_is_not_found(server: Served) -> None:
    stub = server.stub(INTROSPECTION, namespace="")
    with refused(grpc.StatusCode.NOT_FOUND, "plugin a.b: not found"):
        stub.plugin_info(introspection_pb2.PluginInfoRequest(type="a", id="b"))


def test_the_version_tells_whose_it_is(server: Served) -> None:
    stub = server.stub(version_pb2.DESCRIPTOR.services_by_name["Version"], namespace="")
    answer = stub.version(Empty())
    assert (answer.version, answer.revision) == (__version__, "imgtool")


def test_health_is_told_of_the_server_and_of_each_service(server: Served) -> None:
    stub = server.stub(HEALTH, namespace="")
    for service in ("", "grpc.health.v1.Health", IMAGES.full_name):
        answer = stub.check(health_pb2.HealthCheckRequest(service=service))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    with refused(grpc.StatusCode.NOT_FOUND, "service 'x': not found"):
        stub.check(health_pb2.HealthCheckRequest(service="x"))


def test_no_snapshot_is_ever_found(server: Served) -> None:
    """`ctr images check` goes on then, and says that the image is not unpacked."""
    stub = server.stub(snapshots_pb2.DESCRIPTOR.services_by_name["Snapshots"])
    with pytest.raises(grpc.RpcError) as caught:
        stub.stat(snapshots_pb2.StatSnapshotRequest(snapshotter="overlayfs", key="k"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_what_imgtool_does_not_have_is_unimplemented(server: Served) -> None:
    """A method of a service that is there, and a service that is not."""
    stub = server.stub(snapshots_pb2.DESCRIPTOR.services_by_name["Snapshots"])
    method = "imgtool has no method Remove of containerd.services.snapshots.v1.Snapshots"
    with refused(grpc.StatusCode.UNIMPLEMENTED, f"{method}: not implemented"):
        stub.remove(snapshots_pb2.RemoveSnapshotRequest(key="k"))
    with pytest.raises(grpc.RpcError) as caught:
        server.channel.unary_unary("/containerd.services.diff.v1.Diff/Apply")(b"", timeout=30)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_message_above_16_mib_is_refused_and_the_server_goes_on(images: Stub) -> None:
    """containerd's limit, in both directions."""
    big = images_pb2.CreateImageRequest(image=image("x" * (16 << 20)))
    with pytest.raises(grpc.RpcError) as caught:
        images.create(big)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert not images.list(images_pb2.ListImagesRequest()).images


def test_a_message_that_is_none_is_refused_and_the_server_goes_on(server: Served, images: Stub) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        server.channel.unary_unary(f"/{IMAGES.full_name}/Get")(b"\xff\xff", timeout=30)
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert not images.list(images_pb2.ListImagesRequest()).images
