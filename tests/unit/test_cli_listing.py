"""`list` and `inspect` beside others who change the store: readers take no lock."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imgtool.digest import Digest
from imgtool.disk import DiskStore, open_store
from imgtool.model import Descriptor, replace
from imgtool.oci import blob
from imgtool.oci.descriptor import to_dict
from tests.fixture_runner import ROOT, Result, run_here

from .layout_world import LAYER, Made

Deed = Callable[[DiskStore], None]


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """An image `app` with a manifest, and a plain file `other`."""
    (tmp_path / "f").write_bytes(b"other")
    for source, name in ((f"oci:{ROOT}/fixtures/hello.oci", "app"), ("f", "other")):
        assert run_here(["ingest", source, "-t", name], tmp_path, b"").code == 0
    return tmp_path


@pytest.fixture
def meanwhile(here: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Deed], None]:
    """Lets another process do something in the moment before the first document is read."""

    def arrange(deed: Deed) -> None:
        read, todo = blob.read, [deed]

        def late(*args: Any, **options: Any) -> bytes:
            if todo:
                with open_store(str(here / "store")) as store:
                    todo.pop()(store)
            return read(*args, **options)

        monkeypatch.setattr(blob, "read", late)

    return arrange


def drop_content(store: DiskStore) -> None:
    content = store.content("default")
    for info in list(content.list()):
        if info.digest == store.images("default").get("app").target.digest:
            content.delete(info.digest)


def delete(store: DiskStore) -> None:
    drop_content(store)
    store.images("default").delete("app")


def move(store: DiskStore) -> None:
    drop_content(store)
    images = store.images("default")
    images.update(replace(images.get("app"), target=images.get("other").target), "target")


def rows(result: Result) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(result.stdout)["images"]
    return found


def test_an_image_that_is_deleted_while_it_is_listed_is_left_out(
    here: Path, meanwhile: Callable[[Deed], None]
) -> None:
    """It is no failure that somebody cleans up."""
    meanwhile(delete)
    result = run_here(["list", "--format", "json"], here, b"")
    assert (result.code, result.stderr) == (0, b"")
    assert [row["name"] for row in rows(result)] == ["other"]


def test_an_image_that_moves_while_it_is_listed_is_shown_as_it_is_then(
    here: Path, meanwhile: Callable[[Deed], None]
) -> None:
    """Digest and size of one row are of the same target."""
    meanwhile(move)
    result = run_here(["list", "--format", "json"], here, b"")
    assert (result.code, result.stderr) == (0, b"")
    assert [(row["name"], row["size"]) for row in rows(result)] == [("app", 5), ("other", 5)]
    assert rows(result)[0]["target"] == rows(result)[1]["target"]


def test_an_image_that_no_longer_matches_when_it_is_shown_is_left_out(
    here: Path, meanwhile: Callable[[Deed], None]
) -> None:
    """The filter has seen the record as it was, and what is shown is the one read again."""
    with open_store(str(here / "store")) as store:
        digest = store.images("default").get("app").target.digest
    meanwhile(move)
    result = run_here(["list", "-q", "--format", "{size}", f"target.digest=={digest}"], here, b"")
    assert (result.code, result.stdout, result.stderr) == (0, b"", b"")


def test_content_that_vanishes_under_an_unchanged_image_is_a_loss(
    here: Path, meanwhile: Callable[[Deed], None]
) -> None:
    """Exit 6, not the 3 of a name that is not there."""
    meanwhile(drop_content)
    result = run_here(["list", "--format", "json"], here, b"")
    assert (result.code, b"image 'app'" in result.stderr) == (6, True)
    assert [(row["name"], row["size"]) for row in rows(result)] == [("app", None), ("other", 5)]


@pytest.mark.parametrize(("deed", "code"), [(delete, 3), (move, 0), (drop_content, 6)])
def test_inspect_looks_again_where_content_vanishes(
    here: Path, meanwhile: Callable[[Deed], None], deed: Deed, code: int
) -> None:
    """It takes no lock: a name may be deleted or moved, and gc come, while it walks."""
    meanwhile(deed)
    result = run_here(["inspect", "app", "--format", "json"], here, b"")
    assert result.code == code, result.stderr
    if code == 0:
        assert (rows(result)[0]["size"], result.stderr) == (5, b"")
    if code == 3:
        assert b"image 'app' not found" in result.stderr


def test_manifests_are_read_only_for_what_is_shown(here: Path) -> None:
    """A damaged one does not matter to who asks for names; nor one that the limit cuts off."""
    with open_store(str(here / "store")) as store:
        path = Path(store.engine.layout.object(store.images("default").get("app").target.digest))
    data = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(data[::-1])
    for words in (["-q"], ["-0"], ["--format", "{name} {target.digest}"], ["--limit", "1", "--reverse"]):
        assert run_here(["list", *words], here, b"").code == 0
    for words in ([], ["--format", "{platforms}"], ["-q", "--sort", "size"], ["--limit", "1"]):
        assert run_here(["list", *words], here, b"").code == 6


@pytest.mark.parametrize("command", ["list", "inspect"])
def test_many_large_manifests_take_the_memory_of_one(command: str, tmp_path: Path) -> None:
    """Annotations have no limit but that of a document, and anybody can write an index of a hundred."""
    made = Made(tmp_path / "layout")
    parts = [made.image(made.config(number=n), annotations={"a": "x" * (3 << 20)}) for n in range(24)]
    (tmp_path / "layout/index.json").write_text(
        json.dumps({"schemaVersion": 2, "manifests": [to_dict(made.index(*parts))]})
    )
    assert run_here(["ingest", "oci:layout", "-t", "app"], tmp_path, b"").code == 0
    tracemalloc.start()
    try:
        done = run_here([command, *(["app"] if command == "inspect" else [])], tmp_path, b"")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert done.code == 0, done.stderr
    assert peak < 40 << 20
    assert (b"the tree of 'app' is cut" in done.stderr) is (command == "inspect")


def test_a_large_tree_is_written_as_it_is_made_into_text(tmp_path: Path) -> None:
    """Escaped in one piece, it took a hundred bytes for each character."""
    made = Made(tmp_path / "layout")
    leaves = [Descriptor(LAYER, Digest.of(b"%d" % n), n + 1) for n in range(15_000)]
    index = made.index(*leaves)
    (tmp_path / "layout/index.json").write_text(
        json.dumps({"schemaVersion": 2, "manifests": [to_dict(index)]})
    )
    assert run_here(["ingest", "oci:layout", "-t", "app"], tmp_path, b"").code == 0
    tracemalloc.start()
    try:
        done = run_here(["inspect", "app"], tmp_path, b"")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(json.loads(done.stdout)["images"][0]["tree"]["children"]) == len(leaves)
    assert peak < 40 << 20
