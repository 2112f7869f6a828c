"""What fsck can tell that fixtures cannot show: modes, races, cost, and that it is silent about sound stores.

The kinds of damage are in `fixtures/fsck-*`.
"""

from __future__ import annotations

import errno
import hashlib
import os
import random
import re
import shutil
import tomllib
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from imgtool.digest import BLAKE3, SHA256, Digest
from imgtool.disk import DiskStore, log, open_store
from imgtool.disk.check import ERROR, REMARK, Problem, settled
from imgtool.errors import DataLoss, ImgtoolError, NotFound
from imgtool.model import ContentInfo, Descriptor, Image, Lease, Namespace
from imgtool.oci import media
from imgtool.oci.manifest import parse, references
from imgtool.ops import fsck, gc
from imgtool.stores import Commit, Put

from .gc_world import add, manifest

NS = "default"
SPACES = NS, "other"
TYPE = "application/octet-stream"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(root: Path) -> Iterator[DiskStore]:
    with open_store(str(root)) as opened:
        yield opened


def put(store: DiskStore, name: str, data: bytes, ns: str = NS, algorithm: str = SHA256) -> Digest:
    """Publish `data` as the image `name`, as ingest does."""
    digest = Digest.of(data, algorithm)
    with store.content(ns).stage(algorithm=algorithm) as writer:
        writer.write(data)
        store.publish(ns, [Commit(writer)], [Put(Image(name, Descriptor(TYPE, digest, len(data))), True)])
    return digest


def problems(root: Path, level: str | None = None) -> list[Problem]:
    return [problem for problem in fsck.check(str(root)) if level in (None, problem.level)]


def the_problem(level: str = ERROR) -> Problem:
    return Problem(level, "content", NS, "sha256:0", "its object is missing")


# --- looking again -----------------------------------------------------------------------------------


def looks(path: Path, *then: Callable[[Path], list[Problem]]) -> Callable[[], list[Problem]]:
    """A look that does each of `then` in turn, the last one for ever."""
    turns = list(then)

    def look() -> list[Problem]:
        return (turns.pop(0) if len(turns) > 1 else turns[0])(path)

    return look


def wrong(path: Path) -> list[Problem]:
    return [the_problem()]


def right(path: Path) -> list[Problem]:
    return []


def wrong_while_it_changes(path: Path) -> list[Problem]:
    new = path.with_name("new")
    new.touch()
    new.rename(path)
    return [the_problem()]


def test_what_is_wrong_at_the_first_look_only_is_no_problem(tmp_path: Path) -> None:
    """A gc that removes a record and its object comes between the look at the one and at the other."""
    assert settled(looks(tmp_path / "x", wrong, right)) == []


def test_what_is_wrong_while_the_file_stays_the_same_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    assert settled(looks(tmp_path / "x", wrong), str(tmp_path / "x")) == [the_problem()]


def test_what_is_wrong_only_while_the_file_is_replaced_is_no_problem(tmp_path: Path) -> None:
    """The record was deleted, collected and published anew between two looks: it is another one."""
    (tmp_path / "x").touch()
    look = looks(tmp_path / "x", wrong, wrong_while_it_changes, right)
    assert settled(look, str(tmp_path / "x")) == []


def test_what_is_wrong_after_the_file_has_changed_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    look = looks(tmp_path / "x", wrong, wrong_while_it_changes, wrong)
    assert settled(look, str(tmp_path / "x")) == [the_problem()]


