"""Files that are whole or not there: `imgtool.disk.atomic`."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from imgtool.disk import atomic
from imgtool.errors import DataLoss, ImgtoolError, PermissionDenied, ResourceExhausted


@pytest.fixture(params=[0o000, 0o022, 0o077, 0o777], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the calls that are made from now on."""
    made: list[str] = []
    do = atomic._do

    def counted(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        made.append(call.__name__)
        return do(call, *args, **kwargs)

    monkeypatch.setattr(atomic, "_do", counted)
    return made


def refuse(monkeypatch: pytest.MonkeyPatch, name: str, *outcomes: object) -> None:
    """Let the calls called `name` raise or return `outcomes`, one after the other, then work."""
    left, do = list(outcomes), atomic._do

    def refusing(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if call.__name__ != name or not left:
            return do(call, *args, **kwargs)
        outcome = left.pop(0)
        if isinstance(outcome, int):
            raise OSError(outcome, os.strerror(outcome))
        assert callable(outcome)
        return outcome(*args, **kwargs)

    monkeypatch.setattr(atomic, "_do", refusing)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.mark.usefixtures("umask")
def test_files_and_directories_have_their_modes_whatever_the_umask(tmp_path: Path) -> None:
    """T17: what a store holds is its owner's alone, and what is published is not edited."""
    path = str(tmp_path)
    atomic.write_new(f"{path}/record", b"x")
    os.close(atomic.create(f"{path}/private"))
    os.close(atomic.open_or_create(f"{path}/lock"))
    atomic.Batch().mkdirs(f"{path}/a/b")
    modes = {entry.name: mode(entry) for entry in tmp_path.iterdir()}
    assert modes == {"record": 0o444, "private": 0o600, "lock": 0o600, "a": 0o700}
    assert mode(tmp_path / "a" / "b") == 0o700


def test_a_write_is_repeated_until_all_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """F9: a short write is no error, and the rest must not be lost."""
    refuse(monkeypatch, "write", *[lambda fd, data: os.write(fd, data[:3])] * 3)
    atomic.write_new(str(tmp_path / "file"), b"0123456789")
    assert (tmp_path / "file").read_bytes() == b"0123456789"


def test_a_copy_goes_on_after_a_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """F9: Python repeats most interrupted calls by itself, but not this one."""
    (tmp_path / "source").write_bytes(b"abc")
    source, target = os.open(tmp_path / "source", os.O_RDONLY), atomic.create(str(tmp_path / "target"))
    refuse(monkeypatch, "copy_file_range", errno.EINTR, errno.EINTR)
    assert atomic.copy_range(source, target, 10, 0) == 3
    assert (tmp_path / "target").read_bytes() == b"abc"
    os.close(source)
    os.close(target)


def test_link_never_replaces(tmp_path: Path) -> None:
    """Two creators cannot both win."""
    (tmp_path / "old").write_text("old")
    (tmp_path / "new").write_text("new")
    with pytest.raises(FileExistsError):
        atomic.Batch().link(str(tmp_path / "new"), str(tmp_path / "old"))
    assert (tmp_path / "old").read_text() == "old"


def test_link_does_not_follow_a_link_at_its_source(tmp_path: Path) -> None:
    """T16: what was planted there would be published."""
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "source").symlink_to("secret")
    atomic.Batch().link(str(tmp_path / "source"), str(tmp_path / "target"))
    assert (tmp_path / "target").is_symlink()


def test_what_is_gone_already_is_removed_as_well(tmp_path: Path) -> None:
    """A repeat finishes what a crash left half done."""
    batch = atomic.Batch()
    batch.unlink(str(tmp_path / "gone"))
    assert batch.rmdir(str(tmp_path / "gone"))
    atomic.remove_tree(str(tmp_path / "gone"))


def test_a_directory_that_holds_something_stays(tmp_path: Path) -> None:
    """Pruning a fan-out must not take what came in meanwhile."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "file").touch()
    assert not atomic.Batch().rmdir(str(tmp_path / "d"))
    assert (tmp_path / "d" / "file").exists()


def test_a_tree_is_removed_and_what_its_links_lead_to_is_not(tmp_path: Path) -> None:
    """T16: somebody may have planted links in tmp/."""
    home = tmp_path / "home"
    (home / "deep").mkdir(parents=True)
    (home / "deep" / "file").write_text("kept")
    tree = tmp_path / "tree"
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "file").touch()
    (tree / "a" / "to-directory").symlink_to(home)
    (tree / "to-file").symlink_to(home / "deep" / "file")
    (tree / "dangling").symlink_to("nowhere")
    os.mkfifo(tree / "pipe")
    atomic.remove_tree(str(tree))
    assert not tree.exists()
    (tmp_path / "link").symlink_to(home)
    atomic.remove_tree(str(tmp_path / "link"))
    assert not (tmp_path / "link").is_symlink()
    assert (home / "deep" / "file").read_text() == "kept"


def test_a_tree_that_cannot_be_removed_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And does not keep the remover busy for ever."""
    (tmp_path / "file").touch()
    refuse(monkeypatch, "unlink", errno.EIO, errno.EIO)
    with pytest.raises(ImgtoolError, match="input/output error"):
        atomic.remove_tree(str(tmp_path / "file"))


def _link(path: Path) -> None:
    path.symlink_to("elsewhere")


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _directory(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("plant", [_link, _pipe, _directory, _socket])
def test_locks_and_logs_are_regular_files_or_nothing(plant: Callable[[Path], None], tmp_path: Path) -> None:
    """T3, T16: a link would be written through, and a pipe waited on."""
    plant(tmp_path / "lock")
    with pytest.raises(DataLoss, match="not a regular file"):
        atomic.open_or_create(str(tmp_path / "lock"))
    assert not (tmp_path / "elsewhere").exists()


def test_directories_are_not_made_through_a_link(tmp_path: Path) -> None:
    """T16: a planted link would take the objects elsewhere."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to("elsewhere")
    with pytest.raises(DataLoss, match="symbolic link"):
        atomic.Batch().mkdirs(str(tmp_path / "link" / "a" / "b"))
    with pytest.raises(DataLoss, match="symbolic link"):
        atomic.Batch().mkdirs(str(tmp_path / "link"))
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (errno.EIO, ImgtoolError),
        (errno.ENOSPC, ResourceExhausted),
        (errno.EDQUOT, ResourceExhausted),
        (errno.EROFS, PermissionDenied),
        (errno.EACCES, PermissionDenied),
        (errno.EMFILE, ResourceExhausted),
    ],
    ids=lambda value: errno.errorcode[value] if isinstance(value, int) else "",
)
def test_what_the_machine_refuses_has_its_exit_code(
    number: int, error: type[ImgtoolError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F4 to F6, F8, whichever call it is."""
    path = str(tmp_path / "file")
    batch = atomic.Batch()
    changes: dict[str, Callable[[], object]] = {
        "open": lambda: atomic.create(path),
        "write": lambda: atomic.write_new(path, b"x"),
        "fsync": lambda: atomic.sync_files([path]),
        "rename": lambda: batch.rename(path, path + "2"),
        "unlink": lambda: batch.unlink(path),
        "link": lambda: batch.link(path, path + "3"),
        "mkdir": lambda: batch.mkdirs(path + "4"),
    }
    for name, change in changes.items():
        refuse(monkeypatch, name, number)
        with pytest.raises(ImgtoolError) as caught:
            change()
        assert type(caught.value) is error, name
        assert os.strerror(number).lower() in caught.value.message


# Syncing


def test_few_files_are_synced_one_by_one(tmp_path: Path, calls: list[str]) -> None:
    """A syncfs would wait for what all other programs have written."""
    paths = [tmp_path / str(i) for i in range(atomic.SYNCFS_FROM - 1)]
    for path in paths:
        path.touch()
    atomic.sync_files(map(str, paths))
    assert calls.count("fsync") == len(paths)
    assert "syncfs" not in calls


def test_many_files_are_synced_at_once(tmp_path: Path, calls: list[str]) -> None:
    """Thousands of fsyncs take minutes on a disk that turns."""
    paths = [tmp_path / str(i) for i in range(atomic.SYNCFS_FROM)]
    for path in paths:
        path.touch()
    atomic.sync_files(map(str, paths))
    assert calls.count("syncfs") == 1
    assert "fsync" not in calls


def test_a_batch_syncs_each_changed_directory_once(tmp_path: Path, calls: list[str]) -> None:
    """Also the parents of new ones; and nothing the second time."""
    batch = atomic.Batch()
    batch.mkdirs(str(tmp_path / "a" / "b"))
    for i in range(5):
        atomic.write_new(str(tmp_path / str(i)), b"")
        batch.rename(str(tmp_path / str(i)), str(tmp_path / "a" / "b" / str(i)))
    batch.sync()
    assert calls.count("fsync") == 3  # tmp_path, a, b
    batch.sync()
    assert calls.count("fsync") == 3


def test_a_directory_that_another_process_made_first_is_synced_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: list[str]
) -> None:
    """It may not have come to its own sync, and what is put there must not be lost with it."""

    def too_late(path: str, mode: int) -> None:
        for _ in range(2):
            os.mkdir(path, mode)

    refuse(monkeypatch, "mkdir", too_late)
    batch = atomic.Batch()
    batch.mkdirs(str(tmp_path / "a"))
    batch.sync()
    assert calls.count("fsync") == 1


def test_a_failed_syncfs_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """F4: exit 1, never 0."""
    refuse(monkeypatch, "syncfs", errno.EIO)
    with pytest.raises(ImgtoolError, match="cannot syncfs"):
        atomic.sync_all(str(tmp_path))


def test_a_stamp_always_has_its_lowest_bit_set(tmp_path: Path) -> None:
    """It tells a stamp from what the kernel's clock, which is coarser, sets."""
    for ns in (1_700_000_000_000_000_000, 1_700_000_000_000_000_001):
        atomic.stamp(str(tmp_path), ns)
        assert tmp_path.stat().st_mtime_ns == 1_700_000_000_000_000_001
