"""Faults that the kernel really delivers: failed and fatal system calls, full disks, read-only media.

strace changes what one system call of one run does. Which calls there are, and where, is read from a run
without a fault: a *point* is the n-th `call` of the process, and its *area* is the part of the store that
the call touches. One point of every call and area is tried; IMGTOOL_FAULTS=all tries every one. A kill is
tried at calls that change or lock something: at any other it leaves what the one before left.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import tarfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from .images import need
from .process import WAIT, Imgtool, environment

GROWS = {
    "write",
    "pwrite64",
    "fsync",
    "link",
    "linkat",
    "rename",
    "renameat",
    "renameat2",
    "mkdir",
    "mkdirat",
}
CHANGES = GROWS | {
    "unlink",
    "unlinkat",
    "rmdir",
    "ftruncate",
    "copy_file_range",
    "utimensat",
    "chmod",
    "flock",
}
ALL = CHANGES | {"open", "openat", "read", "pread64", "getdents64", "fchmod", "fdatasync", "syncfs", "close"}
CALLS = {"error=EIO": ALL, "error=ENOSPC": GROWS, "signal=KILL": CHANGES}
EIO, ENOSPC = 1, 9  # what imgtool exits with

State = dict[str, tuple[str, dict[str, str]]]


@dataclass(frozen=True)
class Point:
    call: str
    n: int
    area: str


@dataclass(frozen=True)
class Scenario:
    """A command, what the store holds before it, and the states that it may leave."""

    args: tuple[str | Path, ...]
    old: State
    new: State
    between: tuple[State, ...] = ()


def strace(*options: str, log: Path, store: Imgtool, args: Sequence[str | Path]) -> tuple[int, bytes]:
    """Run imgtool under strace; returns its exit status, negative for a signal, and its stderr.

    Never with --seccomp-bpf: it loses injected signals in silence.
    """
    argv = ["strace", "-f", "-qq", "-y", "-s", "0", "-o", str(log), *options, *store.argv(*args)]
    done = subprocess.run(
        argv, capture_output=True, stdin=subprocess.DEVNULL, timeout=WAIT, env=environment()
    )
    return done.returncode, done.stderr


def points(store: Imgtool, args: Sequence[str | Path], log: Path) -> list[Point]:
    """All system calls on the store that a run without a fault makes, in their order."""
    # `?`: where the machine has such a call.
    trace = "trace=" + ",".join(f"?{call}" for call in sorted(ALL))
    code, err = strace("-e", trace, log=log, store=store, args=args)
    assert code == 0, err.decode()
    seen: dict[tuple[str, str], int] = {}
    found = []
    for line in log.read_text(errors="replace").splitlines():
        entry = re.match(r"(\d+) +(\w+)\(", line)
        if not entry:
            continue
        process, call = entry.groups()
        n = seen[process, call] = seen.get((process, call), 0) + 1
        paths = re.findall(re.escape(str(store.root)) + r"(?:/[^\s\">]*)?", line)
        if paths:
            found.append(Point(call, n, area(Path(paths[-1]).relative_to(store.root))))
    return found


def area(path: Path) -> str:
    """The part of the store: `objects`, `images`, `content`, `log`, `locks`, …"""
    parts = path.parts
    return (parts[2] if len(parts) > 2 and parts[0] == "namespaces" else parts[0]) if parts else "root"


def sample(all_points: list[Point]) -> list[Point]:
    """The last point of each call and area: everything before it has happened by then."""
    if os.environ.get("IMGTOOL_FAULTS") == "all":
        return all_points
    return list({(p.call, p.area): p for p in all_points}.values())


def state(store: Imgtool) -> State:
    """The images as their records say, read as files."""
    return {r["name"]: (r["target"]["digest"], r.get("labels", {})) for r in store.records()}


def need_tracing() -> None:
    """Skip the test, saying why, unless strace may trace here."""
    need("strace")
    done = subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True)
    if done.returncode:
        pytest.skip(f"strace may not trace here: {done.stderr.decode().strip()}")


def prepare(kind: str, store: Imgtool, hello: Path, tmp_path: Path) -> Scenario:
    """A store with one image from a layout and one from a file, and the command `kind` to run on it."""
    file = tmp_path / "file"
    file.write_text("some bytes\n" * 1000)
    store("ingest", file, "--name", "file", "--label", "kind=file")
    if kind != "ingest":
        store("ingest", f"oci:{hello}", "--name", "base")
    old = state(store)
    unlabelled: dict[str, str] = {}
    if kind == "ingest":
        twin = Imgtool(tmp_path / "twin")
        twin("ingest", f"oci:{hello}", "--name", "new")
        return Scenario(("ingest", f"oci:{hello}", "--name", "new"), old, old | state(twin))
    digest, _ = old["base"]
    rest = {"file": old["file"]}
    match kind:
        case "tag":
            return Scenario(("tag", "base", "new"), old, old | {"new": (digest, unlabelled)})
        case "update":
            labelled = {"base": (digest, {"tier": "gold"})}
            return Scenario(("update", "base", "--label", "tier=gold"), old, old | labelled)
        case "rename":
            moved = {"moved": (digest, unlabelled)}
            return Scenario(("update", "base", "--rename", "moved"), old, rest | moved, (old | moved,))
        case "delete":
            return Scenario(("delete", "base"), old, rest)
    store("delete", "base")
    return Scenario(("gc",), rest, rest)


def copy_of(store: Imgtool, to: Path) -> Imgtool:
    """The store as it was, times included, in a fresh place."""
    subprocess.run(["cp", "-a", store.root, to], check=True)
    return Imgtool(to)


@pytest.mark.parametrize("fault", CALLS)
@pytest.mark.parametrize("kind", ["ingest", "tag", "update", "rename", "delete", "gc"])
def test_a_fault_leaves_the_old_state_or_the_new(
    kind: str, fault: str, store: Imgtool, hello: Path, tmp_path: Path
) -> None:
    """Killed or failed at any call: nothing half done, no lock left, and the same command then succeeds."""
    need_tracing()
    scenario = prepare(kind, store, hello, tmp_path)
    copy_of(store, tmp_path / "first")(*scenario.args)  # compiles what is not: those are calls too
    all_points = points(copy_of(store, tmp_path / "second"), scenario.args, tmp_path / "log")
    tried = sample([point for point in all_points if point.call in CALLS[fault]])
    assert len(tried) >= 3

    def attempt(number: int) -> AssertionError | None:
        try:
            check_point(tried[number], fault, kind, scenario, copy_of(store, tmp_path / f"trial-{number}"))
        except AssertionError as failure:
            return failure
        return None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        failures = [failure for failure in pool.map(attempt, range(len(tried))) if failure]
    if failures:
        raise ExceptionGroup(f"{len(failures)} of {len(tried)} points", failures)


def check_point(point: Point, fault: str, kind: str, scenario: Scenario, trial: Imgtool) -> None:
    """Run the command with the fault at `point`, then judge what it said, what it left, what follows."""
    inject, log = f"inject={point.call}:{fault}:when={point.n}", trial.root.with_suffix(".log")
    code, err = strace("-e", f"trace={point.call}", "-e", inject, log=log, store=trial, args=scenario.args)
    hit = "\n".join(re.findall(r".*INJECTED.*|.*[+]{3}.*", log.read_text(errors="replace")))
    where = f"{inject} in {point.area}: exit {code}\n{err.decode()}{hit}"
    check_told(point, fault, code, err, hit, kind, where)
    check_state(scenario, trial, code, where)
    check_next(scenario, trial, where)


def check_told(point: Point, fault: str, code: int, err: bytes, log: str, kind: str, where: str) -> None:
    """The fault really happened, and the command said so as documented."""
    assert b"Traceback" not in err, where
    if fault == "signal=KILL":
        assert "killed by SIGKILL" in log, where
        assert code == -9, where
        return
    assert "(INJECTED)" in log, where
    expected = EIO if fault == "error=EIO" else ENOSPC
    assert code in (0, expected), where
    removes_on = kind in ("rename", "delete", "gc") and fault == "error=ENOSPC"
    must_be_told = point.call in GROWS - {"mkdir", "mkdirat"}
    warned = kind == "gc" and b"gc has ended without a line in the log" in err
    assert code or removes_on or warned or not must_be_told, f"a failure was not told: {where}"
    assert not code or err.startswith(b"imgtool: "), where


def check_state(scenario: Scenario, trial: Imgtool, code: int, where: str) -> None:
    """The old state or the new one, and the new one for sure after exit 0; every object whole."""
    now = state(trial)
    assert now in ([scenario.new] if code == 0 else [scenario.old, scenario.new, *scenario.between]), where
    done = trial.run("fsck")
    assert done.returncode == 0, where + done.stdout.decode() + done.stderr.decode()
    assert trial.reachable().items() <= trial.objects().items(), where


def check_next(scenario: Scenario, trial: Imgtool, where: str) -> None:
    """The same command at once: it succeeds, or says that it is done already; then gc takes the litter."""
    was_new = state(trial) == scenario.new
    before = time.monotonic()
    done = trial.run(*scenario.args)
    assert done.returncode == 0 or (was_new and done.returncode in (3, 4, 5)), where + done.stderr.decode()
    assert time.monotonic() - before < 10, f"waited for a lock that nobody holds: {where}"
    assert state(trial) == scenario.new, where
    trial("gc")
    assert trial.objects() == trial.reachable(), where
    assert not list((trial.root / "tmp").glob("*")), where


@pytest.fixture
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file system of its own, 4 MiB unless a test asks for other options."""
    options = getattr(request, "param", "size=4m")
    at = tmp_path / "disk"
    at.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "imgtool-test", at], capture_output=True)
    if done.returncode:
        pytest.skip(f"cannot mount a tmpfs: {done.stderr.decode().strip()}")
    yield at
    subprocess.run(["umount", at], check=True)


