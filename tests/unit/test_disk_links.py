"""Links, pipes and other things planted in a store: none is followed, opened or waited on (T3, T16)."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from imgtool.digest import Digest
from imgtool.disk import DiskStore, open_store
from imgtool.errors import DataLoss, ImgtoolError
from imgtool.model import ContentInfo, Descriptor, Image, Lease, Namespace
from imgtool.ops import gc
from imgtool.stores import Garbage

NS = "default"
DATA = b"the bytes"
DIGEST = Digest.of(DATA)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A store with one of everything."""
    root = tmp_path / "store"
    with open_store(str(root)) as store:
        add(store)
        store.images(NS).create(Image("app", Descriptor("t", DIGEST, len(DATA))))
        store.leases(NS).create(Lease("l"))
        with store.content(NS).writer("ref") as writer:
            writer.write(DATA[:3])
    return root


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A directory outside that must stay as it is, with what a planted link may be meant to reach."""
    home = tmp_path / "home"
    (home / "deep" / "deeper").mkdir(parents=True)
    for path in (home / "file", home / "deep" / "data", home / "deep" / "deeper" / "file"):
        path.write_text("precious" * 1000)
    before = tree(home)
    yield home
    assert tree(home) == before


def tree(path: Path) -> dict[str, tuple[int, str | None]]:
    return {
        str(p.relative_to(path)): (p.lstat().st_mode, p.read_text() if p.is_file() else None)
        for p in path.rglob("*")
    }


def tag(store: DiskStore) -> None:
    store.images(NS).create(Image("new", Descriptor("t", DIGEST, 1)))


def add(store: DiskStore) -> None:
    with store.content(NS).stage(algorithm="sha256") as writer:
        writer.write(DATA)
        writer.commit(expected=DIGEST)


def pipe(path: Path) -> None:
    os.mkfifo(path)


def directory(path: Path) -> None:
    path.mkdir()


def unix_socket(path: Path) -> None:
    here = os.open(".", os.O_RDONLY)
    try:
        os.chdir(path.parent)  # its path may be too long for a socket
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.fchdir(here)
        os.close(here)


def link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


def link_to_a_copy(path: Path) -> None:
    """What it leads to is the very record or object that was there."""
    copy = path.with_name(path.name + ".copy")
    shutil.move(path.with_name(path.name + ".old"), copy)
    path.symlink_to(copy.name)


PLANTS = [pipe, directory, unix_socket, link_to_itself, link_to_a_copy]
each_plant = pytest.mark.parametrize("plant", PLANTS)


def replace(path: Path | str, plant: Callable[[Path], None]) -> None:
    path = Path(path)
    path.rename(path.with_name(path.name + ".old"))
    plant(path)


@each_plant
def test_what_stands_in_the_place_of_a_record_cannot_be_read(
    root: Path, plant: Callable[[Path], None]
) -> None:
    """It is damage, whatever it leads to; gc stops, and nothing hangs."""
    with open_store(str(root)) as store:
        layout = store.engine.layout
        for path, look in (
            (layout.image(NS, "app"), lambda: store.images(NS).get("app")),
            (layout.image(NS, "app"), lambda: list(store.images(NS).list())),
            (layout.image(NS, "app"), lambda: store.images(NS).delete("app")),
            (
                layout.image(NS, "app"),
                lambda: store.images(NS).create(Image("app", Descriptor("t", DIGEST, 1))),
            ),
            (layout.content_record(NS, DIGEST), lambda: store.content(NS).info(DIGEST)),
            (layout.content_record(NS, DIGEST), lambda: list(store.content(NS).list())),
            (layout.content_record(NS, DIGEST), lambda: store.content(NS).update(ContentInfo(DIGEST, 1))),
            (layout.lease(NS, "l"), lambda: store.leases(NS).get("l")),
            (layout.lease(NS, "l"), lambda: store.leases(NS).add("l", "ingests", "x")),
            (layout.namespace_record(NS), lambda: store.namespaces.get(NS)),
            (layout.namespace_record(NS), lambda: list(store.namespaces.list())),
            (layout.namespace_record(NS), lambda: store.namespaces.update(Namespace(NS, {"k": "v"}))),
        ):
            replace(path, plant)
            with pytest.raises(DataLoss):
                look()
            with pytest.raises(DataLoss):
                gc.find(store)
            _put_back(Path(path))


def _put_back(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink()
    for suffix in (".old", ".copy"):
        kept = path.with_name(path.name + suffix)
        if kept.exists():
            kept.rename(path)


@each_plant
def test_what_stands_in_the_place_of_an_object_is_no_object(
    root: Path, plant: Callable[[Path], None]
) -> None:
    """Reading fails, gc stops, and an ingest puts the good bytes there, but for a directory."""
    with open_store(str(root)) as store:
        path = Path(store.engine.layout.object(DIGEST))
        replace(path, plant)
        with pytest.raises(DataLoss):
            store.content(NS).reader(DIGEST)
        with pytest.raises(DataLoss):
            gc.find(store)
        assert not dict(store.objects())
        writer = store.content(NS).stage(algorithm="sha256")
        writer.write(DATA)
        with writer:
            if plant is directory:
                with pytest.raises(ImgtoolError, match="is a directory"):
                    writer.commit()
                return
            with pytest.raises(ImgtoolError, match="already exists"):
                writer.commit()
        with store.content(NS).reader(DIGEST) as reader:
            assert reader.read() == DATA
        assert not path.is_symlink()


@pytest.mark.parametrize(
    "name", ["imgtool.toml", "namespaces/default/log", "locks/store", "locks/ns-default"]
)
@each_plant
def test_what_stands_in_the_place_of_settings_log_or_lock_stops_every_writer(
    root: Path, plant: Callable[[Path], None], name: str
) -> None:
    """A link would be written through, and a pipe waited on."""
    before = (root / name).read_bytes()
    replace(root / name, plant)
    with pytest.raises(DataLoss), open_store(str(root), lock_timeout=0) as store:
        store.images(NS).delete("app")
    if plant is link_to_a_copy:
        assert (root / name).read_bytes() == before


@pytest.mark.parametrize("name", ["objects", "namespaces", "ingests", "tmp", "locks", "cache"])
def test_a_directory_of_the_store_that_is_a_link_stops_every_writer(
    root: Path, home: Path, name: str
) -> None:
    """The store would go on elsewhere, and gc would remove what is there."""
    (root / name).exists() and shutil.move(root / name, root / f"{name}.old")
    (root / name).symlink_to(home)
    with open_store(str(root)) as store:
        for change in (
            lambda: store.images(NS).create(Image("new", Descriptor("t", DIGEST, 1))),
            lambda: store.content(NS).stage(algorithm="sha256"),
            lambda: store.content(NS).writer("ref"),
            lambda: store.removing().__enter__(),
        ):
            with pytest.raises(DataLoss, match="symbolic link"):
                change()


@pytest.mark.parametrize(
    "name",
    [
        "namespaces/default",
        "namespaces/default/images",
        "namespaces/default/content",
        "namespaces/default/content/sha256",
        "namespaces/default/leases",
        "objects/sha256",
    ],
)
def test_a_directory_deeper_down_that_is_a_link_stops_gc(root: Path, home: Path, name: str) -> None:
    """Records behind it would be no roots, and objects behind it would be removed there."""
    shutil.move(root / name, root / "moved")
    (root / name).symlink_to(home)
    with open_store(str(root)) as store, pytest.raises(DataLoss):
        gc.collect(store)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("namespaces", tag),
        ("namespaces/default/images", tag),
        ("namespaces/default/content", add),
        ("namespaces/default/leases", lambda store: store.leases(NS).create(Lease("new"))),
        ("objects", add),
        ("ingests", lambda store: store.content(NS).writer("new")),
        ("tmp", add),
    ],
)
def test_a_file_where_a_directory_must_be_is_a_loss_and_not_an_empty_directory(
    root: Path, name: str, change: Callable[[DiskStore], object]
) -> None:
    """Else gc takes an image's content because its records cannot be seen."""
    shutil.move(root / name, root / "moved")
    (root / name).write_text("not a directory")
    before = tree(root)
    with open_store(str(root)) as store:
        with pytest.raises(DataLoss):
            gc.collect(store)
        assert tree(root) == before
        with pytest.raises(DataLoss):
            change(store)
        if "images" in name:
            with pytest.raises(DataLoss):
                store.images(NS).get("app")
            with pytest.raises(DataLoss):
                list(store.images(NS).list())


