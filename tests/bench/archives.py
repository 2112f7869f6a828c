"""A large image into the store, from a layout, an archive and a pipe, against skopeo; and archives of many
members, for the memory that they take.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from export import CONFIG, INDEX, LAYER, LAYERS, MANIFEST, large
from measure import Case, Row, call, environment, imgtool, in_turn, rows
from memory import MIB, peak

MEMBERS = 100_000
BLOBS, IN_ONE = 98_000, 500  # layers of all manifests, nearly as many as are read, and of each


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def blob(tar: tarfile.TarFile, media_type: str, data: bytes) -> dict[str, Any]:
    """Add a blob; returns its descriptor."""
    encoded = hashlib.sha256(data).hexdigest()
    add(tar, f"blobs/sha256/{encoded}", data)
    return {"mediaType": media_type, "digest": f"sha256:{encoded}", "size": len(data)}


def document(tar: tarfile.TarFile, media_type: str, **fields: Any) -> dict[str, Any]:
    """Add a manifest or index; returns its descriptor."""
    return blob(tar, media_type, json.dumps({"schemaVersion": 2, **fields}).encode())


def docker(path: Path, layout: Path) -> Path:
    """The layers of `layout` as a docker archive."""
    files = sorted((layout / "blobs/sha256").iterdir(), key=lambda file: file.stat().st_size)[-LAYERS:]
    config = {
        "os": "linux",
        "architecture": "amd64",
        "rootfs": {"diff_ids": [f"sha256:{f.name}" for f in files]},
    }
    entry = {"Config": "config.json", "RepoTags": ["bench:1"], "Layers": [f"{f.name}.tar" for f in files]}
    with tarfile.open(path, "w") as tar:
        for file in files:
            tar.add(file, f"{file.name}.tar")
        add(tar, "config.json", json.dumps(config).encode())
        add(tar, "manifest.json", json.dumps([entry]).encode())
    return path


def members(path: Path) -> Path:
    """A docker archive with as many members as are read, of which nearly none is needed."""
    with tarfile.open(path, "w") as tar:
        add(tar, "config.json", b'{"os":"linux","architecture":"amd64"}')
        for number in range(MEMBERS - 2):
            add(tar, f"{number}/VERSION", b"%d" % number)
        entry = {"Config": "config.json", "RepoTags": ["many:1"], "Layers": ["0/VERSION"]}
        add(tar, "manifest.json", json.dumps([entry]).encode())
    return path


def blobs(path: Path) -> Path:
    """An OCI archive of many tiny layers, all of them needed."""
    with tarfile.open(path, "w") as tar:
        add(tar, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        config = blob(tar, CONFIG, b"{}")
        manifests = []
        for first in range(0, BLOBS, IN_ONE):
            layers = [blob(tar, LAYER, b"%d" % n) for n in range(first, first + IN_ONE)]
            manifests.append(document(tar, MANIFEST, config=config, layers=layers))
        root = document(tar, INDEX, manifests=manifests)
        root["annotations"] = {"org.opencontainers.image.ref.name": "many"}
        add(tar, "index.json", json.dumps({"schemaVersion": 2, "manifests": [root]}).encode())
    return path


def run(work: Path, size: int, rounds: int) -> list[Row]:
    """Every run starts on an empty store and ends when the image is durable."""
    layout, store, copy = large(work / "layout", size), work / "store", work / "copy"
    archive, saved = work / "image.tar", docker(work / "docker.tar", layout)
    call("tar", "-C", layout, "-cf", archive, "oci-layout", "index.json", "blobs")

    def away() -> None:
        shutil.rmtree(store, ignore_errors=True)
        shutil.rmtree(copy, ignore_errors=True)
        call("sync")  # skopeo leaves it to whoever comes next

    def piped(file: Path) -> None:
        with subprocess.Popen(["cat", file], stdout=subprocess.PIPE) as cat:
            assert cat.stdout is not None
            call(*imgtool(store, "ingest", "-"), stdin=cat.stdout.fileno())

    def ours(name: str, source: str | Path) -> Case:
        return Case(f"imgtool ingest {name}", lambda: call(*imgtool(store, "ingest", source)), away)

    skopeo = ["skopeo", "--insecure-policy", "copy", "--quiet"]
    missing = "" if shutil.which("skopeo") else "not measured: skopeo missing"
    copy_layout = Case(
        "skopeo copy oci:A oci:B",
        lambda: call(*skopeo, f"oci:{layout}:bench", f"oci:{copy}:bench"),
        away,
        missing,
    )
    copy_archive = Case(
        "skopeo copy oci-archive:F oci:B",
        lambda: call(*skopeo, f"oci-archive:{archive}:bench", f"oci:{copy}:bench"),
        away,
        missing,
    )
    from_layout, from_file = ours("oci:A", f"oci:{layout}"), ours("F", archive)
    from_pipe = Case("cat F | imgtool ingest -", lambda: piped(archive), away)
    cases = [copy_layout, from_layout, copy_archive, from_file, from_pipe]
    in_turn(cases, rounds)
    table = rows(
        cases,
        {
            (from_layout.name, copy_layout.name): "<= 0.6",
            (from_file.name, copy_archive.name): "<= 0.6",
            (from_pipe.name, from_file.name): "<= 1.2",
        },
    )
    return [*table, *peaks(work, archive, saved)]


def peaks(work: Path, archive: Path, saved: Path) -> Iterator[Row]:
    """The largest resident sizes, all from a pipe."""
    files = {
        "an OCI archive": archive,
        "a docker archive": saved,
        f"a docker archive of {MEMBERS:,} members": members(work / "members.tar"),
        f"an OCI archive of {BLOBS:,} layers": blobs(work / "blobs.tar"),
    }
    for what, file in files.items():
        shutil.rmtree(work / "store", ignore_errors=True)
        kind = "oci-archive" if "OCI" in what else "docker-archive"
        argv = imgtool(work / "store", "ingest", "--as", kind, "-")
        with subprocess.Popen(["cat", file], stdout=subprocess.PIPE, env=environment()) as cat:
            assert cat.stdout is not None
            most = peak(argv, cat.stdout.fileno())
        if cat.returncode:
            sys.exit(f"cat {file}: exit {cat.returncode}")
        yield Row(f"{what}, peak", f"{most / MIB:.1f} MiB", target="< 64 MiB")
