"""A containerd that has imgtool as its content store."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import grpc
import pytest

from imgtool.digest import Digest
from imgtool.disk import open_store
from imgtool.model import Descriptor, Image
from imgtool.ops import gc
from imgtool.serve.local.backend import HOLD
from imgtool.serve.proto import content_pb2 as pb
from tests.real import containerd

from .client import Served, Stub
from .served import serving

CONTENT = pb.DESCRIPTOR.services_by_name["Content"]
NS = "daemon"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    """One to which calls without a namespace are those of a daemon."""
    root = tmp_path / "store"
    with serving(root, partial(open_store, str(root)), tmp_path / "imgtool.sock", backend=NS) as served:
        yield served


@pytest.fixture
def daemon(server: Served) -> Stub:
    """What a daemon calls: it names no namespace."""
    return server.stub(CONTENT, namespace="")


def write(stub: Stub, data: bytes, ref: str = "w", **labels: str) -> Digest:
    """Write content as clients do; returns its digest."""
    digest = Digest.of(data)
    steps = [
        pb.WriteContentRequest(action=pb.STAT, ref=ref),
        pb.WriteContentRequest(action=pb.COMMIT, data=data, expected=digest, labels=labels),
    ]
    assert [step.digest for step in stub.write(iter(steps))][-1] == digest
    return digest


def collected(server: Served) -> set[str]:
    """What is left after a gc of imgtool."""
    with server.store() as store:
        gc.collect(store)
        return {digest for digest, _ in store.objects()}


# --- its view of the namespace ---------------------------------------------------------------------


def test_what_a_daemon_has_stays_until_it_deletes_it(server: Served, daemon: Stub) -> None:
    """No image, lease or label of ours tells of it: the daemon keeps its own books."""
    digest = write(daemon, b"kept")
    assert collected(server) == {digest}
    daemon.delete(pb.DeleteContentRequest(digest=digest))
    with pytest.raises(grpc.RpcError) as caught:
        daemon.info(pb.InfoRequest(digest=digest))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert collected(server) == set()


def test_the_hold_is_there_as_soon_as_the_record(server: Served, daemon: Stub) -> None:
    """A crash between the two would lose what the daemon takes for stored. The log tells the order."""
    digest = write(daemon, b"kept", plain="1")
    log = (server.root / "namespaces" / NS / "log").read_text().splitlines()
    first = next(line for line in log if digest in line)
    assert HOLD in first
    assert dict(daemon.info(pb.InfoRequest(digest=digest)).info.labels) == {"plain": "1"}


def test_labels_of_the_daemon_do_not_touch_the_hold(server: Served, daemon: Stub) -> None:
    digest = write(daemon, b"kept", old="1")
    info = pb.Info(digest=digest, labels={"new": "2"})
    assert dict(daemon.update(pb.UpdateRequest(info=info)).info.labels) == {"new": "2"}
    assert collected(server) == {digest}


def test_a_daemon_sees_only_what_it_has_written(server: Served, daemon: Stub) -> None:
    """It deletes what it sees and does not know."""
    other = server.stub(CONTENT, namespace=NS)
    theirs = write(other, b"theirs")
    list(other.write(iter([pb.WriteContentRequest(action=pb.WRITE, ref="theirs", data=b"x")])))
    ours = write(daemon, b"ours")
    list(daemon.write(iter([pb.WriteContentRequest(action=pb.WRITE, ref="ours", data=b"x")])))
    (block,) = daemon.list(pb.ListContentRequest())
    assert [info.digest for info in block.info] == [ours]
    for filters in ([], ["ref==ours"], ["ref==theirs", "ref==ours"]):
        statuses = daemon.list_statuses(pb.ListStatusesRequest(filters=filters)).statuses
        assert [status.ref for status in statuses] == ["ours"]
    for call in (
        lambda: daemon.delete(pb.DeleteContentRequest(digest=theirs)),
        lambda: list(daemon.read(pb.ReadContentRequest(digest=theirs))),
        lambda: daemon.abort(pb.AbortRequest(ref="theirs")),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            call()
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    daemon.abort(pb.AbortRequest(ref="ours"))


def test_content_that_is_there_already_becomes_the_daemons_too(server: Served, daemon: Stub) -> None:
    """It can be written though the namespace has it, and what the daemon deletes then stays for the
    others.
    """
    with server.store() as store:
        with store.content(NS).writer("w") as writer:
            writer.write(b"both")
            digest = writer.commit().digest
        store.images(NS).create(Image("app", Descriptor("text/plain", digest, 4)))
    assert write(daemon, b"both") == digest
    with server.store() as store:
        store.images(NS).delete("app")
    assert collected(server) == {digest}
    with server.store() as store:
        store.images(NS).create(Image("app", Descriptor("text/plain", digest, 4)))
    daemon.delete(pb.DeleteContentRequest(digest=digest))
    assert collected(server) == {digest}


def test_what_the_daemon_has_exists_already(daemon: Stub) -> None:
    """At the first step, and at the last for a client that says only then what it writes."""
    digest = write(daemon, b"data")
    first = pb.WriteContentRequest(action=pb.STAT, ref="v", expected=digest)
    with pytest.raises(grpc.RpcError) as caught:
        list(daemon.write(iter([first])))
    assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS
    last = pb.WriteContentRequest(action=pb.COMMIT, ref="v", data=b"data")
    with pytest.raises(grpc.RpcError) as caught:
        list(daemon.write(iter([last])))
    assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS
    assert not daemon.list_statuses(pb.ListStatusesRequest()).statuses


def test_a_client_that_names_the_namespace_sees_it_as_it_is(server: Served, daemon: Stub) -> None:
    digest = write(daemon, b"data")
    info = server.stub(CONTENT, namespace=NS).info(pb.InfoRequest(digest=digest)).info
    assert dict(info.labels) == {HOLD: "true"}


def test_a_damaged_record_can_be_deleted(server: Served, daemon: Stub) -> None:
    """Else each gc of the daemon would fail at it."""
    server.may_warn = ("gc failed: ",)
    digest = write(daemon, b"data")
    (record,) = (server.root / "namespaces" / NS / "content").rglob("*.toml")
    record.chmod(0o644)
    record.write_text("rot")
    daemon.delete(pb.DeleteContentRequest(digest=digest))
    assert not list(daemon.list(pb.ListContentRequest()))


# --- a real one ------------------------------------------------------------------------------------


@contextmanager
def real(work: Path, server: Served) -> Iterator[containerd.Containerd]:
    """Debian's, over `server`."""
    work.mkdir()
    config = f"""version = 2
disabled_plugins = [
  "io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.btrfs", "io.containerd.content.v1.content"
]
[proxy_plugins.imgtool]
type = "content"
address = "{server.path}"
"""
    with containerd.running(work, config) as daemon:
        yield daemon


