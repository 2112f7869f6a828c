"""Leases of commands: what is held, from when, and until when."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from imgtool import clock
from imgtool.digest import Digest
from imgtool.disk import DiskStore, open_store
from imgtool.errors import ImgtoolError, NotFound
from imgtool.memory import MemoryStore
from imgtool.model import Descriptor, Image, Lease
from imgtool.names import EXPIRE
from imgtool.oci import media
from imgtool.ops import hold, sources
from imgtool.ops.gc import collect
from imgtool.ops.ingest import Ingest
from imgtool.ops.ingest_content import ingest_content
from imgtool.ops.staging import Wanted
from imgtool.stores import Store

NS = "default"
CHILDREN = 1_100  # more than are staged at once, twice
PAST = "2001-01-01T00:00:00Z"


@pytest.fixture(params=["memory", "disk"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "memory":
        yield MemoryStore()
        return
    with open_store(str(tmp_path / "store")) as opened:
        yield opened


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[DiskStore]:
    with open_store(str(tmp_path / "store")) as opened:
        yield opened


def stored(store: Store, path: Path, **wanted: Any) -> Digest:
    """`imgtool content ingest`."""
    source = sources.parse(str(path), sources.FILE)
    return ingest_content(store, NS, source, Wanted(**wanted), progress=lambda _: None)


def ingest(store: Store, path: Path, **wanted: Any) -> list[ImgtoolError]:
    """`imgtool ingest`; the failures."""
    failures: list[ImgtoolError] = []
    run = Ingest(
        store,
        NS,
        Wanted(**wanted),
        on_error=failures.append,
        say=lambda _: None,
        progress=lambda _: None,
    )
    list(run.run([sources.parse(str(path))]))
    return failures


def content(store: Store) -> set[Digest]:
    return {info.digest for info in store.content(NS).list()}


def held(store: Store, id: str) -> set[str]:
    return set(store.leases(NS).get(id).resources.get("content", ()))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of one image with so many layers that parts of it are published before it has its name."""
    files: dict[str, bytes] = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}'}

    def blob(data: bytes, media_type: str) -> dict[str, Any]:
        digest = Digest.of(data)
        files[f"blobs/sha256/{digest.encoded}"] = data
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    manifest = {
        "schemaVersion": 2,
        "config": blob(b"{}", media.OCI_EMPTY),
        "layers": [blob(b"%d" % n, "application/vnd.oci.image.layer.v1.tar") for n in range(CHILDREN)],
    }
    root = blob(json.dumps(manifest).encode(), media.OCI_MANIFEST)
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [root]}).encode()
    path = tmp_path_factory.mktemp("large") / "large.tar"
    with tarfile.open(path, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def after_each_publish(
    monkeypatch: pytest.MonkeyPatch, store: DiskStore, then: Callable[[], object]
) -> list[int]:
    """Call `then` after each step that publishes, as another process might; returns how often it was."""
    publish, calls = store.publish, list[int]()

    def and_then(*args: Any, **kwargs: Any) -> Any:
        published = publish(*args, **kwargs)
        calls.append(1)
        then()
        return published

    monkeypatch.setattr(store, "publish", and_then)
    return calls


def test_an_id_is_made_like_containerds() -> None:
    """Nanoseconds and three random bytes in the base64 of URLs; never an option's look-alike."""
    ids = {hold.new_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(re.fullmatch(r"\d{1,9}-[A-Za-z0-9_-]{4}", id) for id in ids)


def test_only_a_lease_that_holds_will_do(store: Store) -> None:
    """What is put under one whose time is up would be gone with the next gc."""
    leases = store.leases(NS)
    leases.create(Lease("live", {EXPIRE: clock.format_time(clock.wall() + clock.HOUR)}))
    leases.create(Lease("ever"))
    leases.create(Lease("past", {EXPIRE: PAST}))
    hold.require_lease(leases, "live")
    hold.require_lease(leases, "ever")
    with pytest.raises(NotFound, match="expired at 2001"):
        hold.require_lease(leases, "past")
    with pytest.raises(NotFound, match="not found"):
        hold.require_lease(leases, "none")


@pytest.mark.parametrize("before", [False, True], ids=["new", "there"])
def test_content_without_a_name_outlives_gc_until_it_has_one(
    store: Store, tmp_path: Path, before: bool
) -> None:
    """`d=$(imgtool content ingest - <f) && imgtool tag $d x`, also where the store had it, as garbage."""
    (tmp_path / "f").write_bytes(b"data")
    if before:
        store.leases(NS).delete(hold.lease_for(stored(store, tmp_path / "f")).id)
    digest = stored(store, tmp_path / "f")
    collect(store)
    image = Image("x", Descriptor("text/plain", digest, 4))
    store.images(NS).create(image, needs=[digest])
    for lease in store.leases(NS).list():
        store.leases(NS).update(Lease(lease.id, {EXPIRE: PAST}))  # a day later
    collect(store)
    assert content(store) == {digest}
    assert list(store.leases(NS).list()) == []


def test_a_lease_that_is_named_holds_instead(store: Store, tmp_path: Path) -> None:
    """When it goes, what it alone kept goes, and not a day later."""
    (tmp_path / "f").write_bytes(b"data")
    store.leases(NS).create(Lease("l"))
    digest = stored(store, tmp_path / "f", lease="l")
    collect(store)
    assert (content(store), held(store, "l")) == ({digest}, {digest})
    assert [lease.id for lease in store.leases(NS).list()] == ["l"]
    store.leases(NS).delete("l")
    collect(store)
    assert content(store) == set()


def test_all_parts_of_a_large_image_come_under_the_lease(
    disk: DiskStore, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no gc takes one before the image has its name. Other leases are left behind by none."""
    disk.leases(NS).create(Lease("l"))
    calls = after_each_publish(monkeypatch, disk, lambda: collect(disk))
    assert ingest(disk, large, lease="l") == []
    assert len(calls) > 1
    assert len(content(disk)) == CHILDREN + 2
    assert held(disk, "l") == content(disk)
    assert [lease.id for lease in disk.leases(NS).list()] == ["l"]


def test_no_image_gets_its_name_under_a_lease_that_was_removed_meanwhile(
    disk: DiskStore, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What should be under it is not; the user must know."""
    disk.leases(NS).create(Lease("l"))
    after_each_publish(monkeypatch, disk, lambda: disk.leases(NS).delete("l"))
    (failure,) = ingest(disk, large, lease="l")
    assert (type(failure), str(failure)) == (NotFound, "lease 'l' not found")
    assert disk.images(NS).names() == []
    collect(disk)
    assert content(disk) == set()


def test_a_write_with_a_ref_that_breaks_off_is_held_by_the_lease(store: Store, tmp_path: Path) -> None:
    """Its bytes stay for the repeat as long as the lease, and go with it."""
    (tmp_path / "f").write_bytes(b"data")
    store.leases(NS).create(Lease("l"))
    with pytest.raises(ImgtoolError):
        stored(store, tmp_path / "f", lease="l", ref="r", expected_size=5)
    collect(store)
    assert store.leases(NS).get("l").resources == {"ingests": ("r",)}
    assert store.content(NS).status("r").expires is None
    store.leases(NS).delete("l")
    collect(store)
    assert list(store.content(NS).statuses()) == []
