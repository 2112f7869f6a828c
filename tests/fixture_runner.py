"""Runs the cases under `fixtures/`: `pytest fixtures/NAME/cmd` runs one. See CONTRIBUTING.md.

    cmd           imgtool lines, run in order, no shell; all but the last must exit 0; `#` starts a comment
    stdin         what the last line reads; stdin.N what the N-th reads; else nothing
    in/           files laid beside; a directory in/app.tar/ is packed to app.tar (sorted, mtime 0, uid 0);
                  a link to ../../hello.oci stands for that directory, also as in/hello.tar
    tree-before/  the store as real files; absent = no store
    stdout  stderr  exit    of all lines in a row, and the last one's status; absent = empty, empty, 0
    tree-after    the store as text; absent = as it was laid out
    damaged       exists where `imgtool fsck` need not pass afterwards

`--update-golden` rewrites stdout, stderr, exit and tree-after; `--subprocess` runs real processes.
Random operation ids are numbered, ids that leases get are `<id>` where they stand alone, times that follow
the wall clock are masked (`<now>`, `<in 24h>`), and the directory in which it all happens is `$PWD`.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from imgtool.clock import HOUR, parse_time
from imgtool.digest import Digest
from imgtool.errors import ImgtoolError

ROOT = Path(__file__).resolve().parent.parent
WORLD = {
    "COLUMNS": "80",
    "IMGTOOL_ROOT": "store",
    "LC_ALL": "C.UTF-8",
    "NO_COLOR": "1",
    "SOURCE_DATE_EPOCH": "1700000000",
    "TZ": "UTC",
}
GOLDEN = ("stdout", "stderr", "exit", "tree-after")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z")
_MADE_UP = re.compile(rb"(?m)^[0-9]{1,9}-[A-Za-z0-9_-]{4}$")  # an id of a lease, as containerd makes it
_UNSEEN = ("locks", "cache")  # not part of what a store says


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite the expected output of fixtures")
    parser.addoption("--subprocess", action="store_true", help="run fixtures in real processes")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--update-golden") and os.environ.get("CI"):
        raise pytest.UsageError("--update-golden is refused where CI is set")


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    if file_path.name == "cmd" and file_path.parent.parent == ROOT / "fixtures":
        return CaseFile.from_parent(parent, path=file_path)
    return None


class CaseFile(pytest.File):
    def collect(self) -> Iterator[pytest.Item]:
        yield Case.from_parent(self, name="imgtool")


class Mismatch(Exception):
    """A case did something else than what is written down."""


class Case(pytest.Item):
    def runtest(self) -> None:
        run = run_process if self.config.getoption("--subprocess") else run_here
        home = self.path.parent
        with tempfile.TemporaryDirectory() as directory:
            found = play(home, Path(directory), run)
        expected = {name: _golden(home / name) for name in GOLDEN}
        if self.config.getoption("--update-golden"):
            for name in GOLDEN:
                _write_golden(home / name, found[name])
        elif found != expected:
            raise Mismatch("\n".join(_difference(name, expected[name], found[name]) for name in GOLDEN))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException]) -> str:  # type: ignore[override]
        if isinstance(excinfo.value, Mismatch):
            return str(excinfo.value)
        return str(super().repr_failure(excinfo))

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, 0, self.path.parent.name


class Result:
    """What one process left behind."""

    def __init__(self, code: int, stdout: bytes, stderr: bytes) -> None:
        self.code = code
        self.stdout = stdout
        self.stderr = stderr


Runner = Callable[[list[str], Path, bytes], Result]


def play(home: Path, where: Path, run: Runner) -> dict[str, bytes]:
    """Run the case in `home` inside the empty directory `where`; returns what its golden files should hold.

    Raises:
        Mismatch: a line before the last fails, or fsck does afterwards.
    """
    lay_out(home, where)
    before = tree(where / "store")
    lines = _commands(home / "cmd")
    stdout, stderr, code = b"", b"", 0
    for number, words in enumerate(lines, 1):
        result = run(words, where, _stdin(home, number, len(lines)))
        stdout, stderr, code = stdout + result.stdout, stderr + result.stderr, result.code
        if code and number < len(lines):
            raise Mismatch(f"line {number} exits {code}:\n{result.stderr.decode(errors='replace')}")
    after = tree(where / "store")
    if (where / "store").exists() and not (home / "damaged").exists() and _has_fsck():
        checked = run(["fsck"], where, b"")
        if checked.code:
            told = (checked.stdout + checked.stderr).decode(errors="replace")
            raise Mismatch(f"fsck exits {checked.code} afterwards:\n{told}")
    return {
        "stdout": _MADE_UP.sub(b"<id>", mask(stdout)).replace(os.fsencode(where), b"$PWD"),
        "stderr": mask(stderr).replace(os.fsencode(where), b"$PWD"),
        "exit": f"{code}\n".encode() if code else b"",
        "tree-after": b"" if after == before else after,
    }


def _commands(path: Path) -> list[list[str]]:
    lines = []
    for line in path.read_text().splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        first, *words = shlex.split(line)
        if first != "imgtool":
            raise Mismatch(f"a line of {path} does not start with imgtool: {line}")
        lines.append(words)
    return lines


def _stdin(home: Path, number: int, count: int) -> bytes:
    for name in (f"stdin.{number}", *(["stdin"] if number == count else [])):
        if (home / name).exists():
            return (home / name).read_bytes()
    return b""


def _has_fsck() -> bool:
    return importlib.util.find_spec("imgtool.cli.cmd_fsck") is not None


# --- the world -------------------------------------------------------------------------------------


def lay_out(home: Path, where: Path) -> None:
    """Put `in/` and `tree-before/` of a case into `where`, with the modes that git cannot keep."""
    for entry in sorted((home / "in").iterdir()) if (home / "in").is_dir() else ():
        source, target = _shared(entry), where / entry.name
        if entry.name.endswith(".tar") and source.is_dir():
            target.write_bytes(pack(source))
        elif source.is_dir() and not source.is_symlink():
            shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns(".gitkeep"))
        else:
            shutil.copyfile(source, target, follow_symlinks=False)
    if (home / "tree-before").is_dir():
        shutil.copytree(
            home / "tree-before",
            where / "store",
            symlinks=True,
            ignore=shutil.ignore_patterns(".gitkeep"),
            copy_function=shutil.copyfile,  # as written now, not when the case was checked out
        )
        _store_modes(where / "store")


def _shared(entry: Path) -> Path:
    """What several cases use lies once in `fixtures/`; a link to it stands for it."""
    real = entry.resolve()
    return real if real.parent == ROOT / "fixtures" else entry


def _store_modes(store: Path) -> None:
    for directory, _, files in os.walk(store):
        os.chmod(directory, 0o700)
        for name in files:
            path = Path(directory, name)
            if not path.is_symlink():
                published = name.endswith(".toml") or path.relative_to(store).parts[0] == "objects"
                path.chmod(0o444 if published else 0o600)


def pack(source: Path) -> bytes:
    """The directory as a tar: members sorted, mtime 0, uid 0."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(source.rglob("*")):
            if path.name == ".gitkeep":
                continue
            info = archive.gettarinfo(path, str(path.relative_to(source)))
            info.mtime, info.uid, info.gid, info.uname, info.gname = 0, 0, 0, "", ""
            info.mode = 0o755 if info.isdir() else 0o644
            if info.isreg():
                with path.open("rb") as file:
                    archive.addfile(info, file)
            else:
                archive.addfile(info)
    return buffer.getvalue()


