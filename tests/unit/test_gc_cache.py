"""What gc remembers from one run to the next, and that it never decides wrongly by it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from imgtool import workers
from imgtool.digest import Digest
from imgtool.disk import DiskStore, atomic, cache, open_store, read, remembered, scan
from imgtool.errors import DataLoss, FailedPrecondition
from imgtool.memory import MemoryStore
from imgtool.model import ContentInfo, Image
from imgtool.ops import documents, gc
from imgtool.stores import Store

from .gc_world import (
    EXPIRE,
    LAYER,
    NS,
    OTHER,
    REF,
    ROOT,
    add,
    add_told,
    label,
    manifest,
    objects,
    recorded,
    tag,
)

DIRECTORIES, DOCUMENTS = "gc-content", "gc-documents"


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is old enough to be remembered, and worth it."""
    monkeypatch.setattr(read, "_SETTLED", -1)
    monkeypatch.setattr(cache, "_FEW", 0)
    monkeypatch.setattr(documents, "_FEW", 0)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(root: Path) -> Iterator[DiskStore]:
    with open_store(str(root)) as store:
        yield store


@pytest.fixture
def read_paths(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of the records and objects that are opened."""
    opened: list[str] = []
    open_regular, small_files = read.open_regular, read.small_files

    def counted(path: str) -> tuple[int, os.stat_result]:
        if "/cache/" not in path and not path.endswith(("/log", "namespace.toml", "imgtool.toml")):
            opened.append(path)
        return open_regular(path)

    def counted_all(directory: str, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        opened.extend(f"{directory}/{name}" for name in names)
        return small_files(directory, names)

    monkeypatch.setattr(read, "open_regular", counted)
    monkeypatch.setattr(read, "small_files", counted_all)
    return opened


def image(store: Store, name: str) -> set[Digest]:
    config, layer = add(store, f"config of {name}".encode()), add(store, f"layer of {name}".encode())
    top = add(store, manifest(config, layer))
    tag(store, name, top, "application/vnd.oci.image.manifest.v1+json")
    return {top, config, layer}


def test_a_second_gc_reads_only_the_images(store: DiskStore, read_paths: list[str]) -> None:
    """The roots, which never come from the cache."""
    image(store, "a")
    image(store, "b")
    gc.collect(store)
    read_paths.clear()
    assert not any(gc.collect(store))
    assert [Path(path).name for path in read_paths] == ["a.toml", "b.toml"]


def test_of_images_a_second_look_reads_what_has_changed(store: DiskStore, read_paths: list[str]) -> None:
    """Though their directory is another: that look holds the lock."""
    for name in ("a", "b", "c"):
        image(store, name)
    images = store.images(NS)
    with store.remembering():
        before = images.targets()
        assert images.targets() == before
        images.delete("a")
        images.update(images.get("b")._replace(labels={EXPIRE: "x"}), "labels")
        image(store, "d")
        listed = {i.name: (i.target.digest, dict(i.labels)) for i in images.list()}
        read_paths.clear()
        assert {name: (t.digest, t.labels) for name, t in images.targets().items()} == listed
        assert sorted(Path(path).name for path in read_paths) == ["b.toml", "d.toml"]


def test_what_has_not_changed_is_not_listed_again(store: DiskStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """By either of those who read the images, each of which has its own."""
    image(store, "a")
    images = store.images(NS)
    scanned: list[str] = []
    scan = read._scan

    def counted(directory: str) -> set[str]:
        scanned.append(directory)
        return scan(directory)

    monkeypatch.setattr(read, "_scan", counted)
    with store.remembering():
        for look in (images.targets, lambda: [i.name for i in images.list()]):
            found = look()
            assert scanned
            scanned.clear()
            assert look() == found
            assert scanned == []


def test_what_has_changed_since_is_read(store: DiskStore, read_paths: list[str]) -> None:
    """One directory of records is another, all others are as they were."""
    kept = image(store, "a")
    gc.collect(store)
    leaf = add(store, b"kept by a label alone")
    label(store, sorted(kept)[0], {f"{REF}.more": leaf})
    gone = add(store, b"gone")
    read_paths.clear()
    assert set(gc.collect(store).objects) == {gone}
    assert objects(store) == kept | {leaf}
    assert len([path for path in read_paths if "/content/" in path]) <= 2 * 4


def test_a_label_that_goes_is_noticed(store: DiskStore) -> None:
    """Replacing a record changes its directory."""
    rooted = add(store, b"x")
    label(store, rooted, {ROOT: "yes"})
    gc.collect(store)
    assert recorded(store) == {rooted}
    store.content(NS).update(ContentInfo(rooted, 1, {}), "labels")
    assert set(gc.collect(store).objects) == {rooted}


def test_sizes_and_labels_come_back_as_they_were(store: DiskStore, read_paths: list[str]) -> None:
    """Also of content that has none, and in every namespace; in order."""
    for namespace in (NS, OTHER):
        for n in range(9):
            label(store, add(store, b"x" * n, namespace), {f"{ROOT}.ä": "\n", "k": "v"}, namespace)
        label(store, add(store, b"", namespace), {ROOT: "yes"}, namespace)
        tag(store, "a", add(store, b"no label", namespace), LAYER, namespace)
    plain = [list(store.content(namespace).list()) for namespace in (NS, OTHER)]
    gc.collect(store)
    read_paths.clear()
    with store.remembering():
        for namespace, records in zip((NS, OTHER), plain, strict=True):
            sizes, labels, _ = store.content(namespace).inventory()
            assert [*sizes.items()] == [(info.digest, info.size) for info in records]
            of_gc = {info.digest: {k: v for k, v in info.labels.items() if k != "k"} for info in records}
            assert labels == {digest: told for digest, told in of_gc.items() if told}
        assert list(store.objects()) == sorted((info.digest, info.size) for info in plain[0])
    assert read_paths == []


def test_an_object_that_is_not_as_its_record_says_comes_back_as_it_is(store: DiskStore, root: Path) -> None:
    """Sizes that records and objects have in common are kept once."""
    digest, other = add(store, b"whole"), add(store, b"other")
    (path,) = root.glob(f"objects/*/*/{digest.encoded[2:]}")
    path.chmod(0o600)
    path.write_bytes(b"cut")
    for _ in range(2):
        with store.remembering(keep=True):
            assert store.content(NS).inventory().sizes == {digest: 5, other: 5}
            assert dict(store.objects()) == {digest: 3, other: 5}


@pytest.mark.parametrize("name", [DIRECTORIES, DOCUMENTS])
@pytest.mark.parametrize("damage", ["cut", "flip", "other", "empty", "nonsense", "link"])
def test_a_damaged_cache_is_none(store: DiskStore, root: Path, name: str, damage: str) -> None:
    """Whatever is done to it."""
    kept = image(store, "a")
    gc.collect(store)
    path = root / "cache" / name
    data = path.read_bytes()
    path.unlink()
    if damage == "link":
        path.symlink_to("/dev/zero")
    else:
        head, _, body = data.partition(b"\n")
        path.write_bytes(
            {
                "cut": data[:-1],
                "flip": data[:-9] + bytes([data[-9] ^ 1]) + data[-8:],
                "other": head.replace(b"imgtool ", b"imgtool 9") + b"\n" + body,
                "empty": b"",
                "nonsense": cache._head(b"[1]") + b"\n[1]",
            }[damage]
        )
    gone = add(store, b"gone")
    assert set(gc.collect(store).objects) == {gone}
    assert objects(store) == kept


def test_a_copy_of_the_store_does_not_believe_the_cache(store: DiskStore, root: Path, tmp_path: Path) -> None:
    """Its directories are others, whatever times they were given."""
    import shutil

    image(store, "a")
    gc.collect(store)
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    (victim,) = copy.glob(f"namespaces/{NS}/content/*/{sorted(recorded(store))[0].encoded[:2]}/*.toml")
    victim.chmod(0o600)
    victim.write_text("rotten")
    with open_store(str(copy)) as other, pytest.raises(DataLoss):
        gc.collect(other)


@pytest.fixture
def ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """What can be read ahead is, as by several processes."""
    monkeypatch.setattr(remembered, "_MANY", 1)
    monkeypatch.setattr(workers, "processes", lambda: 2)
    monkeypatch.setattr(workers, "share", lambda work, items, least: [work(items[::2]), work(items[1::2])])


@pytest.mark.usefixtures("ahead")
def test_images_are_read_with_content(store: DiskStore, read_paths: list[str]) -> None:
    """Of all namespaces, once, and not one by one."""
    for n in range(70):
        tag(store, f"a/{n}", Digest.of(b"%d" % n), LAYER)
        tag(store, f"b{n}", Digest.of(b"%d" % n), LAYER, OTHER)
    put = [store.images(namespace).targets() for namespace in (NS, OTHER)]
    read_paths.clear()
    with store.remembering():
        store.content(NS).inventory()
        assert len(read_paths) == len(set(read_paths)) == 140
        assert [store.images(namespace).targets() for namespace in (NS, OTHER)] == put
        assert len(read_paths) == 140
        store.content(OTHER).inventory()
    assert len(read_paths) == 140


@pytest.mark.usefixtures("ahead")
@pytest.mark.parametrize("settled", [True, False])
def test_an_image_that_is_changed_after_it_was_read_ahead_is_read_again(
    store: DiskStore, root: Path, monkeypatch: pytest.MonkeyPatch, settled: bool
) -> None:
    """Its directory has changed; so soon that nothing of it is believed, or only what is old."""
    if not settled:
        monkeypatch.setattr(read, "_SETTLED", 60_000_000_000)
    old, new = Digest.of(b"old"), Digest.of(b"new")
    for name in "abc":
        tag(store, name, old, LAYER)
    with store.remembering(), open_store(str(root)) as other:
        store.content(NS).inventory()
        target = other.images(NS).get("b").target
        other.images(NS).update(Image("b", target._replace(digest=new)), "target")
        other.images(NS).delete("c")
        tag(other, "d", new, LAYER)
        targets = store.images(NS).targets()
        assert {name: target.digest for name, target in targets.items()} == {"a": old, "b": new, "d": new}


def test_of_images_that_have_just_been_changed_by_hand_nothing_is_known(
    store: DiskStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another change could leave their directory as it looks."""
    monkeypatch.setattr(read, "_SETTLED", 60_000_000_000)
    tag(store, "a", Digest.of(b"a"), LAYER)
    images = root / "namespaces" / NS / "images"
    assert scan._unread(str(images))[0].identity == read.identity(str(images))
    (images / "a.toml").rename(images / "b.toml")
    assert scan._unread(str(images))[0].identity == ()


def furnished(store: DiskStore) -> dict[Digest, dict[str, str]]:
    """Much that is kept, labelled in each way, and as much garbage; what is kept, with its labels for gc."""
    kept = []
    for n in range(100):
        kept.append(add(store, b"kept %d" % n))
        add(store, b"gone %d" % n)
        add(store, b"labelled and gone %d" % n)
        label(store, Digest.of(b"labelled and gone %d" % n), {f"{REF}.x": kept[-1]})
    labels = {digest: {f"{ROOT}.{digest[-2:]}": "yes"} for digest in kept}
    for digest, of in labels.items():
        label(store, digest, of)
    for n in range(90):
        top = add_told(store, manifest(*kept[n : n + 2], subject=kept[n + 2]), labelled=bool(n % 2))
        if n % 3:
            label(store, top, {ROOT: "yes"})
            labels[top] = {}
    return labels


def test_what_a_gc_has_left_the_next_need_not_read(
    store: DiskStore, root: Path, read_paths: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is known after the removing, as it is found where nothing is known."""
    kept = furnished(store)
    for directory in root.glob("objects/*/*"):
        atomic.stamp(str(directory), time.time_ns())
    monkeypatch.setattr(read, "_SETTLED", 60_000_000_000)  # what is stamped alone is old enough
    with store.remembering(keep=True):
        store.content(NS).inventory()
        list(store.objects())
    assert len(gc.collect(store).objects) == 200
    plain = store.content(NS).inventory(), dict(store.objects())
    assert plain[1].keys() == objects(store) > kept.keys()
    read_paths.clear()
    with store.remembering():
        again = store.content(NS).inventory(), dict(store.objects())
    assert read_paths == []
    assert again == plain
    assert not any(gc.collect(store))


def test_a_directory_that_cannot_be_told_to_be_the_same_is_not_remembered(
    store: DiskStore, read_paths: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the clock of the file system is so coarse that a stamp does not show."""
    furnished(store)
    monkeypatch.setattr(atomic, "stamp", lambda directory, ns: None)
    with store.remembering(keep=True):
        found = gc._look(store, documents.Documents("graph"))
        monkeypatch.setattr(read, "_SETTLED", 60_000_000_000)
        with store.removing() as remove:
            remove(found.garbage)
    read_paths.clear()
    with store.remembering():
        store.content(NS).inventory()
    assert read_paths


@pytest.mark.parametrize("what", ["content", "objects"])
def test_of_what_changes_beside_the_removing_the_next_gc_knows_nothing(
    store: DiskStore, root: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """By a program that waits for no lock."""
    kept = furnished(store)
    unchanged = remembered.Remembered.unchanged
    moved: list[Path] = []

    def meddle(self: remembered.Remembered, directories: Iterable[str]) -> set[str]:
        for directory in directories:
            path = next((p for p in Path(directory).iterdir() if p.stem in names and p not in moved), None)
            if path and f"/{what}/" in directory:
                moved.append(path)
                path.rename(root / path.name)
        return unchanged(self, directories)

    names = {digest.encoded[2:] for digest in kept}
    monkeypatch.setattr(remembered.Remembered, "unchanged", meddle)
    gc.collect(store)
    assert len(moved) > 9
    plain = store.content(NS).inventory(), dict(store.objects())
    with store.remembering():
        assert (store.content(NS).inventory(), dict(store.objects())) == plain


@pytest.mark.parametrize("what", ["content", "objects"])
def test_what_comes_back_while_its_directory_is_emptied_is_found_by_the_next_gc(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Put there by a program that waits for no lock, just before gc stamps the directory."""
    furnished(store)
    unlink, stamp = atomic.Batch.unlink, atomic.stamp
    taken: dict[str, tuple[str, bytes]] = {}

    def kept(self: atomic.Batch, path: str) -> None:
        if f"/{what}/" in path:
            taken.setdefault(os.path.dirname(path), (path, Path(path).read_bytes()))
        unlink(self, path)

    def stamped(directory: str, ns: int) -> None:
        if directory in taken:
            path, data = taken[directory]
            Path(path).write_bytes(data)
            back.append(path)
        stamp(directory, ns)

    back: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(atomic.Batch, "unlink", kept)
        patch.setattr(atomic, "stamp", stamped)
        gc.collect(store)
    assert len(back) > 9
    plain = store.content(NS).inventory(), dict(store.objects())
    with store.remembering():
        assert (store.content(NS).inventory(), dict(store.objects())) == plain


def test_directories_in_which_nothing_is_left_are_removed(store: DiskStore, root: Path) -> None:
    """And those alone."""
    kept = image(store, "a")
    taken = {digest.encoded[:2] for digest in kept}
    gone = [data for n in range(40) if Digest.of(data := b"%d" % n).encoded[:2] not in taken]
    assert len(gone) > 20
    for data in gone:
        add(store, data)
    gc.collect(store)
    assert objects(store) == kept
    for above in (root / "objects", root / "namespaces" / NS / "content"):
        assert {path.name for path in above.glob("sha256/*")} == taken


def test_each_directory_is_listed_for_all_namespaces_once(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading ahead for each namespace again would cost their number squared."""
    monkeypatch.setattr(workers, "processes", lambda: 2)
    names = [f"n{n}" for n in range(9)]
    for name in names:
        add(store, b"x", name)
    listed: list[str] = []
    directories = read.listed

    def counted(directory: str, **how: bool) -> read.Seen[list[str]]:
        listed.append(directory)
        return directories(directory, **how)

    monkeypatch.setattr(read, "listed", counted)
    with store.remembering():
        for name in names:
            store.content(name).inventory()
        assert len([path for path in listed if path.endswith("/n3/content")]) == 2


def test_a_dry_run_keeps_nothing(store: DiskStore, root: Path) -> None:
    """It writes nothing."""
    image(store, "a")
    gc.collect(store, dry_run=True)
    assert not (root / "cache").exists()


@pytest.mark.parametrize("write", [1, 2])
@pytest.mark.parametrize("is_garbage", [True, False])
def test_only_what_may_be_written_is(
    store: DiskStore, root: Path, monkeypatch: pytest.MonkeyPatch, write: int, is_garbage: bool
) -> None:
    """A gc that is going to refuse leaves nothing; else each is written once."""
    kept = image(store, "a")
    if is_garbage:
        add(store, b"gone")
    settings = root / "imgtool.toml"
    settings.chmod(0o600)
    settings.write_text(f"[format]\nread = 1\nwrite = {write}\n")
    saved: list[str] = []
    save = cache.save

    def counted(*args: Any) -> None:
        saved.append(args[2])
        save(*args)

    monkeypatch.setattr(cache, "save", counted)
    before = set((root / "tmp").iterdir())
    with open_store(str(root)) as again:
        if write == 1 or not is_garbage:
            gc.collect(again)
            assert objects(again) == kept
            assert saved == [DIRECTORIES, DOCUMENTS] * (write == 1)
        else:
            with pytest.raises(FailedPrecondition):
                gc.collect(again)
    for name in (DIRECTORIES, DOCUMENTS):
        assert (root / "cache" / name).exists() == (write == 1)
    assert set((root / "tmp").iterdir()) == before


def test_what_is_young_is_not_remembered(
    store: DiskStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It could change once more within the clock's step, and look the same."""
    monkeypatch.setattr(read, "_SETTLED", 60_000_000_000)
    image(store, "a")
    for record in root.glob("namespaces/*/content/*/*/*.toml"):
        (record.parent / "other").touch()
    gc.collect(store)
    assert not (root / "cache" / DIRECTORIES).exists()


def test_what_is_young_and_stamped_is_remembered(
    store: DiskStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change would take the stamp away. Objects have no stamp."""
    monkeypatch.setattr(read, "_SETTLED", 60_000_000_000)
    kept = image(store, "a")
    gc.collect(store)
    _, saved = cache.load(store.engine.layout, DIRECTORIES)
    assert len(saved) == len(kept)
    assert all(directory.startswith("namespaces/") for directory in saved)
    (record,) = root.glob(f"namespaces/*/content/*/*/{min(kept)[9:]}.toml")
    record.unlink()
    with store.remembering():
        assert min(kept) not in store.content(NS).inventory().sizes
    assert time.time_ns() - root.stat().st_mtime_ns < 60_000_000_000


def test_a_document_is_read_once_by_the_twin_too() -> None:
    """What is kept is the same in every store: what a digest names."""
    store = MemoryStore()
    kept = image(store, "a")
    gc.collect(store)
    assert {*store.recall(DOCUMENTS)} == {"application/vnd.oci.image.manifest.v1+json"}
    add(store, b"gone")
    assert gc.collect(store).objects
    assert objects(store) == kept


def test_nothing_is_in_the_way_of_a_gc_on_a_full_disk(
    store: DiskStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache needs space, and gc must not."""
    from imgtool.disk import atomic
    from imgtool.errors import ResourceExhausted

    def full(path: str, data: bytes) -> None:
        raise ResourceExhausted("no space")

    add(store, b"gone")
    tag(store, "a", add(store, b"kept"), LAYER)
    monkeypatch.setattr(atomic, "write_new", full)
    assert gc.collect(store).objects
    assert not list(root.glob("cache/*"))


def test_an_image_that_counts_as_deleted_is_there_for_the_next_look(store: DiskStore) -> None:
    """Both looks go by what was remembered."""
    parts = image(store, "a")
    with store.remembering():
        assert set(gc.find(store, without=[(NS, "a")]).objects) == parts
        assert not any(gc.find(store))
