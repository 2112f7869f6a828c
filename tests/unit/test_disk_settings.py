"""Which directories are a store, and who may use them how: `imgtool.disk.settings`."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imgtool.digest import Digest
from imgtool.disk import DiskStore, atomic, codec, open_store, settings
from imgtool.errors import DataLoss, FailedPrecondition, ImgtoolError, NotFound, PermissionDenied
from imgtool.memory import MemoryStore
from imgtool.model import ContentInfo, Descriptor, Image, Settings

NS = "default"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


def write_to(root: Path) -> None:
    with open_store(str(root), lock_timeout=0.05) as store:
        store.images(NS).create(Image("x", Descriptor("t", Digest.of(b"x"), 1)))


def names_in(root: Path) -> list[str]:
    with open_store(str(root)) as store:
        return store.images(NS).names()


def set_settings(root: Path, text: str) -> None:
    """Edit imgtool.toml by hand, which takes its seal away."""
    (root / "imgtool.toml").unlink()
    (root / "imgtool.toml").write_text(text)


FORMAT = "[format]\nread = {}\nwrite = {}\n"


# No store


def test_an_absent_store_is_empty_and_looking_makes_nothing(root: Path) -> None:
    """Whoever lists a store that is not there has mistyped it, or has none yet."""
    with open_store(str(root)) as store:
        assert store.images(NS).names() == []
        assert list(store.images(NS).list()) == []
        assert list(store.content(NS).list()) == []
        assert list(store.content(NS).statuses()) == []
        assert list(store.leases(NS).list()) == []
        assert list(store.namespaces.list()) == []
        assert list(store.objects()) == []
        assert list(store.litter(frozenset())) == []
        with pytest.raises(NotFound):
            store.images(NS).get("x")
        with pytest.raises(NotFound):
            store.images(NS).delete("x")
        with pytest.raises(NotFound):
            store.content(NS).info(Digest.of(b"x"))
    assert not root.exists()


def test_what_needs_a_record_makes_no_store(root: Path) -> None:
    """A mistyped --root must not leave an empty store behind; another process may have made it since."""
    target = Descriptor("t", Digest.of(b"x"), 1)
    with open_store(str(root)) as store:
        changes: list[Callable[[], object]] = [
            lambda: store.images(NS).update(Image("x", target), "labels"),
            lambda: store.images(NS).rename("x", "y"),
            lambda: store.images(NS).create(Image("y", target), needs=[Digest.of(b"x")]),
            lambda: store.content(NS).update(ContentInfo(Digest.of(b"x"), 1)),
            lambda: store.content(NS).delete(Digest.of(b"x")),
            lambda: store.content(NS).abort("ref"),
            lambda: store.content(NS).writer("ref", lease="l"),
            lambda: store.leases(NS).add("l", "ingests", "x"),
            lambda: store.leases(NS).delete("l"),
            lambda: store.namespaces.delete(NS),
        ]
        for change in changes:
            with pytest.raises(NotFound):
                change()
        assert not root.exists()
        write_to(root)
        store.images(NS).update(Image("x", target, {"k": "v"}), "labels")
    assert names_in(root) == ["x"]


def test_the_first_change_makes_the_store_and_what_leads_to_it(tmp_path: Path) -> None:
    """As `git init DIR` does, and private."""
    root = tmp_path / "a" / "b"
    write_to(root)
    assert (root / "imgtool.toml").read_bytes() == codec.dump({"format": {"read": 1, "write": 1}}, "x")
    assert (tmp_path / "a").stat().st_mode & 0o777 == root.stat().st_mode & 0o777 == 0o700
    assert names_in(root) == ["x"]


def test_a_store_may_be_reached_through_a_link(root: Path, tmp_path: Path) -> None:
    """The path that the user typed may be one; also one to a directory that is not there yet."""
    (tmp_path / "link").symlink_to(root)
    write_to(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert names_in(root) == names_in(tmp_path / "link") == ["x"]


@pytest.mark.parametrize("entry", ["README", "tmp/note.txt", "tmp/0123", "images"])
def test_a_directory_that_holds_something_else_becomes_no_store(root: Path, entry: str) -> None:
    """`--root .` would mix a store into a project; and gc empties tmp/."""
    (root / entry).parent.mkdir(parents=True)
    (root / entry).write_text("mine")
    with pytest.raises(FailedPrecondition, match=f"holds '{entry}'"):
        write_to(root)
    assert names_in(root) == []
    assert [path for path in root.rglob("*") if path.is_file()] == [root / entry]


def test_what_a_killed_process_left_of_a_store_is_no_obstacle(root: Path) -> None:
    """Directories come first, imgtool.toml last."""
    (root / "tmp" / "0123456789abcdef").mkdir(parents=True)
    (root / "tmp" / "0123456789abcdef" / "1a").write_text("half")
    (root / "locks").mkdir()
    (root / "locks" / "gate").touch()
    write_to(root)
    assert names_in(root) == ["x"]


def test_two_processes_may_make_a_store_at_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second finds it made when it comes to link imgtool.toml."""
    do = atomic._do
    once: list[object] = []

    def first(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if call is os.link and not once:
            once.append(call)
            write_to(root)
        return do(call, *args, **kwargs)

    monkeypatch.setattr(atomic, "_do", first)
    with open_store(str(root)) as store:
        store.images(NS).create(Image("y", Descriptor("t", Digest.of(b"y"), 1)))
    assert names_in(root) == ["x", "y"]


@pytest.mark.parametrize("lost", ["objects", "namespaces"])
def test_a_store_without_its_settings_is_damaged(root: Path, lost: str) -> None:
    """Its format is not known: neither read nor written, and not made anew."""
    (root / lost).mkdir(parents=True)
    for use in (write_to, names_in):
        with pytest.raises(DataLoss, match=rf"holds {lost} but no imgtool\.toml"):
            use(root)
    assert not (root / "imgtool.toml").exists()


@pytest.mark.parametrize("gone", ["tmp", "locks", "ingests", "cache", "namespaces/default/leases"])
def test_empty_directories_may_be_missing(root: Path, gone: str) -> None:
    """git and rsync lose them."""
    write_to(root)
    for path in sorted((root / gone).rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    if (root / gone).exists():
        (root / gone).rmdir()
    assert names_in(root) == ["x"]
    with open_store(str(root)) as store:
        store.images(NS).delete("x")
        with store.content(NS).writer("ref") as writer:
            writer.write(b"x")


def test_a_root_that_is_a_file_is_no_store(root: Path) -> None:
    """Exit 5, before anything is tried."""
    root.write_text("x")
    for use in (write_to, names_in):
        with pytest.raises(FailedPrecondition, match="is not a directory"):
            use(root)


# Formats


def test_a_newer_format_to_read_is_refused(root: Path) -> None:
    """Exit 5 with the version that is needed."""
    write_to(root)
    set_settings(root, FORMAT.format(2, 2))
    for use in (write_to, names_in):
        with pytest.raises(FailedPrecondition, match="has format 2, this imgtool reads up to 1"):
            use(root)


def test_a_newer_format_to_write_is_read_only(root: Path) -> None:
    """An older imgtool can look, and must not spoil what it does not know."""
    write_to(root)
    set_settings(root, FORMAT.format(1, 2))
    assert names_in(root) == ["x"]
    before = {path: path.lstat().st_mtime_ns for path in root.rglob("*")}
    with open_store(str(root)) as store:
        for change in (
            lambda: store.images(NS).delete("x"),
            lambda: store.content(NS).stage(algorithm="sha256"),
            lambda: store.content(NS).writer("ref"),
            lambda: store.removing().__enter__(),
        ):
            with pytest.raises(FailedPrecondition, match="has format 2, this imgtool writes 1"):
                change()
    assert {path: path.lstat().st_mtime_ns for path in root.rglob("*")} == before


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[format]\n",
        "format = 1\n",
        FORMAT.format(-1, 1),
        FORMAT.format('"1"', 1),
        FORMAT.format(1, "true"),
    ],
)
def test_settings_that_make_no_sense_are_damage(root: Path, text: str) -> None:
    """Nothing is read or written until somebody has looked."""
    write_to(root)
    set_settings(root, text)
    for use in (write_to, names_in):
        with pytest.raises(DataLoss, match=r"imgtool\.toml"):
            use(root)


