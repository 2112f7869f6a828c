"""Debian's `ctr` on whole images: archives and a registry; against imgtool and containerd alike."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.images import need
from tests.real.process import Imgtool

from .archives import Image, docker, members, oci
from .both import Both
from .client import Served

UNPACKING = "imgtool has no method Prepare of containerd.services.snapshots.v1.Snapshots: not implemented"


@pytest.fixture
def image(both: Both) -> Image:
    """One for two platforms, the first of which is that of most machines; its bytes are of this test."""
    return Image(both.namespace, "amd64", "arm64")


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Host and port of an empty registry."""
    need("docker-registry")
    work = tmp_path_factory.mktemp("registry")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    config = {
        "version": 0.1,
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(work / "blobs")}},
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    (work / "config.yml").write_text(json.dumps(config))  # JSON is YAML
    with (work / "log").open("wb") as log:
        process = subprocess.Popen(["docker-registry", "serve", work / "config.yml"], stdout=log, stderr=log)
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if not probe.connect_ex(("127.0.0.1", port)):
                    break
            if process.poll() is not None:
                pytest.skip(f"docker-registry does not run: {(work / 'log').read_text()[-500:]}")
            time.sleep(0.1)
        yield f"localhost:{port}"
    finally:
        process.terminate()
        process.wait()


def done(server: Served, both: Both, *args: str | Path) -> str:
    """What a command says that must not fail."""
    run = server.ctr(*args, namespace=both.namespace)
    assert run.returncode == 0, run.stderr
    return run.stdout


def content(both: Both) -> set[str]:
    """The content of both once gc has been there; the same in both."""
    for server in both.servers:
        done(server, both, "leases", "create", "--id", "gc")
        done(server, both, "leases", "rm", "--sync", "gc")
    return set(both.ctr("content", "ls", "-q").stdout.split())


# --- archives --------------------------------------------------------------------------------------


def test_an_archive_of_one_platform_is_imported_alike(both: Both, image: Image, tmp_path: Path) -> None:
    """All blobs are written, and those that no label holds go: the platform that was not asked for. That
    is so in imgtool where gc is to go by labels alone; else it keeps what an index names.
    """
    path = oci(tmp_path / "app.tar", {"example.com/app:1": image})
    both.ctr("images", "import", "--no-unpack", "--platform", "linux/arm64", str(path))
    with (both.servers[0].root / "imgtool.toml").open("a") as settings:
        settings.write('[gc]\nfollow = "labels"\n')
    assert content(both) == image.of["arm64"] | {image.digest}
    both.ctr("images", "ls")
    both.ctr("images", "check")


def test_an_archive_of_all_platforms_is_imported_exported_and_removed_alike(
    both: Both, image: Image, tmp_path: Path
) -> None:
    other = Image(f"{both.namespace} other", "amd64")
    path = oci(tmp_path / "app.tar", {"example.com/app:1": image, "example.com/other:1": other})
    both.ctr("images", "import", "--no-unpack", "--all-platforms", str(path))
    assert "linux/amd64,linux/arm64" in both.ctr("images", "ls", "name==example.com/app:1").stdout
    assert content(both) == set(image.blobs) | set(other.blobs)
    for options in (["--all-platforms"], ["--platform", "linux/arm64"], ["--skip-manifest-json"]):
        outs = [tmp_path / "ours.tar", tmp_path / "theirs.tar"]
        for server, out in zip(both.servers, outs, strict=True):
            done(server, both, "images", "export", *options, out, "example.com/app:1", "example.com/other:1")
        ours, theirs = map(members, outs)
        assert ours.pop("manifest.json", None) is None or theirs.pop("manifest.json")  # in any order
        assert ours == theirs
    both.ctr("images", "rm", "--sync", "example.com/app:1")
    assert content(both) == set(other.blobs)


def test_a_docker_archive_is_imported_alike(both: Both, image: Image, tmp_path: Path) -> None:
    """The client makes the manifest; with its own names, or with those that it is told to give."""
    path = docker(tmp_path / "app.tar", image, ["app:1", "example.com/app:2"])
    both.ctr("images", "import", "--no-unpack", str(path))
    assert both.ctr("images", "ls", "-q").stdout.split() == ["docker.io/library/app:1", "example.com/app:2"]
    assert "linux/amd64" in both.ctr("images", "ls").stdout
    assert both.ctr("images", "check").stdout.count("complete (2/2)") == 2
    assert len(content(both)) == 3
    both.ctr("images", "import", "--no-unpack", "--digests", "--base-name", "example.com/base", str(path))
    assert "example.com/base@sha256:" in both.ctr("images", "ls", "-q").stdout