def run_process(words: list[str], where: Path, stdin: bytes) -> Result:
    """Run `imgtool WORDS` as a process of its own."""
    script = Path(sys.executable).with_name("imgtool")
    installed = script.exists()
    done = subprocess.run(
        [script, *words] if installed else [sys.executable, "-m", "imgtool", *words],
        cwd=where,
        env=WORLD if installed else {**WORLD, "PYTHONPATH": str(ROOT)},
        input=stdin,
        capture_output=True,
        umask=0o022,
        timeout=120,
    )
    return Result(done.returncode, done.stdout, done.stderr)


def run_here(words: list[str], where: Path, stdin: bytes) -> Result:
    """Run `imgtool WORDS` in this process: its descriptors, environment, directory and umask are
    exchanged meanwhile.
    """
    from imgtool.cli.main import run

    with (
        tempfile.TemporaryFile() as input_,
        tempfile.TemporaryFile() as output,
        tempfile.TemporaryFile() as errors,
    ):
        input_.write(stdin)
        input_.seek(0)
        with _environment(where), _descriptors(input_.fileno(), output.fileno(), errors.fileno()):
            code = run(words)
        output.seek(0)
        errors.seek(0)
        return Result(code, output.read(), errors.read())


@contextlib.contextmanager
def _environment(where: Path) -> Iterator[None]:
    environment, directory, umask = dict(os.environ), os.getcwd(), os.umask(0o022)
    try:
        _set_environment(WORLD)
        os.chdir(where)
        yield
    finally:
        os.chdir(directory)
        os.umask(umask)
        _set_environment(environment)