def fill(path: Path) -> None:
    """Write to `path` until the disk is full."""
    with path.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while file.write(b"\0" * size):
                    pass
            except OSError:
                continue


def test_an_ingest_that_does_not_fit_changes_nothing(disk: Path, hello: Path, tmp_path: Path) -> None:
    """The disk fills in the middle of a blob: exit 9, the old images whole, and the space is given back."""
    store = Imgtool(disk / "store")
    store("ingest", f"oci:{hello}", "--name", "base")
    before, free = state(store), shutil.disk_usage(disk).free
    large = tmp_path / "large"
    large.write_bytes(os.urandom(8 << 20))
    done = store.run("ingest", large)
    assert done.returncode == ENOSPC, done.stderr.decode()
    assert state(store) == before
    assert shutil.disk_usage(disk).free >= free - 65536
    store.check_collected()


@pytest.mark.parametrize("member", ["blobs/sha256/" + 64 * "a", "unused"])
def test_an_archive_that_unpacks_to_more_than_the_disk_leaves_nothing(
    disk: Path, hello: Path, tmp_path: Path, member: str
) -> None:
    """A few KiB of gzip become 64 MiB of zeros, and from a pipe nobody knows yet whether they are needed."""
    store = Imgtool(disk / "store")
    store("ingest", f"oci:{hello}", "--name", "base")
    before, free = state(store), shutil.disk_usage(disk).free
    bomb = tmp_path / "bomb.tar.gz"
    with tarfile.open(bomb, "w:gz") as tar:
        tar.add(hello / "oci-layout", "oci-layout")
        zeros = tarfile.TarInfo(member)
        zeros.size = 64 << 20
        with open("/dev/zero", "rb") as source:
            tar.addfile(zeros, source)
        tar.add(hello / "index.json", "index.json")
        tar.add(hello / "blobs", "blobs")
    with bomb.open("rb") as stdin:
        done = store.run("ingest", "-", "-t", "bomb", stdin=stdin)
    assert done.returncode == ENOSPC, done.stderr.decode()
    assert state(store) == before
    assert shutil.disk_usage(disk).free >= free - 65536
    store.check_collected()