def test_looking_comes_to_an_end_when_the_file_changes_all_the_time(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    assert settled(looks(tmp_path / "x", wrong_while_it_changes), str(tmp_path / "x")) == []


def change_at_random(root: Path, seed: int, steps: int) -> None:
    """Publish, delete and collect a few images over shared content, in two namespaces."""
    choose = random.Random(seed)
    data = [b"%d" % i * 5000 for i in range(4)]
    with open_store(str(root)) as store:
        for _ in range(steps):
            put(store, f"image-{choose.randrange(3)}", choose.choice(data), choose.choice(SPACES))
            for ns in SPACES:
                with suppress(NotFound):
                    store.images(ns).delete(f"image-{choose.randrange(3)}")
            if choose.random() < 0.5:
                gc.collect(store)


@contextmanager
def others_at_work(root: Path, steps: int) -> Iterator[Callable[[], bool]]:
    """Two writers change the store at random meanwhile; tells whether they still do."""
    with ThreadPoolExecutor() as pool:
        work = [pool.submit(change_at_random, root, seed, steps) for seed in (1, 2)]
        yield lambda: not all(one.done() for one in work)
        for one in work:
            one.result()


def test_no_command_beside_it_makes_fsck_report_an_error(root: Path) -> None:
    """Objects and records vanish and come back under its eyes; none of that is damage."""
    runs = 0
    with others_at_work(root, steps=60) as working:
        while working():
            assert problems(root) == []
            runs += 1
    assert runs > 3
    assert problems(root) == []


def copy_as_rsync(source: Path, target: Path) -> None:
    """Copy file by file, in order, whatever happens to the source meanwhile."""
    target.mkdir(mode=0o700)
    with suppress(FileNotFoundError):
        for entry in sorted(os.listdir(source)):
            if (source / entry).is_dir():
                copy_as_rsync(source / entry, target / entry)
            else:
                with suppress(FileNotFoundError):
                    shutil.copy2(source / entry, target / entry)


def lost_in(copy: Path) -> set[str]:
    """The digests of which a store has a record and no whole object, by the standard library alone."""
    lost = set()
    for path in copy.glob("namespaces/*/content/*/*/*.toml"):
        digest = tomllib.loads(path.read_text())["digest"]
        algorithm, _, encoded = digest.partition(":")
        found = copy / "objects" / algorithm / encoded[:2] / encoded[2:]
        if not found.exists() or hashlib.new(algorithm, found.read_bytes()).hexdigest() != encoded:
            lost.add(digest)
    return lost


def judge(copy: Path) -> set[str]:
    """Compare what fsck and gc say of a copy with what it lacks, and return that."""
    lost = lost_in(copy)
    assert {problem.name for problem in problems(copy, ERROR)} == lost
    with open_store(str(copy)) as store:
        needed = {
            image.target.digest
            for ns in SPACES
            for image in store.images(ns).list()
            if image.target.digest in {info.digest for info in store.content(ns).list()}
        }
        there = needed & {digest for digest, _ in store.objects()}
        if lost:
            with pytest.raises(DataLoss):
                gc.collect(store)
        else:
            gc.collect(store)
        assert there <= {digest for digest, _ in store.objects()}
    return lost


def test_fsck_finds_what_a_copy_lacks_that_was_made_around_a_gc(
    store: DiskStore, root: Path, tmp_path: Path
) -> None:
    """rsync takes the records first and the objects later, when a gc has been there."""
    gone = put(store, "gone", b"hello")
    put(store, "app", b"world")
    copy = tmp_path / "copy"
    copy_as_rsync(root, copy)
    shutil.rmtree(copy / "objects")
    store.images(NS).delete("gone")
    gc.collect(store)
    copy_as_rsync(root / "objects", copy / "objects")
    assert judge(copy) == {gone}


def test_fsck_finds_what_copies_lack_that_were_made_during_changes(root: Path, tmp_path: Path) -> None:
    """Files have their old times, and come from different moments. What is whole survives a gc."""
    copies = [tmp_path / f"copy-{i}" for i in range(20)]
    with others_at_work(root, steps=40):
        for copy in copies:
            copy_as_rsync(root, copy)
    for copy in copies:
        judge(copy)


# --- silence -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_fsck_has_nothing_to_say_of_what_imgtool_does(store: DiskStore, root: Path, seed: int) -> None:
    """Every way in which a record may come and go leaves a store that is sound, and a log that agrees
    with it.
    """
    choose = random.Random(seed)
    digests: list[Digest] = []

    def lease() -> None:
        store.leases(NS).create(Lease(f"lease-{choose.randrange(3)}"))

    def expired_lease() -> None:
        store.leases(NS).create(Lease("old", {"containerd.io/gc.expire": "2001-01-01T00:00:00Z"}))

    def ingest() -> None:
        with store.content(NS).writer(f"ref-{choose.randrange(3)}", size=100) as writer:
            writer.write(b"half")

    def label() -> None:
        store.content(NS).update(ContentInfo(choose.choice(digests), 0, {"x": str(choose.random())}))

    actions: list[Callable[[], object]] = [
        lambda: digests.append(
            put(store, f"image-{choose.randrange(4)}", choose.randbytes(9), algorithm=BLAKE3)
        ),
        lambda: store.images(NS).delete(f"image-{choose.randrange(4)}"),
        lambda: store.images(NS).rename("image-1", "image-2"),
        lambda: gc.collect(store),
        lambda: store.leases(NS).add(f"lease-{choose.randrange(3)}", "content", choose.choice(digests)),
        lambda: store.leases(NS).delete(f"lease-{choose.randrange(3)}"),
        lambda: store.namespaces.delete(NS),
        lambda: store.namespaces.update(Namespace(NS, {"a": str(choose.random())})),
        lease,
        expired_lease,
        ingest,
        label,
    ]
    for _ in range(60):
        try:
            choose.choice(actions)()
        except (ImgtoolError, IndexError):
            continue
    assert problems(root) == []


def test_fsck_writes_nothing(store: DiskStore, root: Path) -> None:
    """It must work on a disk that is failing, and on one that is mounted read-only."""
    put(store, "app", b"hello")
    store.close()
    before = {path: path.lstat().st_mtime_ns for path in [root, *root.rglob("*")]}
    problems(root)
    assert {path: path.lstat().st_mtime_ns for path in [root, *root.rglob("*")]} == before


def test_fsck_of_a_directory_that_is_no_store_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").touch()
    assert problems(tmp_path) == []


# --- what fixtures cannot lay out ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "mode"),
    [
        ("imgtool.toml", 0o644),
        ("objects", 0o755),
        ("objects/sha256/2c", 0o700 | 0o022),
        ("objects/sha256/2c/f24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824", 0o4444),
        ("namespaces/default/images/app.toml", 0o644),
        ("namespaces/default/namespace.toml", 0o400),
        ("namespaces/default/log", 0o644),
    ],
)
def test_another_mode_is_a_remark(store: DiskStore, root: Path, place: str, mode: int) -> None:
    """git and cp change modes; who may write to a published file may break it by accident."""
    put(store, "app", b"hello")
    expected = (root / place).stat().st_mode & 0o7777
    (root / place).chmod(mode)
    assert problems(root) == [
        Problem(REMARK, "mode", "", place, f"is {mode:04o}, expected {expected:04o}"),
    ]


