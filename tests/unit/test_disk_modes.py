"""T17: what lies in a store is its owner's alone, whatever the umask, and works for one whom modes bind."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from imgtool.digest import Digest
from imgtool.disk import open_store
from imgtool.errors import AlreadyExists, PermissionDenied
from imgtool.model import Descriptor, Image, Lease
from imgtool.ops import gc
from imgtool.stores import Commit, Put

NS = "default"


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory of an unprivileged user, as whom the test runs."""
    with tempfile.TemporaryDirectory() as path:
        os.chmod(path, 0o700)
        root = os.geteuid() == 0
        if root:
            os.chown(path, 65534, 65534)
            os.seteuid(65534)
        try:
            yield Path(path)
        finally:
            if root:
                os.seteuid(0)


@pytest.fixture(params=[0o000, 0o022, 0o077, 0o777], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def use(root: Path) -> None:
    """Everything that makes files, twice in two processes' manner."""
    for data in (b"one", b"two"):
        digest = Digest.of(data)
        with open_store(str(root), lock_timeout=0) as store:
            content = store.content(NS)
            with content.writer("named") as writer:
                writer.write(data[:1])
            with content.writer("named", algorithm="blake3") as writer:
                writer.replay()
                writer.write(data)
                writer.commit(expected=digest)
            with content.stage(algorithm="sha256") as writer:
                writer.write(data)
                put = Put(Image("x", Descriptor("t", digest, 3)), replace=True)
                store.publish(NS, [Commit(writer, labels={"k": "v"})], [put], hold=Lease("l"))
            store.images(NS).rename("x", "y")
            store.images(NS).rename("y", "x")
            with content.writer("left") as writer:
                writer.write(data)
            store.images(NS).delete("x")
            with content.stage(algorithm="sha256") as writer:
                writer.write(data)
                with pytest.raises(AlreadyExists):
                    writer.commit()
            gc.collect(store)
            with content.stage(algorithm="sha256") as writer:
                writer.write(data)
                writer.commit()


EXPECTED = {
    "imgtool.toml": 0o444,
    "log": 0o600,
    "data": 0o600,
    "lock": 0o600,
    "gate": 0o600,
    "store": 0o600,
    "ns-default": 0o600,
}


@pytest.mark.usefixtures("umask")
def test_every_mode_is_as_imgtool_store_says(home: Path) -> None:
    """Directories 0700; what is published 0444; what is written in place 0600."""
    use(home / "store")
    paths = [home / "store", *(home / "store").rglob("*")]
    assert len(paths) > 20
    for path in paths:
        expected = 0o700 if path.is_dir() else EXPECTED.get(path.name, 0o444)
        assert oct(stat.S_IMODE(path.lstat().st_mode)) == oct(expected), path


def test_a_store_without_permission_is_read_only_or_refused(home: Path) -> None:
    """F6: readers work without writing a byte; writers say so with exit 8."""
    root = home / "store"
    use(root)
    for path in [*root.rglob("*"), root]:
        path.chmod(0o500 if path.is_dir() else 0o400)
    before = {path: path.lstat().st_mtime_ns for path in root.rglob("*")}
    try:
        with open_store(str(root), lock_timeout=0) as store:
            assert len(list(store.content(NS).list())) == 1
            with store.content(NS).reader(Digest.of(b"two")) as reader:
                assert reader.read() == b"two"
            assert list(store.images(NS).list()) == []
            assert [status.ref for status in store.content(NS).statuses()] == ["left"]
            for change in (
                lambda: store.images(NS).create(Image("x", Descriptor("t", Digest.of(b"two"), 3))),
                lambda: store.content(NS).stage(algorithm="sha256"),
                lambda: store.content(NS).writer("other"),
                lambda: store.leases(NS).create(Lease("m")),
                lambda: gc.collect(store),
            ):
                with pytest.raises(PermissionDenied):
                    change()
        assert {path: path.lstat().st_mtime_ns for path in root.rglob("*")} == before
        root.chmod(0o000)
        with pytest.raises(PermissionDenied):
            open_store(str(root))
    finally:
        root.chmod(0o700)
        for path in root.rglob("*"):
            path.chmod(0o700)