def archive(path: Path, *names: str) -> set[str]:
    """An OCI archive of images with a layer of their own and one in common; returns all digests."""
    blobs: dict[str, bytes] = {}

    def put(media_type: str, data: bytes) -> dict[str, object]:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        blobs[digest] = data
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    oci = "application/vnd.oci.image"
    manifests = []
    for name in names:
        config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}
        document = {
            "schemaVersion": 2,
            "mediaType": f"{oci}.manifest.v1+json",
            "config": put(f"{oci}.config.v1+json", json.dumps({**config, "author": name}).encode()),
            "layers": [put(f"{oci}.layer.v1.tar", text.encode() * 50_000) for text in ("shared", name)],
        }
        entry = put(f"{oci}.manifest.v1+json", json.dumps(document).encode())
        manifests.append({**entry, "annotations": {"io.containerd.image.name": name}})
    index = {"schemaVersion": 2, "mediaType": f"{oci}.index.v1+json", "manifests": manifests}
    files = {f"blobs/{digest.replace(':', '/')}": data for digest, data in blobs.items()}
    files["oci-layout"] = b'{"imageLayoutVersion": "1.0.0"}'
    files["index.json"] = json.dumps(index).encode()
    with tarfile.open(path, "w") as tar:
        for member, data in files.items():
            entry_of = tarfile.TarInfo(member)
            entry_of.size = len(data)
            tar.addfile(entry_of, io.BytesIO(data))
    return set(blobs)


def done(process: subprocess.CompletedProcess[str]) -> str:
    assert not process.returncode, process.stderr
    return process.stdout


def test_a_daemon_keeps_its_images_in_our_objects(server: Served, tmp_path: Path) -> None:
    """It imports, lists and exports; its gc and ours run, before and after it has let go of an image, and
    what it still has is whole: also for a daemon that is started anew.
    """
    one, two = "example.com/one:1", "example.com/two:1"
    both, only = archive(tmp_path / "both.tar", one, two), archive(tmp_path / "one.tar", one)
    with real(tmp_path / "first", server) as daemon:
        assert "imgtool" in done(daemon.ctr("plugins", "ls"))
        done(daemon.ctr("images", "import", "--no-unpack", tmp_path / "both.tar"))
        assert both <= collected(server)
        assert set(done(daemon.ctr("images", "ls", "-q")).split()) == {one, two}
        with server.store() as store:
            assert not store.images(NS).names()  # the names are the daemon's own
        # It waits for a whole gc of the daemon, which deletes here what nothing there refers to.
        done(daemon.ctr("images", "rm", "--sync", two))
        assert only <= collected(server)
        assert not (both - only) & collected(server)
        assert "complete" in done(daemon.ctr("images", "check", f"name=={one}"))
        done(daemon.ctr("images", "export", tmp_path / "out.tar", one))
        done(daemon.ctr("images", "import", "--no-unpack", tmp_path / "both.tar"))
        assert both <= collected(server)
    with tarfile.open(tmp_path / "out.tar") as tar:
        exported = {f"sha256:{Path(name).name}" for name in tar.getnames() if "blobs/sha256/" in name}
    assert only <= exported


def test_a_daemon_fetches_content_that_others_put_into_its_namespace(server: Served, tmp_path: Path) -> None:
    """It is not the daemon's until the daemon has written it; then it outlives the others'."""
    name = "example.com/one:1"
    blobs = archive(tmp_path / "one.tar", name)
    with server.store() as store:
        for number, blob in enumerate(sorted(blobs)):
            with tarfile.open(tmp_path / "one.tar") as tar:
                member = tar.extractfile(f"blobs/{blob.replace(':', '/')}")
                assert member is not None
                with store.content(NS).writer(str(number)) as writer:
                    writer.write(member.read())
                    writer.commit()
    with real(tmp_path / "daemon", server) as daemon:
        assert not done(daemon.ctr("content", "ls", "-q"))
        done(daemon.ctr("images", "import", "--no-unpack", tmp_path / "one.tar"))
        with server.store() as store:
            assert all(HOLD in store.content(NS).info(Digest(blob)).labels for blob in blobs)
        assert blobs <= collected(server)
        assert "complete" in done(daemon.ctr("images", "check", f"name=={name}"))
