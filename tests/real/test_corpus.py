"""Layouts that other projects keep for their own tests, each judged by its verdict.

They come from elsewhere: a member's name is checked before a file is made of it, and only regular files
are made. The folder is named by IMGTOOL_SHARED; without it these tests are skipped in plain sight.
"""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from .process import Imgtool

CORPUS = Path(os.environ.get("IMGTOOL_SHARED") or Path(__file__).parents[3] / "shared") / "corpus"
LIMIT = 4 << 20  # bytes of one member; the largest here has less than 1 MiB


def entries() -> list[Any]:
    """The layouts of the corpus as parameters; one that skips where there is no corpus."""
    path = CORPUS / "corpus.json"
    if not path.exists():
        return [pytest.param({}, id="corpus", marks=pytest.mark.skip(reason=f"no corpus at {CORPUS}"))]
    listed = json.loads(path.read_bytes())["entries"]
    return [pytest.param(e, id=e["id"]) for e in listed if e["kind"] == "oci-layout"]


def unpack(archive: Path, to: Path) -> Path:
    """Write the regular files of `archive` below `to`; anything else in it is an error of the corpus."""
    with tarfile.open(archive) as tar:
        for member in tar:
            name = PurePosixPath(member.name)
            assert not name.is_absolute(), name
            assert ".." not in name.parts, name
            path = to.joinpath(*name.parts)
            if member.isdir():
                path.mkdir(parents=True, exist_ok=True)
                continue
            assert member.isreg(), f"{name} is neither a file nor a directory"
            assert member.size <= LIMIT, name
            data = tar.extractfile(member)
            assert data is not None
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data.read())
    found = list(to.rglob("oci-layout")) or list(to.rglob("index.json")) or [to / "oci-layout"]
    return min(found, key=lambda path: len(path.parts)).parent


def expected_names(entry: dict[str, Any], layout: Path) -> dict[str, str]:
    """Name to digest as an ingest must make them: the layout's own; else its base name, with the
    digest behind it where several images have none.
    """
    images = entry["expected_images"]
    nameless = [image["digest"] for image in images if image["name"] is None]
    named = {image["name"]: image["digest"] for image in images if image["name"] is not None}
    if len(set(nameless)) == 1:
        return named | {layout.name: nameless[0]}
    return named | {f"{layout.name}@{digest}": digest for digest in nameless}


@pytest.mark.parametrize("entry", entries())
def test_a_layout_gets_what_its_verdict_says(entry: dict[str, Any], store: Imgtool, tmp_path: Path) -> None:
    """Whole images are kept to the byte; anything less is refused in one clear line, or said."""
    layout = unpack(CORPUS / entry["file"], tmp_path / "layout")
    done = store.run("ingest", f"oci:{layout}")
    said = done.stderr.decode()
    roots = entry["roots"]
    match entry["verdict"]:
        case "accept":
            assert (done.returncode, store.targets()) == (0, expected_names(entry, layout)), said
            reachable = {digest for root in roots for digest in root["reachable"]}
            assert present(reachable, layout) <= store.objects().keys()
        case "reject":
            assert done.returncode in (2, 5), said
            assert store.images() == {}
        case "incomplete":
            missing = [digest for root in roots for digest in root["missing"]]
            assert done.returncode in (0, 2), said
            assert all(digest in said for digest in missing), said
            if done.returncode:
                assert store.images() == {}
        case "empty":
            assert done.returncode in (0, 2), said
            assert store.images() == {}
            assert done.returncode == 0 or said
        case "either":
            assert done.returncode in (0, 2, 5), said
        case other:
            pytest.fail(f"unknown verdict {other}")
    if done.returncode:
        assert said.startswith("imgtool: ")
    store.check()
    store("gc")
    assert store.objects() == store.reachable()
    store("delete", "--all")
    store("gc")
    assert store.objects() == {}


def present(digests: set[str], layout: Path) -> set[str]:
    """Those that the layout has as files: inline data and foreign layers need none."""
    return {d for d in digests if (layout / "blobs" / d.replace(":", "/")).exists()}


def test_the_corpus_is_whole() -> None:
    """An empty list of parameters would pass every test above."""
    if not CORPUS.exists():
        pytest.skip(f"no corpus at {CORPUS}")
    assert len(entries()) >= 60
