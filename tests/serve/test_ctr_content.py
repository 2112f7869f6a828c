"""Debian's `ctr` on content, leases and whole images: against imgtool and containerd alike."""

from __future__ import annotations

import hashlib
import json
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from imgtool.digest import BLAKE3, SHA256, Digest
from imgtool.model import Descriptor, Image
from imgtool.ops import gc
from imgtool.stores import Store

from .both import Both, Said, said
from .client import Served
from .test_backend import archive, done

NOWHERE = f"sha256:{'0' * 64}"
ROOT = "containerd.io/gc.root=1"
OCI = "application/vnd.oci.image"


def ingest(server: Served, *args: str, namespace: str) -> Said:
    """Ingest the name of the namespace: no other has that, and so none lends it."""
    argv = ["ctr", "--address", str(server.path), "--namespace", namespace, "content", "ingest", *args]
    return said(subprocess.run(argv, input=namespace, capture_output=True, text=True, timeout=60))


def each(both: Both, *args: str) -> list[str]:
    """What each prints where they may differ: ages, and what gc has not come by for yet."""
    return [done(server.ctr(*args, namespace=both.namespace)) for server in both.servers]


def settle(both: Both) -> None:
    """Have the run of gc over that comes soon after the start: it takes what nothing holds yet."""
    both.ctr("leases", "create", "--id", "settle")
    both.ctr("leases", "rm", "--sync", "settle")


def ingested(both: Both, *args: str) -> Said:
    """What both say of an ingest; but for how they name what failed."""
    ours, theirs = (ingest(server, *args, namespace=both.namespace) for server in both.servers)
    assert (ours.exit, ours.stdout) == (theirs.exit, theirs.stdout), theirs.stderr
    assert ours.stderr[-22:] == theirs.stderr[-22:]
    return ours


# --- content ---------------------------------------------------------------------------------------


def test_content_is_written_listed_labelled_read_and_removed_alike(both: Both) -> None:
    settle(both)
    hello, size = Digest.of(both.namespace.encode()), str(len(both.namespace))
    assert ingested(both, "--expected-digest", hello, "--expected-size", size, "w") == (0, "", "")
    both.ctr("content", "label", hello, "env=prod", ROOT)
    assert both.ctr("content", "ls", "-q").stdout == f"{hello}\n"
    assert all(hello in stdout for stdout in each(both, "content", "ls", "labels.env==prod"))
    assert not any(hello in stdout for stdout in each(both, "content", "ls", "labels.env==dev"))
    assert both.ctr("content", "get", hello).stdout == both.namespace
    both.ctr("content", "label", hello, "env=")
    assert not any("env" in stdout for stdout in each(both, "content", "ls"))
    assert both.ctr("content", "rm", hello).stdout == f"{hello}\n"
    assert not both.ctr("content", "ls", "-q").stdout


def test_content_that_is_there_already_is_ingested_without_complaint(both: Both) -> None:
    """The client takes AlreadyExists for success."""
    settle(both)
    hello = Digest.of(both.namespace.encode())
    for _ in range(2):
        assert ingested(both, "--expected-digest", hello, "w").exit == 0
        both.ctr("content", "label", hello, ROOT)
        assert ingested(both, "w").exit == 0


def test_other_bytes_than_expected_stay_as_an_active_ingest(both: Both) -> None:
    """To be resumed under the same ref."""
    settle(both)
    assert ingested(both, "--expected-digest", NOWHERE, "digest").exit == 1
    assert ingested(both, "--expected-size", "3", "size").exit == 1
    for stdout in each(both, "content", "active"):
        assert {line.split("\t")[0] for line in stdout.splitlines()} == {"REF", "digest", "size"}


def test_references_are_pruned_alike(both: Both, tmp_path: Path) -> None:
    """The labels that keep layers go, and the images stay."""
    archive(tmp_path / "app.tar", "example.com/app:1")
    both.ctr("images", "import", "--no-unpack", str(tmp_path / "app.tar"))
    assert all(".l.0=" in stdout for stdout in each(both, "content", "ls"))
    both.ctr("content", "prune", "references", "--async")
    for stdout in each(both, "content", "ls"):
        assert ".config=" in stdout
        assert ".l.0=" not in stdout
    assert both.ctr("images", "ls", "-q").stdout == "example.com/app:1\n"


