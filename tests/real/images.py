"""Real images, made from Debian packages by Debian's own tools, kept between runs.

A build starts from nothing in about half a minute and needs a Debian mirror. What it made is kept in
`$XDG_CACHE_HOME/imgtool-tests/<hash of this file>/`, so a changed recipe is built anew. `Layout` reads
an OCI layout with nothing but `json`: the tests' own eye, which shares no code with imgtool.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

REF_NAME = "org.opencontainers.image.ref.name"
INDEX = "application/vnd.oci.image.index.v1+json"
SUITE = "bookworm"

_DOCKER = "application/vnd.docker.distribution.manifest"
_DOCUMENTS = {
    INDEX,
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.artifact.manifest.v1+json",
    f"{_DOCKER}.v2+json",
    f"{_DOCKER}.list.v2+json",
}


@dataclass(frozen=True)
class Layout:
    """An OCI image layout on disk."""

    path: Path

    def refs(self) -> dict[str, dict[str, Any]]:
        """The descriptors of `index.json` that carry a ref name, by that name."""
        index = json.loads((self.path / "index.json").read_bytes())
        return {
            d["annotations"][REF_NAME]: d for d in index["manifests"] if REF_NAME in d.get("annotations", {})
        }

    def blob(self, digest: str) -> Path:
        algorithm, _, encoded = digest.partition(":")
        return self.path / "blobs" / algorithm / encoded

    def reachable(self, *digests: str) -> dict[str, int]:
        """All that the manifests and indexes called `digests` need, themselves included: digest to size."""
        return walk([(INDEX, digest) for digest in digests], self.blob)


def walk(targets: Iterable[tuple[str, str]], where: Callable[[str], Path]) -> dict[str, int]:
    """Follow manifests and indexes through files, along every descriptor in them.

    Args:
        targets: where to start: media type and digest.
        where: the file that holds a digest's bytes.

    Returns:
        every digest on the way whose file is there, with the file's size.
    """
    found: dict[str, int] = {}
    todo = list(targets)
    while todo:
        media_type, digest = todo.pop()
        path = where(digest)
        if digest in found or not path.exists():
            continue
        found[digest] = path.stat().st_size
        if media_type in _DOCUMENTS:
            todo += [(child["mediaType"], child["digest"]) for child in _children(path)]
    return found


def _children(path: Path) -> list[dict[str, Any]]:
    document = json.loads(path.read_bytes())
    config = [document["config"]] if "layers" in document else []
    return config + [d for key in ("manifests", "layers", "blobs") for d in document.get(key) or []]


def need(*tools: str) -> None:
    """Skip the test, saying why, unless all `tools` are installed."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


def big() -> Layout:
    """Tag `v1`: three gzip layers of Debian packages, more than 50 MB of blobs. Tag `v2`: the same and a
    small fourth layer. By umoci.
    """
    need("mmdebstrap", "umoci")
    return Layout(_cached("big", _build_big))


def multi() -> Layout:
    """Tag `multi`: an index of amd64 and arm64, by buildah. Tag `nested`: an index that holds `multi` and
    the amd64 image once more, joined by hand.
    """
    need("mmdebstrap", "buildah")
    return Layout(_cached("multi", _build_multi))


def _build_big(at: Path) -> None:
    layout = at / "layout"
    image = f"{layout}:v1"
    run("umoci", "init", "--layout", layout)
    run("umoci", "new", "--image", image)
    for packages in ("base-files,bash,coreutils", "python3-minimal,libpython3-stdlib", "perl,file"):
        tar = at / "layer.tar"
        _debian(tar, packages)
        run("umoci", "raw", "add-layer", "--image", image, tar)
        tar.unlink()
    run("umoci", "config", "--image", image, "--config.cmd", "/bin/bash", "--config.label", "from=debian")
    with tarfile.open(at / "layer.tar", "w") as small:
        small.add(__file__, "usr/share/doc/recipe.py")
    run("umoci", "raw", "add-layer", "--image", image, "--tag", "v2", at / "layer.tar")
    run("umoci", "gc", "--layout", layout)


def _build_multi(at: Path) -> None:
    def buildah(*args: str | Path) -> str:
        storage = ("--root", at / "storage", "--runroot", at / "run", "--storage-driver", "vfs")
        return run("buildah", *storage, *args)

    try:
        buildah("manifest", "create", "multi")
        for arch in ("amd64", "arm64"):
            tar = at / f"{arch}.tar"
            _debian(tar, "busybox-static", arch)
            container = buildah("from", "scratch")
            buildah("add", container, tar, "/")
            buildah("config", "--arch", arch, "--os", "linux", "--cmd", "/bin/busybox", container)
            image = buildah("commit", "--quiet", "--format", "oci", container, f"busybox:{arch}")
            buildah("manifest", "add", "multi", f"containers-storage:{image}")
            tar.unlink()
        buildah("manifest", "push", "--quiet", "--all", "multi", f"oci:{at / 'layout'}:multi")
    finally:
        shutil.rmtree(at / "storage", ignore_errors=True)
        shutil.rmtree(at / "run", ignore_errors=True)
    _nest(Layout(at / "layout"))


def _nest(layout: Layout) -> None:
    """Add the index `nested` to a layout that has `multi`."""
    multi = layout.refs()["multi"]
    inner = {key: multi[key] for key in ("mediaType", "digest", "size")}
    amd64 = json.loads(layout.blob(multi["digest"]).read_bytes())["manifests"][0]
    data = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [inner, amd64]}).encode()
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    layout.blob(digest).write_bytes(data)
    index = json.loads((layout.path / "index.json").read_bytes())
    index["manifests"].append(
        {"mediaType": INDEX, "digest": digest, "size": len(data), "annotations": {REF_NAME: "nested"}}
    )
    (layout.path / "index.json").write_text(json.dumps(index))


def _debian(tar: Path, packages: str, architecture: str = "amd64") -> None:
    """Unpack `packages`, and what they depend on, into a tar file; nothing of them is run."""
    run(
        "mmdebstrap",
        "--quiet",
        "--variant=extract",
        f"--architectures={architecture}",
        f"--include={packages}",
        SUITE,
        tar,
    )


def _cached(name: str, build: Callable[[Path], None]) -> Path:
    """The layout called `name`, built once under a lock; a directory appears whole or not at all."""
    recipe = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "imgtool-tests" / recipe
    base.mkdir(parents=True, exist_ok=True)
    layout = base / name
    with (base / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not layout.exists():
            with tempfile.TemporaryDirectory(dir=base, prefix=f"{name}.") as work:
                build(Path(work))
                (Path(work) / "layout").rename(layout)
    return layout


def run(*args: str | Path) -> str:
    """Run a tool and return what it printed, stripped; skip the test when the tool fails: it is not
    ours, and without a mirror or the right to unpack packages there is nothing to test with.
    """
    done = subprocess.run(args, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        pytest.skip(f"{args[0]} failed with {done.returncode}: {last}")
    return done.stdout.strip()
