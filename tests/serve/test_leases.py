"""The leases service, one call at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import pytest

from imgtool.digest import Digest
from imgtool.serve.proto import leases_pb2 as pb

from .client import Served, Stub

LEASES = pb.DESCRIPTOR.services_by_name["Leases"]
A = Digest.of(b"a")


@contextmanager
def refused(code: str, text: str) -> Iterator[None]:
    """The call fails with exactly this code and message."""
    with pytest.raises(grpc.RpcError) as caught:
        yield
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode[code], text)


@pytest.fixture
def leases(server: Served) -> Stub:
    return server.stub(LEASES)


def create(leases: Stub, id: str = "l", **labels: str) -> pb.Lease:
    lease: pb.Lease = leases.create(pb.CreateRequest(id=id, labels=labels)).lease
    return lease


def of(type: str, id: str) -> pb.Resource:
    return pb.Resource(type=type, id=id)


def held(leases: Stub, id: str = "l") -> list[tuple[str, str]]:
    answer = leases.list_resources(pb.ListResourcesRequest(id=id))
    return [(resource.type, resource.id) for resource in answer.resources]


def test_a_lease_that_is_created_is_a_record_of_the_store(server: Served, leases: Stub) -> None:
    lease = create(leases, env="prod", gone="")
    with server.store() as store:
        stored = store.leases("default").get("l")
    assert (lease.id, dict(lease.labels)) == ("l", {"env": "prod"}) == (stored.id, stored.labels)
    assert lease.created_at.ToNanoseconds() == stored.created > 0


def test_an_id_can_be_created_once(leases: Stub) -> None:
    create(leases)
    with refused("ALREADY_EXISTS", "lease 'l': already exists"):
        create(leases)


def test_a_lease_without_id_is_given_one(leases: Stub) -> None:
    """`ctr leases create` leaves it to the server."""
    one, two = create(leases, ""), create(leases, "")
    assert one.id
    assert one.id != two.id
    found = leases.list(pb.ListRequest()).leases
    assert {lease.id for lease in found} == {one.id, two.id}


def test_a_list_is_sorted_and_filters_are_alternatives(leases: Stub) -> None:
    for id in ("b", "a", "c"):
        create(leases, id, name=id)
    assert [lease.id for lease in leases.list(pb.ListRequest()).leases] == ["a", "b", "c"]
    found = leases.list(pb.ListRequest(filters=["id==c", "labels.name==a"])).leases
    assert [lease.id for lease in found] == ["a", "c"]
    with pytest.raises(grpc.RpcError) as caught:
        leases.list(pb.ListRequest(filters=["==="]))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_lease_holds_and_lets_go_of_resources(leases: Stub) -> None:
    """They need not exist, and letting go of what is not held is no error: as in containerd."""
    create(leases)
    wanted = [("content", A), ("ingests", "w"), ("snapshots/overlayfs", "k")]
    for type, id in reversed(wanted):
        leases.add_resource(pb.AddResourceRequest(id="l", resource=of(type, id)))
    assert held(leases) == wanted
    leases.add_resource(pb.AddResourceRequest(id="l", resource=of("content", A)))
    assert held(leases) == wanted
    for _ in range(2):
        leases.delete_resource(pb.DeleteResourceRequest(id="l", resource=of("content", A)))
    assert held(leases) == wanted[1:]


@pytest.mark.parametrize(
    ("type", "id", "code", "text"),
    [
        ("containers", "c", "UNIMPLEMENTED", "resource type 'containers' is not supported: not implemented"),
        ("content", "sha256:x", "INVALID_ARGUMENT", None),
        ("content/x", A, "INVALID_ARGUMENT", None),
        ("snapshots", "k", "INVALID_ARGUMENT", None),
        ("snapshots/a/b", "k", "INVALID_ARGUMENT", None),
        ("", "", "UNIMPLEMENTED", None),
    ],
)
def test_a_resource_that_no_lease_holds_is_refused(
    leases: Stub, type: str, id: str, code: str, text: str | None
) -> None:
    """Both where it is to be held and where it is let go of."""
    create(leases)
    for call, request in (
        (leases.add_resource, pb.AddResourceRequest(id="l", resource=of(type, id))),
        (leases.delete_resource, pb.DeleteResourceRequest(id="l", resource=of(type, id))),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            call(request)
        assert caught.value.code() is grpc.StatusCode[code]
        assert text in (None, caught.value.details())
    assert held(leases) == []


def test_an_unknown_lease_is_not_found_whatever_is_asked_of_it(leases: Stub) -> None:
    """Before anything is said about the resource."""
    for call, request in (
        (leases.delete, pb.DeleteRequest(id="l")),
        (leases.add_resource, pb.AddResourceRequest(id="l", resource=of("no", "such"))),
        (leases.delete_resource, pb.DeleteResourceRequest(id="l", resource=of("no", "such"))),
        (leases.list_resources, pb.ListResourcesRequest(id="l")),
    ):
        with refused("NOT_FOUND", "lease 'l': not found"):
            call(request)


def test_a_synchronous_delete_waits_for_gc(server: Served, leases: Stub) -> None:
    """When it returns the space is free."""
    create(leases)
    with server.store() as store, store.content("default").writer("w", lease="l") as writer:
        writer.write(b"a")
        writer.commit()
    create(leases, "other")
    leases.delete(pb.DeleteRequest(id="other", sync=True))
    with server.store() as store:
        assert dict(store.objects()) == {A: 1}
    leases.delete(pb.DeleteRequest(id="l", sync=True))
    with server.store() as store:
        assert dict(store.objects()) == {}


def test_a_call_without_namespace_is_refused(server: Served) -> None:
    with refused("FAILED_PRECONDITION", "namespace is required: failed precondition"):
        server.stub(LEASES, namespace="").list(pb.ListRequest())