def test_settings_whose_seal_does_not_fit_are_damage(root: Path) -> None:
    """A flipped bit could turn locks off."""
    write_to(root)
    data = (root / "imgtool.toml").read_bytes()
    set_settings(root, data.decode().replace("read = 1", "read = 0"))
    with pytest.raises(DataLoss, match="seal"):
        names_in(root)


def test_unknown_settings_are_passed_over(root: Path) -> None:
    """A newer imgtool may have more, in the same format."""
    write_to(root)
    set_settings(root, 'later = 1\nlocking = "flock"\n' + FORMAT.format(1, 1) + "[gc]\nthreshold = 1\n")
    assert names_in(root) == ["x"]


def test_settings_are_those_of_the_file_and_the_defaults_where_it_is_silent(root: Path) -> None:
    """What gc and writers go by; a store that is made later has the defaults."""
    with open_store(str(root)) as store:
        assert store.settings == MemoryStore().settings == Settings("shared", "graph", 0, 100)
    write_to(root)
    set_settings(root, 'sharing = "isolated"\n' + FORMAT.format(1, 1) + "[gc]\ndeletion_threshold = 7\n")
    with open_store(str(root)) as store:
        assert store.settings == Settings(sharing="isolated", deletion_threshold=7)


# Locking


def test_without_locking_nothing_is_locked(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file system without flock, for a user who says that no two commands run at once."""
    write_to(root)
    set_settings(root, 'locking = "none"\n' + FORMAT.format(1, 1))

    def no_flock(fd: int, how: int = 0) -> bool:
        raise AssertionError

    monkeypatch.setattr("fcntl.flock", no_flock)
    with open_store(str(root)) as store:
        with store.content(NS).writer("ref") as writer:
            writer.write(b"x")
            writer.commit()
        with store.content(NS).writer("ref") as writer:
            writer.write(b"y")
        store.images(NS).delete("x")
        assert not store.litter(frozenset())
        with store.removing():
            pass
        store.content(NS).abort("ref")


def test_without_locking_a_process_does_not_remove_its_own_files(root: Path) -> None:
    """Its workspace is not locked then, but it is its own all the same."""
    write_to(root)
    set_settings(root, 'locking = "none"\n' + FORMAT.format(1, 1))
    with open_store(str(root)) as store, store.content(NS).stage(algorithm="sha256") as writer:
        writer.write(b"x")
        assert not store.litter(frozenset())
        writer.commit()


def test_another_word_for_locking_is_damage(root: Path) -> None:
    """It might be a new kind of lock, or a typing error."""
    write_to(root)
    set_settings(root, 'locking = "some"\n' + FORMAT.format(1, 1))
    with pytest.raises(DataLoss, match="'locking' is 'some', expected flock or none"):
        names_in(root)


MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:40 / {point} rw,relatime shared:2 master:3 - {kind} server:/export rw,vers=4.2
31 22 0:41 / {point}-other rw - tmpfs tmpfs rw
32 22 0:42 / /raw\\377bytes rw - nfs x rw
broken
"""


@pytest.fixture
def mounted(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Path, str], None]:
    """Let the table of mounts say that `point` is of the kind `kind`."""

    def mount(point: Path, kind: str) -> None:
        escaped = str(point).replace("\\", "\\134").replace(" ", "\\040").replace("\n", "\\012")
        (tmp_path / "mountinfo").write_text(MOUNTS.format(point=escaped, kind=kind), encoding="utf-8")
        monkeypatch.setattr(settings, "_MOUNTS", str(tmp_path / "mountinfo"))

    return mount


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs", "9p"])
@pytest.mark.parametrize("name", ["store", "with blank", "café", "new\nline", "back\\040slash"])
def test_on_a_network_file_system_nothing_is_written(
    tmp_path: Path, mounted: Callable[[Path, str], None], kind: str, name: str
) -> None:
    """Locks there are not kept for all clients: two commands would both believe to be alone."""
    mounted(tmp_path / name, kind)
    root = tmp_path / name / "deep" / "store"
    with pytest.raises(FailedPrecondition, match=rf"network file system \({kind}\)") as caught:
        write_to(root)
    assert caught.value.hint is not None
    assert 'locking = "none"' in caught.value.hint
    assert names_in(root) == []
    assert not root.exists()


