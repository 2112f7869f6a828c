"""Unfinished writes and temporary files on disk: `imgtool.disk.ingests`, `imgtool.disk.workspace`."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from imgtool import clock
from imgtool.digest import Digest
from imgtool.disk import DiskStore, atomic, codec, ingests, open_store, workspace
from imgtool.disk.locks import try_lock
from imgtool.disk.workspace import Workspace
from imgtool.errors import AlreadyExists, NotFound, Unavailable
from imgtool.model import Lease
from imgtool.ops import gc
from imgtool.stores import Garbage, Litter

NS = "default"
NOTHING: frozenset[tuple[str, str]] = frozenset()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(root: Path) -> Iterator[DiskStore]:
    with open_store(str(root), lock_timeout=0.05) as opened:
        yield opened


def begin(store: DiskStore, data: bytes = b"begun", ref: str = "ref", **options: Any) -> Path:
    """Begin a write, and leave it; returns its directory."""
    with store.content(NS).writer(ref, **options) as writer:
        writer.write(data)
    return Path(store.engine.layout.ingest(NS, ref))


def offset(store: DiskStore, ref: str = "ref", **options: Any) -> int:
    """How much is kept when a write is resumed."""
    with store.content(NS).writer(ref, **options) as writer:
        return writer.status().offset


def at(monkeypatch: pytest.MonkeyPatch, hours: float) -> None:
    """Set the wall clock to so many hours from now."""
    then = time.time_ns() + int(hours * clock.HOUR)
    monkeypatch.setattr(time, "time_ns", lambda: then)


def is_litter(store: DiskStore, ref: str = "ref") -> bool:
    return any((item.kind, item.name) == ("ingest", ref) for item in store.litter(NOTHING))


def edit(path: Path, change: Callable[[bytes], bytes]) -> None:
    new = path.with_name("new")
    new.write_bytes(change(path.read_bytes()))
    new.rename(path)


def without_seal(data: bytes) -> bytes:
    return data[: -codec._SEAL_LENGTH]


class Elsewhere:
    """Another process that writes the ref, with some bytes behind it."""

    def __init__(self, root: Path, ref: str = "ref") -> None:
        program = (
            "import sys; from imgtool.disk import open_store\n"
            "store = open_store(sys.argv[1]); writer = store.content('default').writer(sys.argv[2])\n"
            "staged = store.content('default').stage(algorithm='sha256')\n"
            "writer.write(b'theirs'); staged.write(b'theirs'); print(flush=True); input()\n"
        )
        argv = [sys.executable, "-c", program, str(root), ref]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path.cwd())
        assert self.process.stdout is not None
        assert self.process.stdout.readline()

    def __enter__(self) -> subprocess.Popen[bytes]:
        return self.process

    def __exit__(self, *exc: object) -> None:
        self.process.kill()
        self.process.communicate()


# What lies there


def test_an_ingest_is_three_files_that_anybody_can_read(store: DiskStore) -> None:
    """The contract of imgtool-store(5)."""
    path = begin(store, size=9, expected=Digest.of(b"x"))
    assert {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in path.iterdir()} == {
        "ref.toml": 0o444,
        "data": 0o600,
        "lock": 0o600,
    }
    record = codec.load((path / "ref.toml").read_bytes(), "r")
    assert list(record) == ["schema", "ref", "namespace", "started", "expires", "total", "expected"]
    assert record["ref"] == "ref"
    assert record["namespace"] == NS
    assert clock.parse_time(record["expires"]) - clock.parse_time(record["started"]) >= clock.DAY


def test_a_commit_leaves_nothing_of_the_ingest(store: DiskStore, root: Path) -> None:
    """Nor does an abort."""
    begin(store)
    with store.content(NS).writer("ref") as writer:
        writer.commit()
    begin(store, ref="other")
    store.content(NS).abort("other")
    assert not list((root / "ingests").iterdir())


# Expiry


def test_each_time_an_ingest_is_opened_it_lives_24_hours_more(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow line may need days, as long as it goes on."""
    begin(store)
    at(monkeypatch, 20)
    assert offset(store) == 5
    at(monkeypatch, 40)
    assert offset(store) == 5
    assert not is_litter(store)
    at(monkeypatch, 40 + 25)
    assert is_litter(store)