def test_an_archive_is_whole_where_unpacking_ends_the_import(server: Served, tmp_path: Path) -> None:
    """imgtool has no snapshots, and the client begins with them when the image is there."""
    image = Image("unpacked", "amd64")
    path = oci(tmp_path / "app.tar", {"example.com/app:1": image})
    run = server.ctr("images", "import", "--platform", "linux/amd64", path)
    assert run.returncode == 1
    assert UNPACKING in run.stderr
    assert "complete (2/2)" in server.ctr("images", "check").stdout
    imgtool = Imgtool(server.root)
    imgtool("gc")
    assert imgtool.objects() == {digest: len(data) for digest, data in image.blobs.items()}


def test_what_is_no_archive_is_imported_by_neither(both: Both, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no archive")
    assert both.ctr("images", "import", "--no-unpack", str(tmp_path / "text")).exit == 1
    assert both.ctr("images", "export", str(tmp_path / "out"), "nope").exit == 1
    assert not both.ctr("images", "ls", "-q").stdout


# --- a registry ------------------------------------------------------------------------------------


def pushed(both: Both, image: Image, registry: str, tmp_path: Path) -> list[str]:
    """Have both servers push the image; returns the names under which they have."""
    path = oci(tmp_path / "app.tar", {"example.com/app:1": image})
    both.ctr("images", "import", "--no-unpack", "--all-platforms", str(path))
    names = []
    for server, who in zip(both.servers, ("ours", "theirs"), strict=True):
        name = f"{registry}/{both.namespace.lower()}-{who}:1"
        done(server, both, "images", "tag", "example.com/app:1", name)
        done(server, both, "images", "push", "--plain-http", name)
        done(server, both, "images", "rm", "--sync", name, "example.com/app:1")
        names.append(name)
    assert content(both) == set()
    return names


def test_what_is_pushed_is_fetched_whole_by_the_other(
    both: Both, image: Image, registry: str, tmp_path: Path
) -> None:
    """All platforms, then one: the labels of the client hold the same on both sides."""
    for name in pushed(both, image, registry, tmp_path):
        both_fetch = ["content", "fetch", "--plain-http"]
        for server in both.servers:
            done(server, both, *both_fetch, "--all-platforms", name)
        assert content(both) == set(image.blobs)
        assert both.ctr("images", "check").exit == 0
        both.ctr("images", "rm", "--sync", name)
        for server in both.servers:
            done(server, both, *both_fetch, "--platform", "linux/arm64", "--label", "from=test", name)
        assert content(both) == image.of["arm64"] | {image.digest}
        assert "from=test" in both.ctr("images", "ls").stdout
        both.ctr("images", "rm", "--sync", name)


def test_an_image_is_pulled_whole_and_unpacking_is_where_it_ends(
    both: Both, image: Image, registry: str, tmp_path: Path
) -> None:
    """What imgtool's own commands make of it: an index that is labelled with a manifest that is not there."""
    name = pushed(both, image, registry, tmp_path)[0]
    ours, theirs = (
        server.ctr(
            "images", "pull", "--plain-http", "--platform", "linux/amd64", name, namespace=both.namespace
        )
        for server in both.servers
    )
    assert theirs.returncode == 0, theirs.stderr
    assert ours.returncode == 1
    assert UNPACKING in ours.stderr
    wanted = image.of["amd64"] | {image.digest}
    assert content(both) == wanted
    both.ctr("images", "ls")
    assert "complete (2/2)" in both.servers[0].ctr("images", "check", namespace=both.namespace).stdout

    imgtool = Imgtool(both.servers[0].root)
    imgtool("-n", both.namespace, "gc")
    assert set(imgtool.objects()) == wanted
    assert imgtool("-n", both.namespace, "list", "-q") == f"{name}\n"
    imgtool("fsck")
    for kind in ("oci-archive", "docker-archive"):
        out = tmp_path / f"{kind}.tar"
        imgtool("-n", both.namespace, "export", "--to", kind, "-o", out, name)
        assert len(members(out)) >= len(wanted)


def test_objects_are_pushed_and_fetched_alike(
    both: Both, image: Image, registry: str, tmp_path: Path
) -> None:
    """Blob by blob, without an image."""
    path = oci(tmp_path / "app.tar", {"example.com/app:1": image})
    both.ctr("images", "import", "--no-unpack", "--all-platforms", str(path))
    digest = next(iter(image.of["amd64"] - {image.digest}))
    kind = "application/octet-stream"
    for server, who in zip(both.servers, ("ours", "theirs"), strict=True):
        name = f"{registry}/{both.namespace.lower()}-{who}-objects:1"
        said = done(server, both, "content", "push-object", "--plain-http", name, digest, kind)
        assert f"Pushed {digest}" in said
    name = pushed(both, image, registry, tmp_path)[0]
    found = both.ctr("content", "fetch-object", "--plain-http", name, image.digest)
    assert found.exit == 0
    assert found.stdout == image.blobs[image.digest].decode()
