"""What the tests of export make: content and images, and a look into what came out."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imgtool.digest import Digest
from imgtool.disk import DiskStore
from imgtool.errors import ImgtoolError
from imgtool.model import Descriptor, Image, Platform
from imgtool.oci import media, platforms
from imgtool.oci.descriptor import to_dict
from imgtool.ops.export import Export, wanted
from imgtool.ops.export_plan import Exported
from imgtool.stores import Commit, Store

NS = "default"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")
BIG = bytes(range(256)) * 5000  # is copied by the kernel


class World:
    """A store, what is put into it, and what is said while it is exported."""

    def __init__(self, store: Store, path: Path) -> None:
        self.store = store
        self.path = path
        self.said: list[str] = []
        self.warned: list[str] = []
        self.errors: list[ImgtoolError] = []
        self.stdout = bytearray()

    def put(
        self, data: bytes, media_type: str = LAYER, algorithm: str = "sha256", **labels: str
    ) -> Descriptor:
        """Add content; returns its descriptor."""
        with self.store.content(NS).stage(algorithm=algorithm) as writer:
            writer.write(data)
            writer.finish()
            digest = self.store.publish(NS, [Commit(writer, labels=labels)]).content[0].digest
        return Descriptor(media_type, digest, len(data))

    def config(self, platform: Platform = AMD64) -> Descriptor:
        document = {"os": platform.os, "architecture": platform.architecture}
        return self.put(json.dumps(document).encode(), media.OCI_CONFIG)

    def manifest(
        self, *layers: Descriptor, config: Descriptor | None = None, algorithm: str = "sha256"
    ) -> Descriptor:
        document = {
            "schemaVersion": 2,
            "mediaType": media.OCI_MANIFEST,
            "config": to_dict(config or self.config()),
            "layers": [to_dict(layer) for layer in layers],
        }
        return self.put(json.dumps(document).encode(), media.OCI_MANIFEST, algorithm)

    def index(self, *manifests: Descriptor, **labels: str) -> Descriptor:
        document = {
            "schemaVersion": 2,
            "mediaType": media.OCI_INDEX,
            "manifests": [to_dict(m) for m in manifests],
        }
        return self.put(json.dumps(document).encode(), media.OCI_INDEX, **labels)

    def tag(self, name: str, target: Descriptor) -> Descriptor:
        self.store.images(NS).create(Image(name, target))
        return target

    def image(self, name: str = "app:1", *layers: bytes) -> Descriptor:
        """An image with a config and layers of these bytes."""
        return self.tag(name, self.manifest(*map(self.put, layers or (b"layer", BIG))))

    def export(
        self,
        *names: str,
        to: str | None = None,
        out: str = "out",
        platform: str | None = None,
        dry_run: bool = False,
    ) -> list[Exported]:
        chosen = platforms.parse(platform) if platform else None
        path = out if out == "-" else f"{self.path}/{out}"
        export = Export(
            self.store,
            NS,
            wanted(path, to, chosen, dry_run=dry_run),
            stdout=self.stdout.extend,
            on_error=self.errors.append,
            say=self.said.append,
            warn=self.warned.append,
            progress=lambda _: None,
        )
        return export.run(names)

    def files(self, out: str = "out") -> dict[str, bytes]:
        """The files of an archive that was written."""
        return files((self.path / out).read_bytes())

    def entries(self, out: str = "out") -> list[dict[str, Any]]:
        return json.loads(self.files(out)["index.json"])["manifests"]  # type: ignore[no-any-return]

    def docker(self, out: str = "out") -> list[dict[str, Any]]:
        return json.loads(self.files(out)["manifest.json"])  # type: ignore[no-any-return]

    def object(self, d: Descriptor) -> Path:
        assert isinstance(self.store, DiskStore)
        return Path(self.store.engine.layout.object(d.digest))

    def there(self) -> list[str]:
        """What lies where exports go."""
        return sorted(path.name for path in self.path.iterdir())


def files(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {m.name: extracted.read() for m in tar if (extracted := tar.extractfile(m))}


def blob(d: Descriptor | Digest) -> str:
    digest = d.digest if isinstance(d, Descriptor) else d
    return f"blobs/{digest.algorithm}/{digest.encoded}"


def blobs(found: Mapping[str, bytes]) -> set[str]:
    return {name for name in found if name.startswith("blobs/")}


def spoil(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)
