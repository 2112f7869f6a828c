"""Archives as other programs save them, written with `tarfile` from the images of a layout.

What docker, podman and jib write is laid down here member by member, because those programs are not
everywhere; skopeo and ctr, which are, judge the result in the tests.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .images import INDEX, REF_NAME, Layout

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"


@dataclass(frozen=True)
class Saved:
    """An image to be saved: `layers` are files, uncompressed or not, in their order."""

    tags: tuple[str, ...]
    config: bytes
    layers: tuple[Path, ...]

    @property
    def config_hex(self) -> str:
        return hashlib.sha256(self.config).hexdigest()


class Tar:
    """A tar file being written; members have nobody's owner and no time."""

    def __init__(self, path: Path) -> None:
        self._tar = tarfile.open(path, "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115  (closed by `close`)

    def file(self, name: str, data: bytes | Path) -> None:
        member = tarfile.TarInfo(name)
        if isinstance(data, bytes):
            member.size = len(data)
            self._tar.addfile(member, io.BytesIO(data))
            return
        member.size = data.stat().st_size
        with data.open("rb") as file:
            self._tar.addfile(member, file)

    def json(self, name: str, document: Any) -> None:
        self.file(name, json.dumps(document).encode())

    def link(self, name: str, to: str) -> None:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = tarfile.SYMTYPE, to
        self._tar.addfile(member)

    def directory(self, name: str) -> None:
        member = tarfile.TarInfo(name)
        member.type = tarfile.DIRTYPE
        self._tar.addfile(member)

    def close(self) -> None:
        self._tar.close()

    def __enter__(self) -> Tar:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def unpacked(layout: Layout, ref: str, tags: tuple[str, ...], to: Path) -> Saved:
    """The image `ref` of `layout`, of amd64 where it has several, its layers decompressed into `to`."""
    document = json.loads(layout.blob(layout.refs()[ref]["digest"]).read_bytes())
    if "manifests" in document:
        amd64 = next(m for m in document["manifests"] if m["platform"]["architecture"] == "amd64")
        document = json.loads(layout.blob(amd64["digest"]).read_bytes())
    layers = []
    for descriptor in document["layers"]:
        path = to / descriptor["digest"].partition(":")[2]
        if not path.exists():
            with gzip.open(layout.blob(descriptor["digest"])) as source, path.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
        layers.append(path)
    return Saved(tags, layout.blob(document["config"]["digest"]).read_bytes(), tuple(layers))


def reference(tag: str) -> str:
    """A docker reference in full, as `docker tag` understands it."""
    host, slash, _ = tag.partition("/")
    if not slash:
        tag = f"docker.io/library/{tag}"
    elif not (set(".:") & set(host) or host == "localhost"):
        tag = f"docker.io/{tag}"
    return tag if ":" in tag.rpartition("/")[2] else f"{tag}:latest"


def sha256(path: Path) -> str:
    """The hexadecimal digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def docker_old(path: Path, *images: Saved) -> None:
    """`docker save` until version 24: a directory for each layer, and a link where the same layer comes
    again; names twice, in `manifest.json` and in `repositories`.
    """
    first: dict[str, str] = {}
    entries = []
    with Tar(path) as tar:
        for image in images:
            names = []
            for number, layer in enumerate(image.layers):
                digest = sha256(layer)
                id = hashlib.sha256(f"{image.tags}{number}".encode()).hexdigest()
                tar.directory(id)
                tar.file(f"{id}/VERSION", b"1.0")
                tar.json(f"{id}/json", {"id": id, "os": "linux"})
                if digest in first:
                    tar.link(f"{id}/layer.tar", f"../{first[digest]}/layer.tar")
                else:
                    tar.file(f"{id}/layer.tar", layer)
                    first[digest] = id
                names.append(f"{id}/layer.tar")
            tar.file(f"{image.config_hex}.json", image.config)
            entries.append({"Config": f"{image.config_hex}.json", "RepoTags": image.tags, "Layers": names})
        tar.json("manifest.json", entries)
        tar.json("repositories", {tag: {"latest": "0" * 64} for image in images for tag in image.tags})


def podman(path: Path, *images: Saved) -> None:
    """`podman save --multi-image-archive`: layers by digest, each image's directories link to them."""
    written = set()
    entries = []
    with Tar(path) as tar:
        for image in images:
            names = []
            for number, layer in enumerate(image.layers):
                digest = sha256(layer)
                if digest not in written:
                    tar.file(f"{digest}.tar", layer)
                    written.add(digest)
                id = hashlib.sha256(f"{image.config_hex}{number}".encode()).hexdigest()
                tar.file(f"{id}/VERSION", b"1.0")
                tar.link(f"{id}/layer.tar", f"../{digest}.tar")
                names.append(f"{id}/layer.tar")
            tar.file(f"{image.config_hex}.json", image.config)
            entries.append({"Config": f"{image.config_hex}.json", "RepoTags": image.tags, "Layers": names})
        tar.json("manifest.json", entries)


def jib(path: Path, *images: Saved) -> None:
    """`jib` builds one image, with keys in lower case, `config.json` and layers as they come, here gzip."""
    (image,) = images
    with Tar(path) as tar:
        names = []
        for layer in image.layers:
            packed = gzip.compress(layer.read_bytes(), 1, mtime=0)
            names.append(f"{hashlib.sha256(packed).hexdigest()}.tar.gz")
            tar.file(names[-1], packed)
        tar.file("config.json", image.config)
        tar.json("manifest.json", [{"config": "config.json", "repoTags": image.tags, "layers": names}])


def docker_new(path: Path, *images: Saved) -> None:
    """`docker save` since version 25: OCI and docker archive at once over the same blobs."""
    _both(path, images, listed=True)


def docker_no_index(path: Path, *images: Saved) -> None:
    """The same with `"manifests": null` in `index.json`: only `manifest.json` tells of the images."""
    _both(path, images, listed=False)


def _both(path: Path, images: tuple[Saved, ...], *, listed: bool) -> None:
    entries, manifests, blobs = [], [], dict[str, bytes | Path]()
    for image in images:
        blobs[image.config_hex] = image.config
        config = _descriptor(CONFIG, image.config_hex, len(image.config))
        layers = [_descriptor(LAYER, sha256(path), path.stat().st_size) for path in image.layers]
        blobs.update(zip((_hex(d) for d in layers), image.layers, strict=True))
        document = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers}
        raw = json.dumps(document).encode()
        digest = hashlib.sha256(raw).hexdigest()
        blobs[digest] = raw
        for tag in image.tags:
            annotations = {
                "io.containerd.image.name": reference(tag),
                REF_NAME: reference(tag).rpartition(":")[2],
            }
            manifests.append(_descriptor(MANIFEST, digest, len(raw)) | {"annotations": annotations})
        paths = [f"blobs/sha256/{_hex(d)}" for d in layers]
        entries.append(
            {"Config": f"blobs/sha256/{image.config_hex}", "RepoTags": image.tags, "Layers": paths}
        )
    with Tar(path) as tar:
        tar.directory("blobs")
        tar.directory("blobs/sha256")
        for hex, data in sorted(blobs.items()):
            tar.file(f"blobs/sha256/{hex}", data)
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests if listed else None}
        tar.json("index.json", index)
        tar.json("manifest.json", entries)
        tar.json("oci-layout", {"imageLayoutVersion": "1.0.0"})


def _descriptor(media_type: str, hex: str, size: int) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": f"sha256:{hex}", "size": size}


def _hex(descriptor: dict[str, Any]) -> str:
    return str(descriptor["digest"]).partition(":")[2]


FORMS: dict[str, Callable[..., None]] = {
    "docker-old": docker_old,
    "docker-new": docker_new,
    "docker-no-index": docker_no_index,
    "podman": podman,
    "jib": jib,
}
