"""gc on files: damage stops it, locks keep it out, a crash loses nothing. See FAULTS F1, F3, F11, F12."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from imgtool import clock
from imgtool.digest import Digest
from imgtool.disk import DiskStore, atomic, log, open_store
from imgtool.disk.content import DiskContent
from imgtool.disk.reader import FileReader
from imgtool.errors import DataLoss, NotFound, Unavailable
from imgtool.model import ContentInfo, Descriptor, Image, replace
from imgtool.oci import media
from imgtool.ops import gc
from imgtool.ops.hold import lease_for
from imgtool.stores import Commit, Garbage, Put

from .gc_world import EXPIRE, NS, REF, ROOT, add, add_told, entry, index, manifest, objects, recorded, tag

LONG_AGO = "2001-01-01T00:00:00Z"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(root: Path) -> Iterator[DiskStore]:
    with open_store(str(root)) as opened:
        yield opened


def image(store: DiskStore, name: str = "a") -> tuple[Digest, Digest, Digest]:
    """An image; its manifest, config and layer."""
    config, layer = add(store, b"{}"), add(store, f"layer of {name}".encode())
    top = add(store, manifest(config, layer))
    tag(store, name, top, media.OCI_MANIFEST)
    return top, config, layer


def files(root: Path) -> dict[str, bytes]:
    """Every file of a store but locks, with its bytes."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and "locks" not in path.parts
    }


def rewrite(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)
    path.chmod(0o444)


def flip(path: Path, at: int, bit: int = 0) -> None:
    """Change one bit of a file."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    rewrite(path, bytes(data))


def object_path(store: DiskStore, digest: Digest) -> Path:
    return Path(store.engine.layout.object(digest))


# --- damage ----------------------------------------------------------------------------------------

Damage = Callable[[DiskStore, Path], None]


def _remove_object(store: DiskStore, root: Path) -> None:
    object_path(store, Digest.of(b"layer of a")).unlink()


def _shorten_object(store: DiskStore, root: Path) -> None:
    rewrite(object_path(store, Digest.of(b"layer of a")), b"layer")


def _link_object(store: DiskStore, root: Path) -> None:
    path = object_path(store, Digest.of(b"layer of a"))
    path.rename(root.parent / "elsewhere")
    path.symlink_to(root.parent / "elsewhere")


def _flip_in_manifest(store: DiskStore, root: Path) -> None:
    flip(object_path(store, store.images(NS).get("a").target.digest), 30)


def _flip_in_record(kind: str) -> Damage:
    def damage(store: DiskStore, root: Path) -> None:
        path = next(path for path in sorted((root / "namespaces" / NS).rglob("*.toml")) if kind in str(path))
        flip(path, 20, 1)

    damage.__name__ = f"flip_in_{kind.strip('/.')}"
    return damage


def _rename_image(store: DiskStore, root: Path) -> None:
    path = root / "namespaces" / NS / "images" / "a.toml"
    path.rename(path.with_name("b.toml"))


def _rename_image_to_no_name(store: DiskStore, root: Path) -> None:
    path = root / "namespaces" / NS / "images" / "a.toml"
    path.rename(path.with_name("a (copy).toml"))


def _rename_image_to_a_hash(store: DiskStore, root: Path) -> None:
    path = root / "namespaces" / NS / "images" / "a.toml"
    path.rename(path.with_name(f"~{'0' * 64}.toml"))


def _rename_content(store: DiskStore, root: Path) -> None:
    path = next((root / "namespaces" / NS / "content").rglob("*.toml"))
    path.rename(path.with_name("copy.toml"))


def _remove_namespace_record(store: DiskStore, root: Path) -> None:
    (root / "namespaces" / NS / "namespace.toml").unlink()


@pytest.mark.parametrize(
    "damage",
    [
        _remove_object,
        _shorten_object,
        _link_object,
        _flip_in_manifest,
        _flip_in_record("/images/"),
        _flip_in_record("/content/"),
        _flip_in_record("/leases/"),
        _flip_in_record("/namespace.toml"),
        _rename_image,
        _rename_image_to_no_name,
        _rename_image_to_a_hash,
        _rename_content,
        _remove_namespace_record,
    ],
    ids=lambda damage: damage.__name__.strip("_"),
)
def test_damage_stops_gc_before_anything_is_removed(store: DiskStore, root: Path, damage: Damage) -> None:
    """What cannot be read may be what something hangs on. In a dry run too."""
    image(store)
    gone = add(store, b"gone")
    store.publish(NS, hold=lease_for(add(store, b"held")))
    damage(store, root)
    before = files(root)
    for dry_run in (True, False):
        with pytest.raises(DataLoss):
            gc.collect(store, dry_run=dry_run)
    assert files(root) == before
    assert object_path(store, gone).exists()


@pytest.mark.parametrize("bit", range(8))
def test_no_flipped_bit_makes_a_manifest_a_leaf(store: DiskStore, bit: int) -> None:
    """Content that nothing but its first byte tells from a layer: an image by hand, under gc.root."""
    config, layer = add(store, b"{}"), add(store, b"layer")
    top = add(store, manifest(config, layer), labels={ROOT: "x"})
    flip(object_path(store, top), 0, bit)
    with pytest.raises(DataLoss, match=top):
        gc.collect(store)


def test_a_damaged_referrer_stops_gc(store: DiskStore) -> None:
    """Nothing reaches it, but it may be about something that lives."""
    top, config, _ = image(store)
    referrer = add(store, manifest(config, subject=top))
    flip(object_path(store, referrer), 50)
    with pytest.raises(DataLoss, match=referrer):
        gc.collect(store)


def test_layers_are_not_read(store: DiskStore) -> None:
    """However damaged: fsck's business. So gc costs the same for any size of image."""
    _, _, layer = image(store)
    flip(object_path(store, layer), 3)
    assert not any(gc.collect(store))


