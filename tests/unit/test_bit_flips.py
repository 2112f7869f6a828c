"""Rot: one bit of a small store flips. fsck finds it, and gc deletes nothing that is in use.

Every bit of every record, of the settings and of the log is flipped and given to the code that reads
such a file. Whole runs of fsck and gc take milliseconds each, so they are done for `SAMPLE` bits of
each file, spread evenly; for all of them with IMGTOOL_ALL_BITS=1 (some minutes).

Not flipped: the bytes of unfinished ingests, which are judged when they are committed, and `locks/`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from imgtool.digest import Digest
from imgtool.disk import codec, log, open_store
from imgtool.disk.check import ERROR, REMARK
from imgtool.errors import DataLoss
from imgtool.model import Descriptor, Image, Lease
from imgtool.names import GC_REF
from imgtool.oci import media
from imgtool.ops import fsck, gc
from imgtool.stores import Commit, Put

NS = "default"
SAMPLE = 100

FLIPPED = "*.toml", "objects/*/*/*", "namespaces/*/log"


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    """A store with one of everything, none of which is garbage."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="imgtool-test-", dir=memory) as directory:
        root = Path(directory, "store")
        _make(root)
        assert list(fsck.check(str(root))) == []
        with open_store(str(root)) as store:
            assert not any(gc.find(store))
        yield root


def _make(root: Path) -> None:
    layer = b"a layer"
    manifest = (
        b'{"schemaVersion":2,"mediaType":"%s","config":{"mediaType":"%s","digest":"%s","size":2},'
        b'"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"%s","size":%d}]}'
        % (
            media.OCI_MANIFEST.encode(),
            media.OCI_EMPTY.encode(),
            Digest.of(b"{}").encode(),
            Digest.of(layer).encode(),
            len(layer),
        )
    )
    with open_store(str(root)) as store:
        content = store.content(NS)
        commits = []
        for data, labels in (
            (layer, {}),
            (b"{}", {}),
            (manifest, {f"{GC_REF}.l.0": str(Digest.of(layer))}),
        ):
            writer = content.stage(algorithm="sha256")
            writer.write(data)
            commits.append(Commit(writer, labels=labels))
        target = Descriptor(media.OCI_MANIFEST, Digest.of(manifest), len(manifest))
        store.publish(NS, commits, [Put(Image("app:1", target, {"env": "prod"}))])
        store.leases(NS).create(Lease("keep"))
        with content.stage(algorithm="blake3") as writer:
            writer.write(b"held by a lease")
            held = writer.commit().digest
        store.leases(NS).add("keep", "content", held)
        with content.writer("upload", size=100, lease="keep") as named:
            named.write(b"half")


def _files(root: Path) -> list[Path]:
    """What is flipped, in a fixed order."""
    paths = {path for pattern in FLIPPED for path in root.rglob(pattern) if path.is_file()}
    return sorted(paths)


def _sample(root: Path) -> Iterator[tuple[Path, int]]:
    for path in _files(root):
        bits = path.stat().st_size * 8
        # A step that is prime to 8 meets every bit of a byte.
        step = 1 if os.environ.get("IMGTOOL_ALL_BITS") else bits // SAMPLE | 1
        yield from ((path, bit) for bit in range(0, bits, step))


def _flipped(data: bytes, bit: int) -> bytes:
    flipped = bytearray(data)
    flipped[bit // 8] ^= 1 << bit % 8
    return bytes(flipped)


def _state(root: Path) -> dict[str, bytes]:
    """All files, but for locks."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and "locks" not in path.relative_to(root).parts
    }


def test_the_store_has_one_of_everything(root: Path) -> None:
    """A kind of file that is missing here would go untested."""
    names = [str(path.relative_to(root)) for path in _files(root)]
    kinds = {name.split("/")[2] if name.startswith("namespaces/") else name.split("/")[0] for name in names}
    assert kinds == {
        "imgtool.toml",
        "objects",
        "ingests",
        "namespace.toml",
        "images",
        "content",
        "leases",
        "log",
    }


def test_no_record_with_a_flipped_bit_is_read(root: Path) -> None:
    """Every bit of every record, of the settings and of what an unfinished write says of itself."""
    for path in _files(root):
        if path.suffix != ".toml":
            continue
        data = path.read_bytes()
        for bit in range(len(data) * 8):
            with pytest.raises(DataLoss):
                codec.load(_flipped(data, bit), f"{path} with bit {bit} flipped")


def test_no_line_of_the_log_with_a_flipped_bit_is_read(root: Path) -> None:
    """Every bit of every line. The line feeds are in the sample: without one, two lines are lost."""
    (path,) = root.glob("namespaces/*/log")
    for line in path.read_bytes().splitlines():
        assert log.parse(line)
        for bit in range(len(line) * 8):
            flipped = _flipped(line, bit)
            assert not any(log.parse(part) for part in flipped.split(b"\n")), (line, bit)


def test_fsck_finds_a_flipped_bit_and_gc_deletes_nothing_in_use(root: Path) -> None:
    """The sample that the module's docstring tells of."""
    before = _state(root)
    for path, bit in _sample(root):
        where = f"{path.relative_to(root)}, bit {bit}"
        data = before[str(path.relative_to(root))]
        _write(path, _flipped(data, bit))
        state = _state(root)
        expected = ERROR
        if path.name == "log" and bit // 8 == len(data) - 1:
            expected = REMARK  # the tail that a killed process leaves looks the same
        assert expected in {problem.level for problem in fsck.check(str(root))}, where
        try:
            with open_store(str(root)) as store:
                gc.collect(store)
        except DataLoss:
            pass
        assert _without_logs(_state(root)) == _without_logs(state), where
        for name in before.keys() - _without_logs(before).keys():  # which may tell that a gc has ended
            _write(root / name, before[name])
        _write(path, data)
    assert _state(root) == before
    assert list(fsck.check(str(root))) == []


def _without_logs(state: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in state.items() if not name.endswith("/log")}


def test_gc_does_remove_garbage_from_that_store(root: Path, tmp_path: Path) -> None:
    """That it removes nothing above must not be for want of removing anything ever."""
    copy = tmp_path / "store"
    shutil.copytree(root, copy)
    with open_store(str(copy)) as store:
        store.images(NS).delete("app:1")
        gc.collect(store)
    assert len(_files(copy)) < len(_files(root)) - 3


def _write(path: Path, data: bytes) -> None:
    path.chmod(0o600)
    path.write_bytes(data)
    path.chmod(0o600 if path.name == "log" else 0o444)