@pytest.mark.parametrize(
    "name",
    [
        "namespaces/default",
        "namespaces/default/content/sha256",
        "namespaces/default/content/sha256/2c",
        "objects/sha256",
        "objects/sha256/2c",
        "namespaces/stray",
        "namespaces/stray.txt",
        "namespaces/default/content/blake3",
        "namespaces/default/content/sha256/e0",
        "objects/sha512",
    ],
)
def test_a_file_that_may_have_taken_the_place_of_a_directory_stops_gc(root: Path, name: str) -> None:
    """Nobody can tell what was in there. Of an algorithm without content there is no directory, but neither
    can there be a file.
    """
    if (root / name).exists():
        shutil.move(root / name, root / "moved")
    (root / name).write_bytes(b"")
    before = tree(root)
    with open_store(str(root)) as store:
        for dry_run in (True, False):
            with pytest.raises(DataLoss, match=f"{name}' is a file, expected a directory") as raised:
                gc.collect(store, dry_run=dry_run)
            assert raised.value.hint
    assert tree(root) == before


@pytest.mark.parametrize(
    "name",
    [
        "namespaces/.DS_Store",
        "namespaces/read me",
        "namespaces/default/content/.DS_Store",
        "namespaces/default/content/sha256/.DS_Store",
        "namespaces/default/content/sha256/E0",
        "namespaces/default/content/sha256/e0~",
        "objects/README",
        "objects/sha256/.nfs0001",
    ],
)
def test_a_file_that_no_directory_would_be_called_like_is_passed_over(root: Path, name: str) -> None:
    """File managers and network file systems leave such behind; gc does its work, and is not due for it."""
    (root / name).write_bytes(b"not ours")
    with open_store(str(root)) as store:
        with store.content(NS).stage(algorithm="blake3") as writer:
            writer.write(b"garbage")
            writer.commit()
        assert gc.collect(store).objects
        assert list(store.since_gc()) == []
        assert list(store.namespaces.list())
    assert (root / name).read_bytes() == b"not ours"


