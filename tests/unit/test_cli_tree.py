"""`imgtool tree` with what anybody may bring in."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest

from imgtool.model import Descriptor
from imgtool.oci import media
from imgtool.oci.descriptor import to_dict
from tests.fixture_runner import run_here

from .layout_world import Made


def ingested(made: Made, *roots: Descriptor, where: Path) -> None:
    """Take a layout into the store `where`; the first of its roots is called app."""
    first, *others = (to_dict(root) for root in roots)
    first["annotations"] = {"org.opencontainers.image.ref.name": "app"}
    (made.path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [first, *others]}))
    done = run_here(["ingest", "-q", f"oci:{made.path.name}"], where, b"")
    assert done.code == 0, done.stderr


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path / "layout")


def about(made: Made, subject: Descriptor, number: int, **fields: object) -> Descriptor:
    """A referrer of `subject`."""
    config = made.put(b"{}", media.OCI_EMPTY)
    return made.image(config, made.put(b"%d" % number), subject=to_dict(subject), **fields)


def test_many_large_referrers_take_the_memory_of_few(made: Made, tmp_path: Path) -> None:
    """Anybody can sign anything, and annotations have no limit but that of a document."""
    image = made.image(made.config())
    large = [about(made, image, n, annotations={"a": "x" * (3 << 20)}) for n in range(24)]
    ingested(made, image, *large, where=tmp_path)
    tracemalloc.start()
    try:
        done = run_here(["tree", "app"], tmp_path, b"")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (done.code, done.stdout.count(b"referrer sha256")) == (0, 24)
    assert b"it has more than 16 MiB of documents" in done.stderr
    assert peak < 40 << 20


@pytest.mark.parametrize("form", ["table", "json"])
def test_a_long_chain_of_referrers_is_cut(form: str, made: Made, tmp_path: Path) -> None:
    """Each may be about the one before; the lines would grow longer and longer, and JSON nest too deep."""
    image = made.image(made.config())
    chain = [image]
    for number in range(200):
        chain.append(about(made, chain[-1], number))
    ingested(made, *chain, where=tmp_path)
    done = run_here(["tree", "app", "--format", form], tmp_path, b"")
    assert done.code == 0
    assert b"it has more than 32 levels above a referrer" in done.stderr
    assert sum(signature.digest.encoded[:12].encode() in done.stdout for signature in chain[1:]) == 32


def test_referrers_are_found_without_labels(made: Made, tmp_path: Path) -> None:
    """Another client may have stored the document and set no label on it, and may escape its keys."""
    image = made.image(made.config())
    ingested(made, image, where=tmp_path)
    document = {
        "schemaVersion": 2,
        "mediaType": media.OCI_INDEX,
        "manifests": [],
        "artifactType": "application/x",
        "subject": to_dict(image),
    }
    text = json.dumps(document).replace('"subject"', '"sub\\u006aect"')
    digest = run_here(["content", "ingest", "-"], tmp_path, text.encode()).stdout.split()[0].decode()
    (row,) = json.loads(run_here(["tree", "app", "--format", "json"], tmp_path, b"").stdout)["images"]
    (referrer,) = row["tree"]["referrers"]
    assert (referrer["digest"], referrer["artifactType"]) == (digest, "application/x")
    assert row["referrers"] == {"count": 1, "size": len(text)}


def test_a_part_that_is_malformed_leaves_the_rest_of_the_tree(made: Made, tmp_path: Path) -> None:
    """What came before it in the walk is known."""
    good, bad = made.image(made.config()), made.put(b"{}", media.OCI_MANIFEST)
    top = made.index(good, bad)
    for d in (made.config(), good, bad, top):
        raw = made.file(d).read_bytes()
        run_here(["content", "ingest", "--digest-algorithm", "sha256", "-"], tmp_path, raw)
    done = run_here(["tree", top.digest], tmp_path, b"")
    assert done.code == 0
    assert b"no config" in done.stderr or b"schemaVersion" in done.stderr
    assert good.digest.encoded[:12].encode() in done.stdout
    assert b"config sha256:" in done.stdout
