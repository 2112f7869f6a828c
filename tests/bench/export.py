"""A large image out of the store, against hashing and against copying the same bytes; and one of many
files, for the memory that it takes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from ingest import random_file
from measure import Case, Row, call, environment, imgtool, in_turn, rows
from memory import MIB, peak

LAYERS = 4
MANY = 900, 109  # manifests of an index, layers of each: nearly as many as an archive may have
INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"


def blob(layout: Path, media_type: str, data: bytes) -> dict[str, Any]:
    """Add a blob to a layout; returns its descriptor."""
    encoded = hashlib.sha256(data).hexdigest()
    (layout / "blobs/sha256" / encoded).write_bytes(data)
    return {"mediaType": media_type, "digest": f"sha256:{encoded}", "size": len(data)}


def document(layout: Path, media_type: str, **fields: Any) -> dict[str, Any]:
    """Add a manifest or index to a layout; returns its descriptor."""
    return blob(layout, media_type, json.dumps({"schemaVersion": 2, **fields}).encode())


def image(layout: Path, layers: list[dict[str, Any]], number: int = 0) -> dict[str, Any]:
    """Add a manifest with a config of its own; returns its descriptor."""
    config = {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": []}}
    config["number"] = number
    return document(layout, MANIFEST, config=blob(layout, CONFIG, json.dumps(config).encode()), layers=layers)


def finished(layout: Path, target: dict[str, Any]) -> Path:
    """Make a layout of it, with one image, `bench`."""
    target["annotations"] = {"org.opencontainers.image.ref.name": "bench"}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [target]}))
    (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    return layout


def large(layout: Path, size: int) -> Path:
    """An image of random layers that have `size` bytes together."""
    blobs = layout / "blobs/sha256"
    blobs.mkdir(parents=True)
    layers = []
    for _ in range(LAYERS):
        file = random_file(blobs / "layer", size // LAYERS)
        with file.open("rb") as stream:
            encoded = hashlib.file_digest(stream, "sha256").hexdigest()
        file.rename(blobs / encoded)
        layers.append({"mediaType": LAYER, "digest": f"sha256:{encoded}", "size": size // LAYERS})
    return finished(layout, image(layout, layers))


def many(layout: Path) -> Path:
    """An index of many manifests, each of many tiny layers."""
    (layout / "blobs/sha256").mkdir(parents=True)
    manifests, layers = MANY
    images = [
        image(layout, [blob(layout, LAYER, b"%d %d" % (n, m)) for m in range(layers)], n)
        for n in range(manifests)
    ]
    return finished(layout, document(layout, INDEX, manifests=images))


def run(work: Path, size: int, rounds: int) -> list[Row]:
    """Every run starts without a destination and ends when the bytes are durable, or read."""
    layout, store, out = large(work / "layout", size), work / "store", work / "out"
    call(*imgtool(store, "ingest", f"oci:{layout}"))
    files = sorted((layout / "blobs/sha256").iterdir())

    def away() -> None:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()

    def copy_and_sync() -> None:
        call("cp", *files, out)
        call("sync", *(out / file.name for file in files))

    def to_stdout() -> None:
        with (out / "stdout").open("wb") as file:
            argv = imgtool(store, "export", "-o", "-", "bench")
            subprocess.run(argv, stdout=file, check=True, env=environment())

    def ours(kind: str) -> Case:
        argv = imgtool(store, "export", "-o", out / "new", "--to", kind, "bench")
        return Case(f"imgtool export --to {kind}", lambda: call(*argv), away)

    skopeo = ["skopeo", "--insecure-policy", "copy", "--quiet", f"oci:{layout}:bench"]
    cases = [
        Case("openssl dgst -sha256", lambda: call("openssl", "dgst", "-sha256", *files)),
        Case("cp FILES DIR && sync FILES", copy_and_sync, away),
        ours("oci-archive"),
        ours("oci"),
        Case("imgtool export -o - > FILE", to_stdout, away),
        Case(
            "skopeo copy oci: oci-archive:",
            lambda: call(*skopeo, f"oci-archive:{out / 'new'}:bench"),
            away,
            "" if shutil.which("skopeo") else "not measured: skopeo missing",
        ),
    ]
    in_turn(cases, rounds)
    larger = Case("the larger of openssl and cp", lambda: None)
    larger.seconds = [max(pair) for pair in zip(cases[0].seconds, cases[1].seconds, strict=True)]
    table = rows(
        [*cases, larger],
        {
            ("imgtool export --to oci-archive", larger.name): "<= 1.3",
            ("imgtool export --to oci", larger.name): "",
            ("imgtool export --to oci-archive", "skopeo copy oci: oci-archive:"): "",
        },
    )
    call(*imgtool(work / "many", "ingest", f"oci:{many(work / 'many-layout')}"))
    for what, root in ((f"{size // MIB} MiB", store), (f"{MANY[0] * (MANY[1] + 2)} files", work / "many")):
        most = peak(imgtool(root, "export", "-o", work / "archive", "bench"), subprocess.DEVNULL)
        table.append(Row(f"imgtool export of {what}, peak", f"{most / MIB:.1f} MiB", target="< 64 MiB"))
    return table
