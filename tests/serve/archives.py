"""Small images that can be unpacked, for one platform or two, in the archives that `ctr` imports."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

OCI = "application/vnd.oci.image"
INDEX, MANIFEST, CONFIG = f"{OCI}.index.v1+json", f"{OCI}.manifest.v1+json", f"{OCI}.config.v1+json"
LAYER = f"{OCI}.layer.v1.tar+gzip"


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class Image:
    """An image, or one for several platforms; `blobs` are all it needs, by digest.

    Args:
        text: what is in its only file; other text, other digests.
        architectures: what it runs on; with more than one its target is an index.
    """

    def __init__(self, text: str, *architectures: str) -> None:
        self.blobs: dict[str, bytes] = {}
        self.of: dict[str, set[str]] = {}  # what the image for an architecture needs, without the index
        self.configs: dict[str, tuple[bytes, bytes]] = {}  # config and layer, not compressed
        manifests = [self._manifest(f"{text} {arch}", arch) for arch in architectures]
        self.target = manifests[0]
        if len(manifests) > 1:
            document = {"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}
            self.target = self._put(INDEX, json.dumps(document).encode())

    @property
    def digest(self) -> str:
        return str(self.target["digest"])

    def _put(self, media_type: str, data: bytes) -> dict[str, Any]:
        self.blobs[sha256(data)] = data
        return {"mediaType": media_type, "digest": sha256(data), "size": len(data)}

    def _manifest(self, text: str, architecture: str) -> dict[str, Any]:
        before = set(self.blobs)
        layer = packed({"usr/file": text.encode() * 1000})
        config = json.dumps(
            {
                "architecture": architecture,
                "os": "linux",
                "config": {},
                "rootfs": {"type": "layers", "diff_ids": [sha256(layer)]},
            }
        ).encode()
        self.configs[architecture] = config, layer
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self._put(CONFIG, config),
            "layers": [self._put(LAYER, gzip.compress(layer, mtime=0))],
        }
        manifest = self._put(MANIFEST, json.dumps(document).encode())
        self.of[architecture] = set(self.blobs) - before
        return {**manifest, "platform": {"architecture": architecture, "os": "linux"}}


def oci(path: Path, images: Mapping[str, Image]) -> Path:
    """An OCI archive, images by name."""
    blobs = {digest: data for image in images.values() for digest, data in image.blobs.items()}
    manifests = [
        {**image.target, "annotations": {"io.containerd.image.name": name}} for name, image in images.items()
    ]
    path.write_bytes(
        packed(
            {
                "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
                "index.json": json.dumps({"schemaVersion": 2, "manifests": manifests}).encode(),
                **{f"blobs/{digest.replace(':', '/')}": data for digest, data in blobs.items()},
            }
        )
    )
    return path


def docker(path: Path, image: Image, names: Sequence[str]) -> Path:
    """What `docker save` writes, up to version 24, of the first platform."""
    config, layer = next(iter(image.configs.values()))
    files = {f"{sha256(config)[7:]}.json": config, "abc/layer.tar": layer}
    entry = {"Config": next(iter(files)), "RepoTags": list(names), "Layers": ["abc/layer.tar"]}
    path.write_bytes(packed({**files, "manifest.json": json.dumps([entry]).encode()}))
    return path


def members(path: Path) -> dict[str, str]:
    """The files of an archive, with their digests."""
    found = {}
    with tarfile.open(path) as tar:
        for member in tar:
            if (file := tar.extractfile(member)) is not None:
                found[member.name] = sha256(file.read())
    return found


def packed(files: Mapping[str, bytes]) -> bytes:
    """A tar file."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()