class Registry(BaseHTTPRequestHandler):
    """Serves `files`: type and bytes, by tag and by digest."""

    files: ClassVar[dict[str, tuple[str, bytes]]]

    def do_HEAD(self) -> None:
        kind, data = self.files.get(self.path.rsplit("/", 1)[1], ("", b""))
        self.send_response(200 if kind else 404)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Docker-Content-Digest", Digest.of(data))
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(self.files.get(self.path.rsplit("/", 1)[1], ("", b""))[1])

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@contextmanager
def registry(files: dict[str, tuple[str, bytes]]) -> Iterator[str]:
    """A registry of one image; its host and port."""
    handler = type("Handler", (Registry,), {"files": files})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"localhost:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_content_is_fetched_from_a_registry_alike(both: Both) -> None:
    """The client writes each blob and its labels, under a lease, and then creates the image."""
    config = json.dumps(
        {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}
    ).encode()
    layer = b"layer" * 50_000
    files: dict[str, tuple[str, bytes]] = {}

    def put(kind: str, data: bytes, *names: str) -> dict[str, object]:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        files.update(dict.fromkeys((digest, *names), (kind, data)))
        return {"mediaType": kind, "digest": digest, "size": len(data)}

    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{OCI}.manifest.v1+json",
        "config": put(f"{OCI}.config.v1+json", config),
        "layers": [put(f"{OCI}.layer.v1.tar", layer)],
    }
    put(f"{OCI}.manifest.v1+json", json.dumps(manifest).encode(), "latest")
    with registry(files) as host:
        for server in both.servers:
            fetch = server.ctr(
                "content", "fetch", "--plain-http", f"{host}/app:latest", namespace=both.namespace
            )
            assert not fetch.returncode, fetch.stderr
    digests = both.ctr("content", "ls", "-q").stdout.split()
    assert digests == sorted(name for name in files if name != "latest")
    assert both.ctr("images", "ls").stdout.count(f"{host}/app:latest") == 1
    assert "complete (2/2)" in both.ctr("images", "check").stdout
    assert not both.ctr("leases", "ls", "-q").stdout


# --- leases ----------------------------------------------------------------------------------------


def test_leases_are_managed_alike(both: Both) -> None:
    assert both.ctr("leases", "create", "--id", "one", "env=prod").stdout == "one\n"
    both.ctr("leases", "create", "--id", "two")
    assert both.ctr("leases", "create", "--id", "one").exit == 1
    assert both.ctr("leases", "ls", "-q").stdout.split() == ["one", "two"]
    assert both.ctr("leases", "ls", "-q", "labels.env==prod").stdout == "one\n"
    assert both.ctr("leases", "rm", "--sync", "one").stdout == "one\n"
    assert both.ctr("leases", "rm", "one").exit == 1
    assert both.ctr("leases", "ls", "-q").stdout == "two\n"


def test_a_lease_without_id_gets_one(server: Served) -> None:
    id = done(server.ctr("leases", "create", "env=prod")).strip()
    assert id
    assert done(server.ctr("leases", "ls", "-q")).split() == [id]


# --- images ----------------------------------------------------------------------------------------


def test_images_are_imported_checked_tagged_and_removed_alike(both: Both, tmp_path: Path) -> None:
    """With their leases, sizes, platforms and labels; and nothing is left of them in the end."""
    one, two = "example.com/one:1", "example.com/two:1"
    blobs = archive(tmp_path / "both.tar", one, two)
    both.ctr("images", "import", "--no-unpack", str(tmp_path / "both.tar"))
    assert both.ctr("images", "ls").stdout.count("linux/amd64") == 2
    assert both.ctr("images", "check").stdout.count("complete (3/3)") == 2
    assert all(blobs <= set(stdout.split()) for stdout in each(both, "content", "ls", "-q"))
    both.ctr("images", "tag", one, "example.com/three:1")
    assert not both.ctr("leases", "ls", "-q").stdout
    both.ctr("images", "rm", "--sync", one, two)
    assert both.ctr("images", "check").stdout.count("complete (3/3)") == 1
    both.ctr("images", "rm", "--sync", "example.com/three:1")
    assert not both.ctr("content", "ls", "-q").stdout