@pytest.mark.parametrize(
    "place",
    [
        "objects",
        "objects/sha256",
        "objects/sha256/2c",
        "ingests",
        "tmp",
        "locks",
        "cache",
        "namespaces",
        "namespaces/default",
        "namespaces/default/images",
        "namespaces/default/content",
        "namespaces/default/content/sha256/2c",
        "namespaces/default/leases",
    ],
)
def test_a_directory_that_is_a_link_is_an_error(store: DiskStore, root: Path, place: str) -> None:
    """None is followed, so what it leads to is lost to the store."""
    put(store, "app", b"hello")
    store.leases(NS).create(Lease("keep"))
    (root / "cache").mkdir(mode=0o700)
    store.content(NS).writer("ref").close()
    (root / place).rename(root.with_name("elsewhere"))
    (root / place).symlink_to(root.with_name("elsewhere"))
    told = Problem(ERROR, "file", "", place, "is a symbolic link, expected a directory")
    assert told in problems(root)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("[gc]\ndeletion_treshold = 3\n", "gc.deletion_treshold"),
        ("[gc]\n[gc.later]\nx = 1\n", "gc.later"),
        ("[formats]\nread = 1\n", "formats"),
        ("later = 1\n", "format.later"),
    ],
)
def test_a_setting_that_means_nothing_is_a_remark(store: DiskStore, root: Path, line: str, told: str) -> None:
    """It may be misspelt; or a later imgtool's, which is why the store works all the same."""
    put(store, "app", b"hello")
    path = root / "imgtool.toml"
    text = path.read_text().rpartition("# sha256:")[0] + line
    path.unlink()
    path.write_text(text)
    path.chmod(0o444)
    what = f"the key '{told}' means nothing to this imgtool"
    assert Problem(REMARK, "settings", "", "imgtool.toml", what) in problems(root)


def test_a_gap_in_a_log_is_a_remark(store: DiskStore, root: Path) -> None:
    """Nothing is lost; but who reads the log should know."""
    put(store, "app", b"hello")
    log.mark_gap(store.engine.layout.log("default"))
    (problem,) = problems(root)
    assert (problem.level, problem.kind, problem.name) == (REMARK, "log", "namespaces/default/log")
    assert "the disk was full" in problem.what