def test_a_full_disk_can_still_be_read_and_emptied(disk: Path, hello: Path) -> None:
    """Nothing can be added, and what makes room still works: otherwise a full disk would be a trap."""
    store = Imgtool(disk / "store")
    store("ingest", f"oci:{hello}", "--name", "base")
    store("tag", "base", "other")
    before = state(store)
    fill(disk / "filler")
    for args in (
        ["tag", "base", "new"],
        ["update", "base", "-l", "a=b"],
        ["ingest", f"oci:{hello}", "-t", "x"],
    ):
        assert store.run(*args).returncode == ENOSPC, args
        assert state(store) == before
    store.check()
    store("delete", "base", "other")
    assert state(store) == {}
    store("gc")
    assert store.objects() == {}
    store.check_collected()
    (disk / "filler").unlink()
    store("ingest", f"oci:{hello}", "--name", "base")
    store.check_collected()


def test_what_was_deleted_on_a_full_disk_makes_gc_due(disk: Path, hello: Path, tmp_path: Path) -> None:
    """Its line had no room in the log; nor did the first gc have any to say that it has ended."""
    store = Imgtool(disk / "store")
    store("ingest", f"oci:{hello}", "--name", "base")
    (tmp_path / "f").write_bytes(b"data")
    # A line with this label fits into no block that is begun.
    store("ingest", tmp_path / "f", "-l", f"long={'x' * 4000}")
    store("gc")
    assert store("gc", "--auto") == ""
    fill(disk / "filler")
    done = store.run("delete", "f")
    assert (done.returncode, b"without a line in the log" in done.stderr) == (0, True)
    (disk / "filler").unlink()
    store("label", "base", "a=b")
    assert "object" in store("gc", "--auto")
    assert store("gc", "--auto") == ""
    store.check_collected()