def test_an_export_is_containerds_and_imports_again(both: Both, tmp_path: Path) -> None:
    """The same blobs in both archives, and each server takes the other's."""
    name = "example.com/one:1"
    archive(tmp_path / "one.tar", name)
    both.ctr("images", "import", "--no-unpack", str(tmp_path / "one.tar"))
    members = []
    for number, server in enumerate(both.servers):
        out = tmp_path / f"{number}.tar"
        done(server.ctr("images", "export", out, name, namespace=both.namespace))
        with tarfile.open(out) as tar:
            members.append({member.name: member.size for member in tar if member.isfile()})
    assert members[0] == members[1]
    both.ctr("images", "rm", "--sync", name)
    for number, server in enumerate(reversed(both.servers)):
        done(
            server.ctr(
                "images", "import", "--no-unpack", tmp_path / f"{number}.tar", namespace=both.namespace
            )
        )
    assert "complete (3/3)" in both.ctr("images", "check").stdout


def test_what_a_command_collects_is_what_no_client_holds(server: Served, tmp_path: Path) -> None:
    """imgtool's gc beside the server finds the labels that the client has set sufficient."""
    name = "example.com/one:1"
    blobs = archive(tmp_path / "one.tar", name)
    done(server.ctr("images", "import", "--no-unpack", tmp_path / "one.tar"))
    with server.store() as store:
        gc.collect(store)
        assert blobs <= {digest for digest, _ in store.objects()}


# --- blake3, which Go's digests do not know --------------------------------------------------------


def put(store: Store, data: bytes, algorithm: str) -> Digest:
    with store.content("default").writer("w", algorithm=algorithm) as writer:
        writer.write(data)
        return writer.commit(labels={"containerd.io/gc.root": "1"}).digest


@pytest.fixture
def mixed(server: Served) -> dict[str, Digest]:
    """An image of which all is named by blake3, and a plain file; returns digests by name."""
    with server.store() as store:
        config = json.dumps({"architecture": "amd64", "os": "linux"}).encode()
        layer = put(store, b"layer", BLAKE3)
        document = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": f"{OCI}.manifest.v1+json",
                "config": {
                    "mediaType": f"{OCI}.config.v1+json",
                    "digest": put(store, config, BLAKE3),
                    "size": len(config),
                },
                "layers": [{"mediaType": f"{OCI}.layer.v1.tar", "digest": layer, "size": 5}],
            }
        ).encode()
        digests = {"app": put(store, document, BLAKE3), "file": put(store, b"plain", SHA256), "layer": layer}
        manifest = Descriptor(f"{OCI}.manifest.v1+json", digests["app"], len(document))
        store.images("default").create(Image("app", manifest))
        store.images("default").create(Image("file", Descriptor("text/plain", digests["file"], 5)))
    return digests


def test_ctr_lists_checks_tags_and_labels_what_has_a_blake3_digest(
    server: Served, mixed: dict[str, Digest]
) -> None:
    """It takes digests that a server sends as they are: sizes, platforms and all."""
    assert {mixed["app"], mixed["file"]} <= set(done(server.ctr("content", "ls", "-q")).split())
    listed = [line.split() for line in done(server.ctr("images", "ls")).splitlines()]
    assert [line[0] for line in listed[1:]] == ["app", "file"]
    assert listed[1][2] == mixed["app"]
    assert "linux/amd64" in listed[1]
    assert "complete (2/2)" in done(server.ctr("images", "check", "name==app"))
    done(server.ctr("images", "tag", "app", "app:2"))
    done(server.ctr("images", "label", "app:2", "env=prod"))
    done(server.ctr("images", "rm", "--sync", "app"))
    assert "complete (2/2)" in done(server.ctr("images", "check", "name==app:2"))


@pytest.mark.parametrize("args", [("get",), ("label", "a=b"), ("rm",)])
def test_ctr_itself_refuses_a_blake3_digest_that_it_is_given(
    server: Served, mixed: dict[str, Digest], args: tuple[str, ...]
) -> None:
    """It never asks the server, which would have done it. The same holds for its export."""
    command, *more = args
    failed = server.ctr("content", command, mixed["layer"], *more)
    assert failed.returncode == 1
    assert "unsupported digest algorithm" in failed.stderr
    assert mixed["layer"] in done(server.ctr("content", "ls", "-q"))
    assert server.ctr("images", "export", "/dev/null", "app").returncode == 1