class Watched(DiskStore):
    """A store that remembers which content was opened."""

    def __init__(self, store: DiskStore) -> None:
        super().__init__(store.engine)
        self.opened: list[Digest] = []

    def content(self, namespace: str) -> DiskContent:
        opened = self.opened

        class Content(DiskContent):
            def reader(self, digest: Digest) -> FileReader:
                opened.append(digest)
                return super().reader(digest)

        return Content(self.engine, namespace)


@pytest.mark.parametrize("labelled", [True, False], ids=["labelled", "plain"])
def test_of_images_alive_or_dead_only_the_manifests_are_opened(store: DiskStore, labelled: bool) -> None:
    """Not a byte of a layer or config, so that gc costs the same for any size of image; nor of a lone blob
    that is too large for a manifest. Each manifest is read once, though gc looks twice.
    """
    documents, blobs = set(), set()
    for name in ("kept", "gone"):
        config, layer = add(store, b'{"of": "%b"}' % name.encode() + b" " * 999), add(store, bytes(999))
        refs = {f"{REF}.config": config, f"{REF}.l.0": layer} if labelled else {}
        top = add(store, manifest(config, layer, annotations={"n": name}), labels=refs)
        outer = index(entry(top, media.OCI_MANIFEST))
        tag(store, name, add(store, outer, labels={f"{REF}.m.0": top} if labelled else {}), media.OCI_INDEX)
        documents |= {top, Digest.of(outer)}
        blobs |= {config, layer}
    add(store, bytes(5 << 20))
    store.images(NS).delete("gone")
    watched = Watched(store)
    assert len(gc.collect(watched).content[NS]) == 4
    assert set(watched.opened) == documents
    assert not blobs & set(watched.opened)
    assert all(watched.opened.count(digest) <= 2 for digest in documents)


def test_what_records_tell_is_not_opened(store: DiskStore) -> None:
    """Neither alive nor dead, nor what is about one of them; its damage is for fsck."""
    tops = []
    for name in ("kept", "gone"):
        config, layer = add(store, b'{"of": "%b"}' % name.encode()), add(store, name.encode())
        top = add_told(store, manifest(config, layer, annotations={"n": name}), labelled=True)
        outer = add_told(store, index(entry(top, media.OCI_MANIFEST)), labelled=True)
        about = add_told(store, manifest(add(store, b"{%b}" % name.encode()), subject=outer), labelled=True)
        tag(store, name, outer, media.OCI_INDEX)
        tops.append({config, layer, top, outer, about, Digest.of(b"{%b}" % name.encode())})
        flip(object_path(store, top), 50)
    kept, gone = tops
    store.images(NS).delete("gone")
    watched = Watched(store)
    assert set(gc.collect(watched).content[NS]) == gone
    assert objects(store) == kept
    assert watched.opened == []


def test_what_a_record_tells_of_another_type_is_not_believed(store: DiskStore) -> None:
    """An image says that its target is an index, the record of that says manifest: then the bytes decide."""
    config, layer = add(store, b"{}"), add(store, b"layer")
    top = add_told(store, manifest(config, layer))
    tag(store, "a", top, media.OCI_INDEX)
    with pytest.raises(DataLoss, match="its descriptor says"):
        gc.collect(store)