@pytest.mark.parametrize("disk", ["size=4m,nr_inodes=60"], indirect=True)
def test_a_disk_without_inodes_is_a_full_disk(disk: Path, hello: Path) -> None:
    """There is room, but not for another file."""
    store = Imgtool(disk / "store")
    store("ingest", f"oci:{hello}", "--name", "base")
    before = state(store)
    for n in range(100):
        try:
            (disk / f"filler-{n}").touch()
        except OSError:
            break
    done = store.run("tag", "base", "new")
    assert (done.returncode, state(store)) == (ENOSPC, before), done.stderr.decode()
    store.check()
    store("delete", "base")
    store("gc")
    assert store.objects() == {}


def test_read_only_media_can_be_read_and_not_changed(disk: Path, hello: Path, tmp_path: Path) -> None:
    """A store on a mounted archive: readers do not write a byte, writers say why they cannot."""
    store = Imgtool(disk / "store")
    store("ingest", f"oci:{hello}", "--name", "base")
    file = tmp_path / "file"
    file.write_text("bytes")
    store("ingest", file, "--name", "garbage")
    store("delete", "garbage")
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    assert list(store.targets()) == ["base"]
    store("inspect", "base")
    store("cat", "base")
    store("gc", "--dry-run")
    store.check()
    for args in (
        ["tag", "base", "x"],
        ["update", "base", "-l", "a=b"],
        ["delete", "base"],
        ["ingest", file],
        ["gc"],
    ):
        done = store.run(*args)
        assert done.returncode == 8, (args, done.stderr.decode())
        assert done.stderr.startswith(b"imgtool: ")
    assert list(state(store)) == ["base"]