def test_beside_a_network_file_system_all_is_well(
    tmp_path: Path, mounted: Callable[[Path, str], None]
) -> None:
    """A name that begins alike is not below it; and what is mounted over it counts."""
    mounted(tmp_path / "a", "nfs")
    write_to(tmp_path / "ab")
    write_to(tmp_path / "a-other")
    mounted(tmp_path, "ext4")
    write_to(tmp_path / "b")


def test_on_a_network_file_system_a_store_without_locking_is_written(
    root: Path, mounted: Callable[[Path, str], None]
) -> None:
    """The user has said so."""
    write_to(root)
    set_settings(root, 'locking = "none"\n' + FORMAT.format(1, 1))
    mounted(root, "nfs")
    with open_store(str(root)) as store:
        store.images(NS).delete("x")


def test_a_machine_that_does_not_tell_is_trusted(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not every system has /proc."""
    monkeypatch.setattr(settings, "_MOUNTS", str(root / "nowhere"))
    write_to(root)


def _refusing(monkeypatch: pytest.MonkeyPatch, name: str, act: Callable[..., Any]) -> None:
    do = atomic._do

    def refusing(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return (act if call.__name__ == name else lambda *a, **k: do(call, *a, **k))(*args, **kwargs)

    monkeypatch.setattr(atomic, "_do", refusing)


def test_a_file_system_without_hard_links_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """vfat answers EPERM, which says nothing to anybody."""

    def link(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    _refusing(monkeypatch, "link", link)
    with pytest.raises(FailedPrecondition, match="has no hard links"):
        write_to(root)


def test_a_file_system_that_tells_no_upper_from_lower_case_is_named(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images `a` and `A` would be one."""

    def folding(path: str, flags: int, *args: Any) -> int:
        if path.endswith("a") and flags & os.O_CREAT:
            os.close(os.open(path[:-1] + "A", flags, *args))
        return os.open(path, flags, *args)

    _refusing(monkeypatch, "open", folding)
    with pytest.raises(FailedPrecondition, match="does not tell upper from lower case"):
        write_to(root)


# Whose


@pytest.fixture
def no_trust(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IMGTOOL_TRUST_OWNER", raising=False)


@pytest.mark.usefixtures("no_trust")
def test_a_store_of_another_user_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """T16: its owner could change what is below while we work there as we."""
    write_to(root)
    mine = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: mine + 1)
    for use in (write_to, names_in):
        with pytest.raises(PermissionDenied, match=f"belongs to user {mine}, not to {mine + 1}") as caught:
            use(root)
        assert caught.value.hint is not None
        assert "IMGTOOL_TRUST_OWNER=1" in caught.value.hint
    monkeypatch.setenv("IMGTOOL_TRUST_OWNER", "1")
    assert names_in(root) == ["x"]


@pytest.mark.usefixtures("no_trust")
@pytest.mark.parametrize("mode", [0o777, 0o702, 0o1777])
def test_a_store_that_everybody_may_write_is_refused(
    root: Path, mode: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T16: sticky or not; `--root /tmp` is such a directory."""
    write_to(root)
    root.chmod(mode)
    for use in (write_to, names_in):
        with pytest.raises(PermissionDenied, match="may be written by everybody"):
            use(root)
    monkeypatch.setenv("IMGTOOL_TRUST_OWNER", "1")
    assert names_in(root) == ["x"]
    monkeypatch.setenv("IMGTOOL_TRUST_OWNER", "yes")
    with pytest.raises(PermissionDenied):
        names_in(root)


@pytest.mark.usefixtures("no_trust")
@pytest.mark.parametrize("mode", [0o755, 0o770, 0o700])
def test_a_store_that_others_may_read_is_used(root: Path, mode: int) -> None:
    """That is the owner's to decide."""
    write_to(root)
    root.chmod(mode)
    assert names_in(root) == ["x"]


# What an open store shows of itself


def test_failures_leave_no_descriptor_open(root: Path) -> None:
    """A daemon opens stores for weeks."""
    write_to(root)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with open_store(str(root)) as store, pytest.raises(ImgtoolError):
            store.images(NS).create(Image("x", Descriptor("t", Digest.of(b"x"), 1)))
        with open_store(str(root)) as store, pytest.raises(NotFound):
            store.content(NS).writer("ref", lease="absent")
    assert len(os.listdir("/proc/self/fd")) == before
    assert not list((root / "tmp").iterdir())


def test_a_store_may_be_closed_twice_and_used_again(root: Path) -> None:
    """Its temporary files go, and come again."""
    store: DiskStore = open_store(str(root))
    for name in ("x", "y"):
        store.images(NS).create(Image(name, Descriptor("t", Digest.of(b"x"), 1)))
        store.close()
        store.close()
        assert not list((root / "tmp").iterdir())