def test_by_labels_alone_nothing_is_opened(root: Path, store: DiskStore) -> None:
    """containerd's rule needs records alone."""
    image(store)
    with (root / "imgtool.toml").open("a") as settings:
        settings.write('[gc]\nfollow = "labels"\n')
    with open_store(str(root)) as again:
        watched = Watched(again)
        assert len(gc.collect(watched).content[NS]) == 2
        assert not watched.opened


def test_files_that_are_not_ours_stay(store: DiskStore, root: Path) -> None:
    """fsck tells of them; gc neither stops nor touches them."""
    top, _, _ = image(store)
    others = [
        root / "README",
        root / "namespaces" / NS / "images" / ".a.toml.swp",
        root / "namespaces" / NS / "images" / "notes",
        object_path(store, top).with_name("extra"),
        root / "objects" / "sha256" / "file",
    ]
    for path in others:
        path.write_bytes(b"mine")
    gc.collect(store)
    assert all(path.read_bytes() == b"mine" for path in others)


# --- litter ----------------------------------------------------------------------------------------


def test_the_litter_of_a_dead_process_goes_and_that_of_a_living_one_stays(
    store: DiskStore, root: Path
) -> None:
    """The lock tells, not an age: a process may sleep for hours."""
    program = (
        "import sys, os\n"
        "from imgtool.disk import open_store\n"
        "writer = open_store(sys.argv[1]).content('default').stage(algorithm='sha256')\n"
        "writer.write(b'unfinished')\n"
        "print('ready', flush=True)\n"
        "sys.stdin.read()\n"
    )
    image(store)
    process = subprocess.Popen(
        [sys.executable, "-c", program, root],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        with store.content(NS).stage(algorithm="sha256") as mine:
            mine.write(b"mine")
            assert not any(gc.collect(store))
            process.send_signal(signal.SIGKILL)
            process.wait()
            (litter,) = gc.collect(store).litter
            assert litter.kind == "temporary"
            assert litter.size >= len(b"unfinished")
            mine.commit()
    assert not any(gc.find(store).litter)


# --- two looks -------------------------------------------------------------------------------------


class Meddler(DiskStore):
    """A store that somebody changes while gc waits for the lock."""

    meddle: Callable[[], object] = staticmethod(lambda: None)

    @contextmanager
    def removing(self, about: int = 0) -> Iterator[Callable[[Garbage], None]]:
        self.meddle()
        with super().removing(about) as remove:
            yield remove


@pytest.mark.parametrize("count", [31, 32])
def test_what_others_have_written_is_flushed_before_they_are_shut_out(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Where much is removed: then all of the file system is synced, which may take long."""
    flushed: list[str] = []

    def flush(directory: str) -> None:
        with open_store(directory) as other:
            add(other, b"nobody is shut out")
        flushed.append(directory)

    for n in range(count):
        add(store, b"%d" % n)
    monkeypatch.setattr(atomic, "sync_all", flush)
    gc.collect(store)
    assert flushed == [store.engine.layout.root] * (2 * count >= atomic.SYNCFS_FROM)
    assert not objects(store)


def test_what_gets_a_name_between_the_two_looks_is_kept(store: DiskStore) -> None:
    """The second look is made while nobody can change anything."""
    one, two = add(store, b"one"), add(store, b"two")
    meddler = Meddler(store.engine)
    meddler.meddle = lambda: tag(store, "a", one, media.OCTETS)
    assert gc.collect(meddler).content == {NS: [two]}
    assert recorded(store) == objects(store) == {one}


def test_what_an_image_is_moved_to_between_the_two_looks_is_kept(store: DiskStore) -> None:
    """Its record was written some time before it was renamed into place, as every one is a little."""
    one, two = add(store, b"one"), add(store, b"two")
    tag(store, "a", one, media.OCTETS)
    meddler = Meddler(store.engine)

    def meddle() -> None:
        images = store.images(NS)
        images.update(images.get("a")._replace(target=Descriptor(media.OCTETS, two, 3)), "target")
        os.utime(store.engine.layout.image(NS, "a"), ns=(1, 1))

    add(store, b"gone")
    meddler.meddle = meddle
    gc.collect(meddler)
    assert recorded(store) == objects(store) == {two}


def test_a_clock_that_goes_back_between_the_two_looks_makes_no_image_older(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its record is another file."""
    one, two = add(store, b"one"), add(store, b"two")
    tag(store, "a", one, media.OCTETS)
    meddler = Meddler(store.engine)
    now = clock.wall
    monkeypatch.setattr(clock, "wall", lambda: now() + 3600 * 10**9)

    def meddle() -> None:
        monkeypatch.setattr(clock, "wall", now)
        images = store.images(NS)
        images.update(images.get("a")._replace(target=Descriptor(media.OCTETS, two, 3)), "target")

    add(store, b"gone")
    meddler.meddle = meddle
    gc.collect(meddler)
    assert objects(store) == {two}


def test_what_loses_its_name_between_the_two_looks_goes_with_the_rest(store: DiskStore) -> None:
    """Records that were read in the first look are not believed in the second, if they have changed."""
    top, config, layer = image(store)
    gone = add(store, b"gone")
    meddler = Meddler(store.engine)
    meddler.meddle = lambda: store.images(NS).delete("a")
    assert set(gc.collect(meddler).content[NS]) == {top, config, layer, gone}


def test_a_label_that_changes_between_the_two_looks_counts(store: DiskStore) -> None:
    """Also where the record is old enough to be remembered: it is replaced, and that shows."""
    top, one, two = add(store, b"top"), add(store, b"one"), add(store, b"two")
    time.sleep(2.1)
    tag(store, "a", top, media.OCTETS)
    store.content(NS).update(ContentInfo(top, 3, {"containerd.io/gc.ref.content.0": one}))
    meddler = Meddler(store.engine)
    meddler.meddle = lambda: store.content(NS).update(
        ContentInfo(top, 3, {"containerd.io/gc.ref.content.0": two})
    )
    assert gc.collect(meddler).content == {NS: [one]}


def test_an_image_that_is_given_more_time_between_the_two_looks_is_kept(store: DiskStore) -> None:
    """Its owner renews it while gc waits for the lock; the other goes."""
    for name in ("a", "b"):
        tag(store, name, add(store, name.encode()), media.OCTETS, labels={EXPIRE: LONG_AGO})
    meddler = Meddler(store.engine)
    renewed = replace(store.images(NS).get("a"), labels={EXPIRE: "2201-01-01T00:00:00Z"})
    meddler.meddle = lambda: store.images(NS).update(renewed, "labels")
    assert gc.collect(meddler).images == {NS: ["b"]}
    assert store.images(NS).names() == ["a"]
    assert objects(store) == {Digest.of(b"a")}


# --- images that expire ----------------------------------------------------------------------------


def test_an_image_that_gc_removes_is_in_the_log_as_if_its_owner_had_deleted_it(
    store: DiskStore, root: Path
) -> None:
    """With its record, so that it can be brought back; and no cache goes on naming it."""
    tag(store, "a", add(store, b"x"), media.OCTETS, labels={EXPIRE: LONG_AGO})
    directory = root / "namespaces" / NS / "images"
    before = directory.stat().st_mtime_ns
    gc.collect(store)
    (entry,) = [
        entry
        for entry in log.entries(store.engine.layout.log(NS))
        if entry and entry.get("kind") == "image" and entry["new"] is None
    ]
    assert entry["name"] == entry["old"]["name"] == "a"
    assert entry["old"]["labels"] == {EXPIRE: LONG_AGO}
    assert directory.stat().st_mtime_ns > before
    assert directory.stat().st_mtime_ns & 1


# --- locks -----------------------------------------------------------------------------------------


def test_without_garbage_no_lock_is_waited_for(root: Path) -> None:
    """Nor is a store made where there is none. That gc has looked is written another time."""
    with open_store(str(root), lock_timeout=0) as store:
        assert not any(gc.collect(store))
        assert not root.exists()
        image(store)
        before = files(root)
        with store.engine.locks.changing(NS):
            assert not any(gc.collect(store))
        assert files(root) == before


def test_a_dry_run_takes_no_lock(root: Path) -> None:
    """It answers while others write."""
    with open_store(str(root), lock_timeout=0) as store:
        gone = add(store, b"gone")
        before = files(root)
        with store.engine.locks.changing(NS):
            assert set(gc.collect(store, dry_run=True).objects) == {gone}
        assert files(root) == before


def test_gc_gives_up_rather_than_remove_under_a_frozen_command(root: Path) -> None:
    """The kernel holds the lock of a process that sleeps (F12)."""
    with open_store(str(root), lock_timeout=0.1) as store, open_store(str(root)) as frozen:
        gone = add(store, b"gone")
        with frozen.engine.locks.changing(NS), pytest.raises(Unavailable):
            gc.collect(store)
        assert objects(store) == {gone}


# --- crashes ---------------------------------------------------------------------------------------


class Crash(BaseException):
    """The process ends here."""


def test_killed_at_any_call_gc_has_removed_nothing_that_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the next gc finishes: no record without its object, no manifest without its parts."""
    template = tmp_path / "template"
    with open_store(str(template)) as store:
        alive = {*image(store, "kept")}
        gone, config, _ = image(store, "gone")
        add(store, manifest(config, add(store, b"x"), subject=gone))
        add(store, index(entry(gone, media.OCI_MANIFEST)))
        store.images(NS).delete("gone")
        for name in ("old", "older"):
            tag(store, name, add(store, name.encode()), media.OCTETS, labels={EXPIRE: LONG_AGO})
    do, calls = atomic._do, 0

    def counted(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == limit:
            raise Crash
        return do(call, *args, **kwargs)

    for limit in range(1, 1000):
        root = tmp_path / str(limit)
        shutil.copytree(template, root)
        calls = 0
        with open_store(str(root)) as store, monkeypatch.context() as patch:
            patch.setattr(atomic, "_do", counted)
            with suppress(Crash):
                gc.collect(store)
        with open_store(str(root)) as store:
            assert alive <= recorded(store) <= objects(store)
            left = set(store.images(NS).names())
            assert all(holds(store, Digest.of(name.encode())) for name in left - {"kept"})
            gc.collect(store)
            assert recorded(store) == objects(store) == alive
            assert store.images(NS).names() == ["kept"]
        if calls < limit:
            break
    assert 15 < limit < 999


# --- together --------------------------------------------------------------------------------------


def test_gc_beside_ingest_tag_and_delete_loses_nothing_acknowledged(root: Path) -> None:
    """Threads with a store each, as processes have: locks are by open file. Blobs are shared between
    the images, so that gc always meets content that is about to be named again.
    """
    end = time.monotonic() + 4
    failures: list[BaseException] = []
    named: dict[str, Digest] = {}

    def work(number: int) -> None:
        with open_store(str(root)) as store:
            for i in count():
                if time.monotonic() > end:
                    return
                name = f"{number}-{i % 3}"
                if name in named:
                    store.images(NS).delete(name, target=named.pop(name))
                config, layer = b"{}", bytes([i % 5])
                top = manifest(Digest.of(config), Digest.of(layer))
                parts = [Digest.of(data) for data in (layer, config, top)]
                target = Image(name, Descriptor(media.OCI_MANIFEST, parts[2], len(top)))
                if i % 2:
                    publish(store, [layer, config, top], Put(target))
                else:
                    publish(store, [layer, config, top])
                    try:
                        store.images(NS).create(target, needs=parts)
                    except NotFound:
                        continue  # gc came between, and we were told
                named[name] = parts[2]
                assert all(holds(store, digest) for digest in parts)

    def sweep() -> None:
        with open_store(str(root)) as store:
            while time.monotonic() < end:
                gc.collect(store)

    def guarded(action: Callable[[], None]) -> None:
        try:
            action()
        except BaseException as error:
            failures.append(error)

    actions = [partial(work, 1), partial(work, 2), partial(work, 3), sweep, sweep]
    threads = [threading.Thread(target=guarded, args=[action]) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert not failures, failures
    with open_store(str(root)) as store:
        gc.collect(store)
        assert {image.name: image.target.digest for image in store.images(NS).list()} == named
        assert named
        assert {*named.values()} < recorded(store) == objects(store)
        assert all(holds(store, digest) for digest in recorded(store))


def publish(store: DiskStore, contents: list[bytes], *puts: Put) -> None:
    """Take content, and images of it, in one step."""
    with ExitStack() as stack:
        writers = [stack.enter_context(store.content(NS).stage(algorithm="sha256")) for _ in contents]
        for writer, data in zip(writers, contents, strict=True):
            writer.write(data)
        published = store.publish(NS, [Commit(writer) for writer in writers], puts)
        assert all(isinstance(image, Image) for image in published.images), published.images


def holds(store: DiskStore, digest: Digest) -> bool:
    """Whether the bytes of `digest` are there."""
    with store.content(NS).reader(digest) as reader:
        return Digest.of(reader.read()) == digest


def test_a_store_that_is_being_made_is_no_litter(root: Path) -> None:
    """Somebody's first ingest has made `tmp/` and nothing else."""
    (root / "tmp" / "0123456789abcdef").mkdir(parents=True)
    with open_store(str(root)) as store:
        assert not any(gc.collect(store))
        assert sorted(path.name for path in root.iterdir()) == ["tmp"]
        image(store)
        assert len(gc.collect(store).litter) == 1