@pytest.mark.parametrize(
    "place",
    [
        "namespaces/stray",
        "namespaces/default/content/sha256",
        "namespaces/default/content/sha256/2c",
        "namespaces/default/content/sha256/e0",
        "objects/sha256",
        "objects/sha256/2c",
        "objects/blake3",
    ],
)
def test_a_file_called_like_a_directory_is_an_error(store: DiskStore, root: Path, place: str) -> None:
    """gc does not run beside it: what was in the directory may be lost to the store."""
    put(store, "app", b"hello")
    if (root / place).exists():
        (root / place).rename(root.with_name("elsewhere"))
    (root / place).write_bytes(b"")
    assert Problem(ERROR, "file", "", place, "is a file, expected a directory") in problems(root)


def test_an_object_that_the_disk_cannot_read_is_an_error_and_the_rest_is_checked(
    store: DiskStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bad sector must not hide what else is wrong."""
    first, second = sorted([put(store, "a", b"hello"), put(store, "b", b"world")])
    readv = os.readv

    def bad_sector(fd: int, buffers: list[memoryview]) -> int:
        if os.readlink(f"/proc/self/fd/{fd}") == store.engine.layout.object(first):
            raise OSError(errno.EIO, "Input/output error")
        return readv(fd, buffers)

    monkeypatch.setattr(os, "readv", bad_sector)
    damaged = Path(store.engine.layout.object(second))
    damaged.chmod(0o600)
    damaged.write_bytes(b"xxxxx")
    damaged.chmod(0o444)
    assert [(p.name, p.what) for p in problems(root)] == [
        (first, "cannot be read: input/output error"),
        (second, f"hashes to {Digest.of(b'xxxxx')}"),
    ]


def test_hashing_takes_no_memory_for_large_objects(store: DiskStore, root: Path) -> None:
    """A layer of many gigabytes is checked on a small machine."""
    size = 64 << 20
    with store.content(NS).writer("large") as writer:
        for _ in range(64):
            writer.write(bytes(size // 64))
        writer.commit()
    tracemalloc.start()
    try:
        assert problems(root) == []
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_quick_hashes_no_object(store: DiskStore, root: Path) -> None:
    """`progress` counts what is hashed."""
    put(store, "app", b"hello")
    hashed: list[int] = []
    list(fsck.check(str(root), progress=hashed.append))
    assert sum(hashed) == len(b"hello")
    list(fsck.check(str(root), quick=True, progress=hashed.append))
    assert sum(hashed) == len(b"hello")


def test_the_log_is_read_line_by_line(store: DiskStore, root: Path) -> None:
    """It grows for ever."""
    put(store, "app", b"hello")
    log = root / "namespaces" / NS / "log"
    with log.open("ab") as file:
        for _ in range(2000):
            file.write(log.read_bytes()[:2000].split(b"\n")[0] + b"\n")
    with log.open("rb") as file:
        size = len(file.read())
    tracemalloc.start()
    try:
        assert problems(root) == []
        assert tracemalloc.get_traced_memory()[1] < (2 << 20) + size // 4
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("wrong", ["children", "subject", "kind", "no document", "nothing"])
def test_what_a_record_tells_of_its_bytes_is_compared(store: DiskStore, root: Path, wrong: str) -> None:
    """Because gc believes it."""
    top, about = put(store, "layer", b"l"), put(store, "subject", b"s")
    raw = manifest(top, subject=about)
    told = references(parse(raw, media.OCI_MANIFEST, "x"))
    assert told
    changed = {
        "children": told._replace(children={}),
        "subject": told._replace(subject=None),
        "kind": told._replace(media_type=media.OCI_INDEX),
    }
    digest = add(store, b"no" if wrong == "no document" else raw, told=changed.get(wrong, told))
    what = "its record tells wrongly what it refers to"
    expected = [] if wrong == "nothing" else [Problem(ERROR, "content", NS, digest, what)]
    assert problems(root, ERROR) == expected


def test_the_manual_tells_every_kind_of_problem() -> None:
    """The kinds are an interface: scripts filter by them."""
    top = Path(__file__).resolve().parents[2]
    manual = (top / "man" / "imgtool-fsck.1").read_text()
    section = manual.partition(".SH OUTPUT")[2].partition(".SH ")[0]
    told = set(re.findall(r"^\.T[PQ]\n\.BR? (\w+)", section, re.M))
    lines = [line for path in top.glob("fixtures/fsck-*/stdout") for line in path.read_text().splitlines()]
    seen = {line.split()[1] for line in lines if line.startswith(("error ", "remark "))}
    assert told == seen | {"mode"}
