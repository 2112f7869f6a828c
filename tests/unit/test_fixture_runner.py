"""The runner sees what it should: every test of a command rests on that."""

from __future__ import annotations

import io
import os
import tarfile
import time
from pathlib import Path

import pytest

from imgtool.clock import HOUR, SECOND, format_time
from tests.fixture_runner import GOLDEN, Mismatch, lay_out, mask, pack, play, run_here, run_process, tree

RUNNERS = pytest.mark.parametrize("run", [run_here, run_process])


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A case that does nothing yet."""
    path = tmp_path / "home"
    path.mkdir()
    return path


@pytest.fixture
def where(tmp_path: Path) -> Path:
    path = tmp_path / "where"
    path.mkdir()
    return path


@RUNNERS
def test_everything_that_a_case_does_is_found(home: Path, where: Path, run: object) -> None:
    (home / "cmd").write_text("# a story\n\nimgtool namespace create 'a.b'\nimgtool delete -\n")
    (home / "stdin").write_text("x\n")
    found = play(home, where, run)  # type: ignore[arg-type]  # one of two functions
    assert (found["stdout"], found["exit"]) == (b"a.b\n", b"3\n")
    assert found["stderr"] == b"imgtool: image 'x' not found\n"
    assert b"0444 namespaces/a.b/namespace.toml\n    schema = 1\n" in found["tree-after"]
    assert b'    1 2023-11-14T22:13:20.000000000Z namespace "a.b" created\n' in found["tree-after"]
    assert set(found) == set(GOLDEN)


@RUNNERS
def test_the_two_ways_to_run_find_the_same(home: Path, where: Path, run: object) -> None:
    """Otherwise `--subprocess` would need expectations of its own."""
    (home / "cmd").write_text("imgtool namespace list -0\nimgtool --help\nimgtool list -n k8s.io --sort x\n")
    other = where.with_name("other")
    other.mkdir()
    assert play(home, where, run) == play(home, other, run_here)  # type: ignore[arg-type]  # as above


def test_a_line_that_fails_before_the_last_is_a_failure(home: Path, where: Path) -> None:
    (home / "cmd").write_text("imgtool delete x\nimgtool list\n")
    with pytest.raises(Mismatch, match="line 1 exits 3"):
        play(home, where, run_here)


def test_a_line_must_be_ours(home: Path, where: Path) -> None:
    """A case is no shell script."""
    (home / "cmd").write_text("rm -rf store\n")
    with pytest.raises(Mismatch, match="does not start with imgtool"):
        play(home, where, run_here)


def test_a_store_that_is_as_before_is_not_written_down_again(home: Path, where: Path) -> None:
    (home / "cmd").write_text("imgtool list\n")
    (home / "tree-before" / "namespaces" / "default").mkdir(parents=True)
    (home / "tree-before" / "imgtool.toml").write_text("[format]\nread = 1\nwrite = 1\n")
    (home / "tree-before" / "namespaces" / "default" / "namespace.toml").write_text(
        'schema = 1\nname = "default"\ncreated = "2023-11-14T22:13:20.000000000Z"\n'
    )
    assert play(home, where, run_here)["tree-after"] == b""


def test_a_new_store_gets_the_modes_that_git_cannot_keep(home: Path, where: Path) -> None:
    for name in ("objects/sha256/ab/cd", "namespaces/default/images/a.toml", "namespaces/default/log"):
        (home / "tree-before" / name).parent.mkdir(parents=True, exist_ok=True)
        (home / "tree-before" / name).write_text("")
    (home / "tree-before" / "tmp").mkdir()
    (home / "tree-before" / "tmp" / ".gitkeep").write_text("")
    lay_out(home, where)
    modes = {str(p.relative_to(where)): f"{p.stat().st_mode & 0o777:o}" for p in (where / "store").rglob("*")}
    assert modes["store/objects/sha256/ab/cd"] == modes["store/namespaces/default/images/a.toml"] == "444"
    assert modes["store/namespaces/default/log"] == "600"
    assert modes["store/tmp"] == modes["store/objects"] == "700"
    assert "store/tmp/.gitkeep" not in modes


@pytest.mark.parametrize(
    "change",
    [
        lambda store: (store / "objects/sha256/ab/cd").write_bytes(b"y"),
        lambda store: (store / "objects/sha256/ab/cd").chmod(0o644),
        lambda store: (store / "namespaces/n/images/a.toml").write_text("b = 1\n"),
        lambda store: (store / "namespaces/n/log").write_text("{}\n"),
        lambda store: (store / "stranger").write_text(""),
        lambda store: (store / "tmp").rmdir(),
        lambda store: (store / "objects").chmod(0o755),
        lambda store: (store / "link").symlink_to("x"),
    ],
)
def test_every_change_of_a_store_shows_in_its_text(tmp_path: Path, change: object) -> None:
    """What the text leaves out is not tested by any fixture."""
    for name in ("objects/sha256/ab/cd", "namespaces/n/images/a.toml", "namespaces/n/log"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x = 1\n")
        (tmp_path / name).chmod(0o600)
    (tmp_path / "tmp").mkdir()
    for path in (tmp_path, *tmp_path.rglob("*")):
        if path.is_dir():
            path.chmod(0o700)
    before = tree(tmp_path)
    change(tmp_path)  # type: ignore[operator]  # one of the functions above
    assert tree(tmp_path) != before


def test_times_of_the_wall_clock_are_masked_and_their_seals(tmp_path: Path) -> None:
    """A lease for stdin expires in 24 hours from now, whatever SOURCE_DATE_EPOCH is."""
    soon = format_time(time.time_ns() + 24 * HOUR - 5 * SECOND)
    (tmp_path / "lease.toml").write_text(f'expire = "{soon}"\n# sha256:{"0" * 64}\n')
    (tmp_path / "old.toml").write_text(f'created = "2023-11-14T22:13:20.000000000Z"\n# sha256:{"0" * 64}\n')
    text = tree(tmp_path).decode()
    assert '    expire = "<in 24h>"\n    # sha256:<sealed>\n' in text
    assert f'    created = "2023-11-14T22:13:20.000000000Z"\n    # sha256:{"0" * 64}\n' in text
    assert mask(f"{format_time(time.time_ns())}\xff".encode("latin-1")) == b"<now>\xff"


def test_a_tar_is_packed_the_same_every_time(tmp_path: Path) -> None:
    """Its digest is written down."""
    for name in ("b", "a/c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    first = pack(tmp_path)
    os.utime(tmp_path / "b", (1, 1))
    (tmp_path / "b").chmod(0o600)
    assert pack(tmp_path) == first
    with tarfile.open(fileobj=io.BytesIO(first)) as archive:
        assert [(m.name, m.mtime, m.uid, f"{m.mode:o}") for m in archive] == [
            ("a", 0, 0, "755"),
            ("a/c", 0, 0, "644"),
            ("b", 0, 0, "644"),
        ]


def test_the_process_is_as_before_afterwards(where: Path) -> None:
    """Cases run in the test's own process and must leave no trace in it."""
    before = dict(os.environ), os.getcwd(), time.tzname, sorted(os.listdir("/proc/self/fd"))
    run_here(["namespace", "create", "a"], where, b"")
    run_here(["nonsense"], where, b"")
    assert (dict(os.environ), os.getcwd(), time.tzname, sorted(os.listdir("/proc/self/fd"))) == before


def test_golden_files_are_not_rewritten_in_ci(pytestconfig: pytest.Config) -> None:
    """There they would agree with whatever the code does."""
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--update-golden", "fixtures/list-empty/cmd"],
        cwd=pytestconfig.rootpath,
        env={**os.environ, "CI": "true"},
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert b"refused" in done.stderr


def test_a_skipped_test_is_a_failure_in_ci(pytestconfig: pytest.Config, tmp_path: Path) -> None:
    """A run without the tools must not pass for a run with them."""
    import subprocess
    import sys

    test = tmp_path / "test_skip.py"
    test.write_text("import pytest\n\ndef test_it():\n    pytest.skip('no tool')\n")
    for ci, code in (("", pytest.ExitCode.OK), ("true", pytest.ExitCode.TESTS_FAILED)):
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "conftest", "-c", "pyproject.toml", str(test)],
            cwd=pytestconfig.rootpath,
            env={**os.environ, "CI": ci},
            capture_output=True,
            timeout=60,
        )
        assert done.returncode == code, done.stdout.decode()