def test_an_expired_ingest_is_resumed_while_no_gc_has_come(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From then on it is no litter any more."""
    begin(store)
    at(monkeypatch, 25)
    assert is_litter(store)
    assert offset(store) == 5
    assert not is_litter(store)


def test_an_ingest_under_a_lease_does_not_expire(store: DiskStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """F10: whatever the clock does. Without the lease it goes at once."""
    store.leases(NS).create(Lease("l"))
    begin(store, lease="l")
    at(monkeypatch, 24 * 400)
    assert not store.litter(frozenset({(NS, "ref")}))
    assert not gc.find(store).litter
    assert offset(store) == 5
    store.leases(NS).delete("l")
    assert [item.name for item in gc.collect(store).litter] == ["ref"]
    assert list(store.content(NS).statuses()) == []


def test_a_clock_that_goes_back_keeps_an_ingest_longer(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F10: it is never taken early."""
    begin(store)
    at(monkeypatch, -1000)
    assert not is_litter(store)
    assert offset(store) == 5


def test_an_ingest_that_is_taken_up_while_gc_looks_stays(
    store: DiskStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gc has found it expired; then somebody has resumed it, and left it again."""
    path = begin(store)
    at(monkeypatch, 25)
    litter = store.litter(NOTHING)
    assert [item.name for item in litter] == ["ref"]
    begin(store, b"more")
    with store.removing() as remove:
        remove(Garbage({}, {}, {}, litter))
    assert (path / "data").read_bytes() == b"begunmore"


# Damage


def test_an_ingest_without_a_ref_was_never_begun(store: DiskStore) -> None:
    """Its process was killed in the first instant; or in the last, of a commit."""
    path = begin(store)
    (path / "ref.toml").unlink()
    assert list(store.content(NS).statuses()) == []
    with pytest.raises(NotFound):
        store.content(NS).status("ref")
    assert [(item.kind, item.namespace, item.name) for item in store.litter(NOTHING)] == [
        ("ingest", "", path.name)
    ]
    assert offset(store) == 0
    (path / "ref.toml").unlink()
    gc.collect(store)
    assert not path.exists()


def test_a_ref_that_begins_while_gc_removes_what_was_never_begun_stays(store: DiskStore) -> None:
    """Its directory is the same."""
    path = begin(store)
    (path / "ref.toml").unlink()
    litter = store.litter(NOTHING)
    begin(store, b"anew")
    with store.removing() as remove:
        remove(Garbage({}, {}, {}, litter))
    assert (path / "data").read_bytes() == b"anew"


@pytest.mark.parametrize(
    "change",
    [
        lambda data: b"",
        lambda data: data[:50],
        lambda data: data.replace(b"24", b"42", 1),
        lambda data: without_seal(data).replace(b"schema = 1", b"schema = 2"),
        lambda data: without_seal(data).replace(b"expires = ", b"expires = 1 # "),
        lambda data: without_seal(data).replace(b"ref = ", b"other = "),
        lambda data: bytes(len(data)),
    ],
    ids=["empty", "torn", "rotten", "newer", "no-time", "no-ref", "zeros"],
)
def test_an_ingest_whose_ref_is_damaged_starts_over_and_is_left_to_fsck(
    store: DiskStore, change: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows which stream its bytes are of. gc keeps what it cannot read."""
    path = begin(store)
    edit(path / "ref.toml", change)
    at(monkeypatch, 1000)
    assert not store.litter(NOTHING)
    assert list(store.content(NS).statuses()) == []
    assert offset(store) == 0
    assert [status.ref for status in store.content(NS).statuses()] == ["ref"]


def test_an_ingest_that_lies_where_another_belongs_is_left_to_fsck(
    store: DiskStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy made by hand: the key is not that of its ref."""
    path = begin(store)
    (root / "ingests" / ("0" * 64)).mkdir()
    for name in ("data", "ref.toml"):
        (root / "ingests" / ("0" * 64) / name).write_bytes((path / name).read_bytes())
    assert len(list(store.content(NS).statuses())) == 1
    at(monkeypatch, 25)
    gc.collect(store)
    assert (root / "ingests" / ("0" * 64) / "data").exists()
    assert not path.exists()


def test_data_that_is_missing_is_no_bytes(store: DiskStore) -> None:
    """A commit that was killed after it had moved them."""
    path = begin(store)
    (path / "data").unlink()
    assert store.content(NS).status("ref").offset == 0
    assert offset(store) == 0


def test_a_crash_between_two_streams_does_not_mix_them(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opened with another size, the old bytes go before the new size is written down: wherever it
    crashes, nobody may take the old bytes for the beginning of the new stream.
    """

    class Killed(BaseException): ...

    store.engine.workspace.new_path()
    at, killed = 0, True
    while killed:
        at += 1
        path = begin(store, b"old stream", size=10)
        left = at

        def kill(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left <= 0:
                raise Killed
            return call(*args, **kwargs)

        with monkeypatch.context() as killing:
            killing.setattr(atomic, "_do", kill)
            try:
                store.content(NS).writer("ref", size=20).close()
                killed = False
            except Killed:
                pass
        assert offset(store, size=20) == 0, f"killed at call {at}"
        atomic.remove_tree(str(path))
    assert at > 5


# Other processes


def test_an_ingest_of_a_living_process_is_its_own(
    store: DiskStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it takes; when the process is killed it is free, with the bytes it had."""
    begin(store)
    at(monkeypatch, 25)
    with Elsewhere(root) as process:
        for attempt in (lambda: store.content(NS).writer("ref"), lambda: store.content(NS).abort("ref")):
            with pytest.raises(Unavailable, match="'ref' is being written by another process"):
                attempt()
        assert store.content(NS).status("ref").offset == 11
        at(monkeypatch, 500)
        assert not store.litter(NOTHING)
        with store.removing() as remove:
            remove(Garbage({}, {}, {}, [Litter("ingest", NS, "ref", 0)]))
        assert process.poll() is None
        assert store.content(NS).status("ref").offset == 11
    assert {item.kind for item in store.litter(NOTHING)} == {"ingest", "temporary"}
    monkeypatch.undo()
    assert offset(store) == 11


def test_the_temporary_files_of_a_living_process_are_its_own(store: DiskStore, root: Path) -> None:
    """gc takes them only when it is gone."""
    with Elsewhere(root):
        assert not store.litter(NOTHING)
        (theirs,) = (root / "tmp").iterdir()
        with store.removing() as remove:
            remove(Garbage({}, {}, {}, [Litter("temporary", "", theirs.name, 0)]))
        assert list(theirs.iterdir())
    (found,) = store.litter(NOTHING)
    assert (found.name, found.size) == (theirs.name, len(b"theirs"))
    gc.collect(store)
    assert not theirs.exists()


def test_a_namespace_is_deleted_though_somebody_writes_into_it(store: DiskStore, root: Path) -> None:
    """The write goes on, and its commit makes the namespace anew."""
    begin(store, ref="mine")
    store.leases(NS).create(Lease("l"))
    with Elsewhere(root):
        store.namespaces.delete(NS)
        assert [status.ref for status in store.content(NS).statuses()] == ["ref"]
    assert list(store.namespaces.list()) == []


def test_a_process_does_not_wait_for_itself(store: DiskStore) -> None:
    """Two writers of one ref in one process are two writers."""
    with store.content(NS).writer("ref"), pytest.raises(Unavailable):
        store.content(NS).writer("ref")
    with store.content(NS).writer("ref"):
        pass


def test_a_ref_that_is_given_up_in_time_is_taken(store: DiskStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first writer is about to close: containerd waits as long."""
    first = store.content(NS).writer("ref")
    monkeypatch.setattr(time, "sleep", lambda seconds: first.close())
    with store.content(NS).writer("ref") as second:
        second.write(b"x")


# Workspaces


def test_a_workspace_comes_with_the_first_file_and_goes_with_the_process(root: Path) -> None:
    """Reading makes none."""
    with open_store(str(root)) as store:
        assert not root.exists()
        with store.content(NS).stage(algorithm="sha256"):
            (made,) = (root / "tmp").iterdir()
            assert workspace.is_workspace(made.name)
            assert stat.S_IMODE(made.stat().st_mode) == 0o700
    assert not list((root / "tmp").iterdir())


def test_a_workspace_that_gc_takes_before_it_is_locked_is_made_anew(
    store: DiskStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the instant between mkdir and flock it looks abandoned."""
    begin(store)
    store.close()
    do = atomic._do
    taken: list[str] = []

    def taking(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = do(call, *args, **kwargs)
        if call is os.mkdir and Path(args[0]).parent == root / "tmp" and not taken:
            taken.append(args[0])
            os.rmdir(args[0])
        return result

    monkeypatch.setattr(atomic, "_do", taking)
    begin(store, b"x", "other")
    assert taken
    assert [Path(path).exists() for path in taken] == [False]


def test_a_workspace_that_gc_takes_as_it_is_locked_is_made_anew(
    store: DiskStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opened before, locked after: the lock is one of a directory that is no more."""
    begin(store)
    store.close()
    taken: list[Path] = []

    def taking(fd: int) -> bool:
        if not taken:
            taken.extend((root / "tmp").iterdir())
            taken[0].rmdir()
        return try_lock(fd)

    monkeypatch.setattr(workspace, "try_lock", taking)
    begin(store, b"x", "other")
    assert len(taken) == 1
    assert not taken[0].exists()


def test_gc_keeps_a_workspace_locked_while_it_removes_it(
    store: DiskStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its maker could lock it in between, and lose its files."""
    store.engine.ready()
    (root / "tmp" / ("0" * 16)).mkdir()
    do = atomic._do
    seen: list[bool] = []

    def looking(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if call is os.rmdir:
            seen.append(bool(Workspace(str(root / "tmp")).abandoned()))
        return do(call, *args, **kwargs)

    monkeypatch.setattr(atomic, "_do", looking)
    store.engine.workspace.collect("0" * 16)
    assert seen == [False]


def test_a_workspace_does_not_call_itself_abandoned(store: DiskStore, root: Path) -> None:
    """gc is a process too."""
    store.engine.ready()
    store.engine.workspace.new_path()
    assert store.engine.workspace.abandoned() == []
    assert Workspace(str(root / "tmp")).abandoned() == []


def test_litter_that_vanishes_while_it_is_looked_at_is_no_failure(
    store: DiskStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`gc --dry-run` takes no lock, and other processes end meanwhile."""
    begin(store)
    (root / "tmp" / ("0" * 16)).mkdir()
    (root / "tmp" / ("0" * 16) / "file").touch()
    lstat = os.lstat

    def vanishing(path: Any, **options: Any) -> os.stat_result:
        if str(path).endswith("/file"):
            atomic.remove_tree(str(root / "tmp" / ("0" * 16)))
        return lstat(path, **options)

    monkeypatch.setattr(os, "lstat", vanishing)
    assert [(item.name, item.size) for item in store.litter(NOTHING)] == [("0" * 16, 0)]


def test_the_commit_of_a_ref_whose_content_is_there_ends_it(store: DiskStore) -> None:
    """Also where its lease holds both: the content is under the lease, the ingest no more."""
    store.leases(NS).create(Lease("l"))
    begin(store, b"x", lease="l")
    with store.content(NS).stage(algorithm="sha256") as writer:
        writer.write(b"x")
        writer.commit()
    with pytest.raises(AlreadyExists):
        store.content(NS).writer("ref", expected=Digest.of(b"x"), lease="l")
    assert store.leases(NS).get("l").resources == {"content": (Digest.of(b"x"),)}
    assert ingests.EXPIRES_AFTER == clock.DAY