def _set_environment(variables: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(variables)
    time.tzset()


@contextlib.contextmanager
def _descriptors(*new: int) -> Iterator[None]:
    old_streams = sys.stdin, sys.stdout, sys.stderr
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    saved = [os.dup(fd) for fd in range(3)]
    try:
        for fd, other in enumerate(new):
            os.dup2(other, fd)
        sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
        yield
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        with contextlib.suppress(OSError):
            sys.stderr.flush()
        sys.stdin, sys.stdout, sys.stderr = old_streams
        for fd, old in enumerate(saved):
            os.dup2(old, fd)
            os.close(old)


# --- what is compared ------------------------------------------------------------------------------


def tree(store: Path) -> bytes:
    """The store as text: mode and path of every file; records and settings in full, objects and the
    bytes of ingests as size and digest, one line for each change in a log. Directories are shown
    where they are empty or not 0700. Locks and the cache are left out.
    """
    if not store.is_dir():
        return b""
    lines: list[str] = []
    for path in sorted(store.rglob("*")):
        name = path.relative_to(store).as_posix()
        if name.split("/")[0] in _UNSEEN:
            continue
        status = path.lstat()
        mode = f"{status.st_mode & 0o7777:04o}"
        if path.is_symlink():
            lines.append(f"{mode} {name} -> {os.readlink(path)}")
        elif path.is_dir():
            if mode != "0700" or not any(path.iterdir()):
                lines.append(f"{mode} {name}/")
        elif name.endswith(".toml"):
            lines += [f"{mode} {name}", *_indented(path.read_bytes())]
        elif name.endswith("/log"):
            lines += [f"{mode} {name}", *(f"    {line}" for line in _log(path))]
        else:
            data = path.read_bytes()
            algorithm = name.split("/")[1] if name.startswith("objects/") else "sha256"
            lines.append(f"{mode} {name}  {len(data)} bytes, {_digest(data, algorithm)}")
    return mask("".join(f"{line}\n" for line in lines).encode())


def _digest(data: bytes, algorithm: str) -> str:
    try:
        return Digest.of(data, algorithm)
    except ImgtoolError:
        return Digest.of(data)


def _indented(data: bytes) -> list[str]:
    text = data.decode("utf-8", "backslashreplace")
    masked = mask(text.encode()).decode()
    if masked != text:  # the seal covers the time that was masked
        masked = re.sub(r"(?m)^# sha256:[0-9a-f]{64}$", "# sha256:<sealed>", masked)
    return [f"    {line}".rstrip() for line in masked.splitlines()]


def _log(path: Path) -> list[str]:
    operations: dict[str, int] = {}
    lines = []
    for raw in path.read_bytes().splitlines():
        try:
            entry = json.loads(raw)
            entry.pop("seal")
            number = operations.setdefault(entry.pop("op"), len(operations) + 1)
        except (ValueError, KeyError, AttributeError):
            lines.append(raw.decode("utf-8", "backslashreplace"))
            continue
        if "kind" in entry:
            what = "created" if entry["old"] is None else "removed" if entry["new"] is None else "replaced"
            lines.append(f"{number} {entry['time']} {entry['kind']} {json.dumps(entry['name'])} {what}")
        else:
            lines.append(f"{number} {json.dumps(entry)}")
    return lines


def mask(data: bytes) -> bytes:
    """`data` with the times that follow the wall clock replaced by what they are to it."""
    now = time.time_ns()

    def replacement(match: re.Match[str]) -> str:
        distance = parse_time(match[0]) - now
        if abs(distance) < HOUR:
            return "<now>"
        if HOUR < distance < 25 * HOUR:
            return f"<in {(distance + HOUR // 2) // HOUR}h>"
        return match[0]

    return _TIME.sub(replacement, data.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")


def _golden(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def _write_golden(path: Path, data: bytes) -> None:
    if data:
        path.write_bytes(data)
    else:
        path.unlink(missing_ok=True)


def _difference(name: str, expected: bytes, found: bytes) -> str:
    old, new = (d.decode("utf-8", "backslashreplace").splitlines() for d in (expected, found))
    return "\n".join(
        difflib.unified_diff(old, new, f"{name} as written down", f"{name} as found", lineterm="")
    )