def test_a_store_without_write_permission_is_read_only(store: Imgtool, hello: Path) -> None:
    """Somebody's files whose modes say no. Root is asked without its capabilities: then modes count."""
    need("setpriv")
    store("ingest", f"oci:{hello}", "--name", "base")
    before = state(store)
    subprocess.run(["chmod", "-R", "a-w", store.root], check=True)
    mortal = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    for args, code in ((["list"], 0), (["fsck"], 0), (["tag", "base", "x"], 8), (["delete", "base"], 8)):
        done = subprocess.run([*mortal, *store.argv(*args)], capture_output=True, env=environment())
        assert done.returncode == code, (args, done.stderr.decode())
    assert state(store) == before


PRINTS = [
    ["list"],
    ["list", "--format", "json"],
    ["list", "-q"],
    ["inspect", "base"],
    ["cat", "base"],
    ["--help"],
]


@pytest.mark.parametrize("args", PRINTS, ids=" ".join)
def test_a_full_stdout_is_told(store: Imgtool, hello: Path, args: list[str]) -> None:
    """A table that did not reach its file must not look like success."""
    store("ingest", f"oci:{hello}", "--name", "base")
    with open("/dev/full", "wb") as full:
        done = store.run(*args, stdout=full)
    assert done.returncode == ENOSPC, done.stderr.decode()
    assert b"stdout" in done.stderr


@pytest.mark.parametrize("args", PRINTS, ids=" ".join)
def test_a_closed_pipe_ends_in_silence(store: Imgtool, hello: Path, args: list[str]) -> None:
    """`imgtool list | head` is no failure that anybody wants to read about."""
    store("ingest", f"oci:{hello}", "--name", "base")
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as closed:
        done = store.run(*args, stdout=closed)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_never_become_store_files(store: Imgtool, hello: Path, closed: str) -> None:
    """The first file opened after `>&-` is descriptor 1: what is printed would go into an object."""
    for args in (["ingest", f"oci:{hello}", "--name", "base"], ["tag", "base", "new"], ["list"], ["gc"]):
        shell = ["sh", "-c", f'"$@" {closed}', "sh", *store.argv(*args)]
        done = subprocess.run(shell, capture_output=True, timeout=WAIT, env=environment())
        assert b"Traceback" not in done.stderr
    assert sorted(state(store)) == ["base", "new"]
    store.check_collected()


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_modes_do_not_depend_on_the_umask(store: Imgtool, hello: Path, umask: int) -> None:
    """Other people's umask may neither open the store to everybody nor lock its owner out."""
    store("ingest", f"oci:{hello}", "--name", "base", umask=umask)
    store("update", "base", "--label", "a=b", umask=umask)
    store("tag", "base", "new", umask=umask)
    store("delete", "base", umask=umask)
    store("gc", umask=umask)
    for path in [store.root, *store.root.rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode in ((0o700,) if path.is_dir() else (0o600, 0o444)), f"{path} {mode:o}"
    assert all(stat.S_IMODE(store.object(d).stat().st_mode) == 0o444 for d in store.objects())
    store.check_collected()


def test_thirty_two_descriptors_are_enough(store: Imgtool, hello: Path, tmp_path: Path) -> None:
    """Many names and many files in one command are no reason to keep many files open."""
    files = [tmp_path / f"file-{n}" for n in range(100)]
    for path in files:
        path.write_text(path.name)
    for args in (
        ["ingest", *files],
        ["ingest", f"oci:{hello}", "--name", "base"],
        ["tag", "base", *(f"copy-{n}" for n in range(100))],
        ["list"],
        ["fsck"],
        ["delete", "--all"],
        ["gc"],
    ):
        shell = ["sh", "-c", 'ulimit -n 32; exec "$@"', "sh", *store.argv(*args)]
        done = subprocess.run(shell, capture_output=True, timeout=WAIT, env=environment())
        assert done.returncode == 0, (args[0], done.stderr.decode())
    assert store.objects() == {}
    store.check_collected()