def test_a_link_among_the_ingests_is_neither_entered_nor_removed(root: Path, home: Path) -> None:
    """gc removes directories there that hold no ref.toml: a link to one must not count."""
    with open_store(str(root)) as store:
        layout = store.engine.layout
        for path in (layout.ingest(NS, "planted"), f"{layout.ingests}/{'0' * 64}", f"{layout.ingests}/name"):
            os.symlink(home / "deep", path)
        gc.collect(store)
        with pytest.raises(DataLoss, match="symbolic link"):
            store.content(NS).writer("planted")
        with pytest.raises(DataLoss, match="symbolic link"):
            store.content(NS).abort("planted")
        assert [status.ref for status in store.content(NS).statuses()] == ["ref"]


def test_a_foreign_directory_among_the_ingests_is_not_removed(root: Path) -> None:
    """Files that are not ours are fsck's to mention."""
    (root / "ingests" / "mine").mkdir()
    (root / "ingests" / "mine" / "data").write_text("precious")
    with open_store(str(root)) as store:
        gc.collect(store)
    assert (root / "ingests" / "mine" / "data").exists()


@pytest.mark.parametrize("name", ["data", "ref.toml", "lock"])
@each_plant
def test_what_is_planted_in_an_ingest_is_not_followed(
    root: Path, plant: Callable[[Path], None], name: str
) -> None:
    """Whoever resumes it must not write through a link, nor wait for a pipe."""
    with open_store(str(root)) as store:
        path = Path(store.engine.layout.ingest(NS, "ref")) / name
        before = path.read_bytes()
        replace(path, plant)
        try:
            with store.content(NS).writer("ref") as writer:
                writer.write(DATA)
        except ImgtoolError:
            pass
        if plant is link_to_a_copy:
            assert path.with_name(name + ".copy").read_bytes() == before


def test_data_that_has_another_name_is_not_written_into(root: Path, home: Path) -> None:
    """A hard link to an object, planted or left by a power cut: the object must not change."""
    with open_store(str(root)) as store:
        data = store.engine.layout.ingest(NS, "ref") + "/data"
        for target in (store.engine.layout.object(DIGEST), str(home / "file")):
            os.unlink(data)
            os.link(target, data)
            with store.content(NS).writer("ref") as writer:
                assert writer.status().offset == 0
                writer.write(b"other bytes, and more of them")
        with store.content(NS).reader(DIGEST) as reader:
            assert reader.read() == DATA


def test_links_among_the_temporary_files_are_removed_and_not_entered(root: Path, home: Path) -> None:
    """gc removes what nobody has locked; of a link, only the link."""
    litter = root / "tmp" / "0123456789abcdef"
    litter.mkdir()
    (litter / "to-directory").symlink_to(home)
    (litter / "to-file").symlink_to(home / "file")
    (root / "tmp" / "link").symlink_to(home)
    (root / "tmp" / "dangling").symlink_to("nowhere")
    os.mkfifo(root / "tmp" / "pipe")
    (root / "tmp" / "file").write_text("left")
    with open_store(str(root)) as store:
        found = gc.collect(store)
    assert [item.name for item in found.litter] == ["0123456789abcdef", "dangling", "file", "link", "pipe"]
    assert sum(item.size for item in found.litter) < 1000, "the size of what a link leads to was counted"
    assert not list((root / "tmp").iterdir())


def test_garbage_is_removed_and_not_what_its_links_lead_to(root: Path, home: Path) -> None:
    """Somebody may have planted one in the instant between the look and the removal."""
    with open_store(str(root)) as store:
        path = Path(store.engine.layout.object(DIGEST))
        path.unlink()
        path.symlink_to(home / "file")
        with store.removing() as remove:
            remove(Garbage({NS: [DIGEST]}, {NS: ["l"]}, {DIGEST: 1}, []))
    assert not path.is_symlink()
