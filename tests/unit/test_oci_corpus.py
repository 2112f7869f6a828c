"""Real layouts that other projects keep for their tests, judged as far as this package can."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from imgtool.digest import new_hasher
from imgtool.errors import FailedPrecondition, ImgtoolError, InvalidArgument
from imgtool.model import Descriptor
from imgtool.oci import graph
from imgtool.oci.layout import FileReader, Layout

SHARED = Path(os.environ.get("IMGTOOL_SHARED") or Path(__file__).parents[3] / "shared")
CORPUS = SHARED / "corpus"


def entries(kind: str) -> list[dict[str, Any]]:
    if not CORPUS.is_dir():
        return []
    found = json.loads((CORPUS / "corpus.json").read_text())["entries"]
    return [e for e in found if e["kind"] == kind]


def params(kind: str) -> list[Any]:
    """One test for each entry; without the corpus one that is skipped in plain sight."""
    absent = pytest.param(None, id="corpus", marks=pytest.mark.skip(reason=f"{CORPUS} is absent"))
    return [pytest.param(e, id=e["id"]) for e in entries(kind)] or [absent]


def unpacked(entry: dict[str, Any], to: Path) -> str:
    with tarfile.open(CORPUS / entry["file"]) as archive:
        archive.extractall(to, filter="data")
    return str(to)


def check(layout: Layout, descriptor: Descriptor) -> None:
    """Read a blob and compare it with its descriptor, as an ingest does."""
    hasher = new_hasher(descriptor.digest.algorithm)
    with FileReader(layout.open_blob(descriptor.digest, descriptor.size), "blob") as reader:
        hasher.update(reader.read())
    if hasher.hexdigest() != descriptor.digest.encoded:
        raise FailedPrecondition(f"blob {descriptor.digest} has other bytes")


@pytest.mark.parametrize("entry", params("oci-layout"))
def test_a_layout_is_judged_by_its_verdict(entry: dict[str, Any], tmp_path: Path) -> None:
    """Names, reach and gaps are those that the corpus knows of."""
    path = unpacked(entry, tmp_path)
    reachable = {d for r in entry["roots"] for d in r["reachable"]}
    missing = {d for r in entry["roots"] for d in r["missing"]}
    try:
        with Layout(path) as layout:
            names = [{"digest": r.descriptor.digest, "name": r.name} for r in layout.roots]
            assert names == entry["expected_images"]
            found = list(
                graph.walk(layout, [r.descriptor for r in layout.roots], layout.has, wrong=FailedPrecondition)
            )
            for node in found:
                if layout.has(node.descriptor.digest):
                    check(layout, node.descriptor)
    except ImgtoolError:
        assert entry["verdict"] in ("reject", "either")
        return
    assert {n.descriptor.digest for n in found} == reachable
    assert set(graph.Extent(found).missing()) == missing
    expected = {"accept": (True, False), "incomplete": (True, True), "empty": (False, False)}
    assert (bool(found), bool(missing)) == expected[entry["verdict"]]


@pytest.mark.parametrize("entry", params("registry-storage"))
def test_the_storage_of_a_registry_is_no_layout(entry: dict[str, Any], tmp_path: Path) -> None:
    """It is served or copied by a registry, never ingested."""
    with pytest.raises(InvalidArgument, match="it is the storage folder of a registry"):
        Layout(unpacked(entry, tmp_path))
