"""The frame around the commands: options, errors, exit codes, streams, signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import pytest

from imgtool.cli.table import ALIASES, COMMANDS, GROUPS
from imgtool.digest import Digest
from imgtool.disk import open_store
from imgtool.model import Descriptor, Image
from tests.fixture_runner import ROOT, WORLD, Result, run_here

DIGEST = Digest.of(b"x")


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A directory with a store of two images in `default` and one in `k8s.io`."""
    with open_store(str(tmp_path / "store")) as store:
        for namespace, name in (("default", "a"), ("default", "b"), ("k8s.io", "c")):
            store.images(namespace).create(Image(name, Descriptor("text/plain", DIGEST, 1)))
    return tmp_path


def imgtool(where: Path, *words: str, stdin: bytes = b"") -> Result:
    return run_here(list(words), where, stdin)


def process(
    where: Path, *words: str, stdin: int = subprocess.DEVNULL, stdout: int | IO[bytes] = subprocess.PIPE
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "imgtool", *words],
        cwd=where,
        env={**WORLD, "PYTHONPATH": str(ROOT)},
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.PIPE,
    )


@pytest.mark.parametrize(
    "words",
    [
        ["-q", "-n", "k8s.io", "list"],
        ["list", "-q", "-n", "k8s.io"],
        ["-q", "list", "--namespace", "k8s.io"],
        ["-n", "default", "list", "-qnk8s.io"],
        ["--namespace=default", "list", "--quiet", "--namespace=k8s.io", "--sort", "name"],
    ],
)
def test_global_options_stand_before_and_after_the_command(here: Path, words: list[str]) -> None:
    """Nobody remembers where; the one behind the name is nearer to what is meant, and wins."""
    assert imgtool(here, *words).stdout == b"c\n"


def test_options_of_a_group_stand_anywhere(here: Path) -> None:
    for words in (["-q", "namespace", "list"], ["namespace", "-q", "list"], ["ns", "ls", "-q"]):
        assert imgtool(here, *words).stdout == b"default\nk8s.io\n"


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({}, "default"),
        ({"CONTAINERD_NAMESPACE": "c"}, "c"),
        ({"IMGTOOL_NAMESPACE": "i", "CONTAINERD_NAMESPACE": "c"}, "i"),
        ({"IMGTOOL_NAMESPACE": "", "CONTAINERD_NAMESPACE": "c"}, "c"),
    ],
)
def test_the_namespace_comes_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, env: dict[str, str], expected: str
) -> None:
    """Who has set it for ctr has set it for us."""
    from imgtool.cli.context import Context

    for name in ("IMGTOOL_NAMESPACE", "CONTAINERD_NAMESPACE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert Context().namespace == expected


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"HOME": "/h"}, "/h/.local/share/imgtool"),
        ({"HOME": "/h", "XDG_DATA_HOME": "/x/"}, "/x/imgtool"),
        ({"HOME": "/h", "XDG_DATA_HOME": "relative"}, "/h/.local/share/imgtool"),
        ({"HOME": "/h", "XDG_DATA_HOME": "/x", "IMGTOOL_ROOT": "r"}, "r"),
    ],
)
def test_the_root_comes_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, env: dict[str, str], expected: str
) -> None:
    from imgtool.cli.context import Context

    for name in ("IMGTOOL_ROOT", "XDG_DATA_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert Context().root == expected


def test_without_a_home_there_is_no_store_to_find(monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon's environment may be empty, and its user unknown: no store is made in a directory `~`."""
    from imgtool.cli.context import Context
    from imgtool.errors import InvalidArgument

    for name in ("IMGTOOL_ROOT", "XDG_DATA_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 4_000_000_000)
    with pytest.raises(InvalidArgument, match="home") as caught:
        _ = Context().root
    assert caught.value.hint == "give --root"


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        ([], "missing command", "try 'imgtool --help'"),
        (["lst"], "no such command 'imgtool lst'", "did you mean 'list'?"),
        (["xyzzy"], "no such command 'imgtool xyzzy'", "try 'imgtool --help'"),
        (["namespace"], "missing command", "try 'imgtool namespace --help'"),
        (["namespace", "lust"], "no such command 'imgtool namespace lust'", "did you mean 'list'?"),
        (["list", "--limits"], "no such option: --limits", "did you mean --limit?"),
        (["list", "--sort"], "option '--sort' requires an argument", "try 'imgtool list --help'"),
        (["list", "--limit", "x"], "invalid value for '--limit': 'x' is not a whole number", None),
        (["label"], "missing argument 'NAME'", "try 'imgtool label --help'"),
        (["--root", "", "list"], "--root is empty", None),
        (["-n", "a/b", "list"], "invalid namespace 'a/b'", None),
        (["list", "--format", "yaml"], "unknown format 'yaml'", None),
        (
            ["list", "--lock-timeout", "nan"],
            "invalid value for '--lock-timeout': 'nan' is not a finite number",
            "try 'imgtool list --help'",
        ),
        (
            ["--lock-timeout", "inf", "list"],
            "invalid value for '--lock-timeout': 'inf' is not a finite number",
            "try 'imgtool --help'",
        ),
        (["delete", "json", "--bogus"], "no such option: --bogus", "did you mean --verbose?"),
    ],
)
def test_wrong_usage_is_told_in_one_line_with_a_way_out(
    tmp_path: Path, words: list[str], message: str, hint: str | None
) -> None:
    result = imgtool(tmp_path, *words)
    lines = result.stderr.decode().splitlines()
    assert (result.code, result.stdout, lines[0]) == (2, b"", f"imgtool: {message}")
    if hint:
        assert lines[1:] == [f"hint: {hint}"]
    assert not (tmp_path / "store").exists()


def test_version_is_told_without_a_store(tmp_path: Path) -> None:
    from imgtool import __version__

    assert imgtool(tmp_path, "--version").stdout.decode() == f"imgtool {__version__}\n"


@pytest.mark.parametrize(
    "words", [["--format", "json", "resolve", "a", "x"], ["resolve", "x", "--format=json"]]
)
def test_errors_are_json_lines_where_the_output_is(here: Path, words: list[str]) -> None:
    """A program that reads one stream must be able to read the other."""
    result = imgtool(here, *words)
    assert json.loads(result.stderr) == {
        "schema": 1,
        "level": "error",
        "code": "NOT_FOUND",
        "exit": 3,
        "message": "image 'x' not found",
    }
    assert json.loads(result.stdout)["schema"] == 1


@pytest.mark.parametrize(
    "words",
    [
        ["list", "--format", "json", "--limit", "x"],
        ["list", "--limit", "x", "--format=jsonl"],
        ["--format", "json", "--nonsense"],
        ["--format", "json"],
        ["--format", "json", "nonsense"],
    ],
)
def test_a_usage_error_with_format_json_is_json(tmp_path: Path, words: list[str]) -> None:
    """Also where the line could not be parsed so far as to know the format."""
    found = json.loads(imgtool(tmp_path, *words).stderr)
    assert (found["exit"], found["code"]) == (2, "INVALID_ARGUMENT")


@pytest.mark.parametrize(
    ("path", "code", "why"), [("absent", 3, b"no such file or directory"), (".", 1, b"is a directory")]
)
def test_a_list_of_names_that_cannot_be_read_is_named(
    tmp_path: Path, path: str, code: int, why: bytes
) -> None:
    """Opening tells the name, reading does not."""
    result = imgtool(tmp_path, "ingest", "--files0-from", path)
    assert (result.code, result.stderr) == (code, b"imgtool: cannot read '%s': %s\n" % (path.encode(), why))


def test_a_limit_may_be_larger_than_any_list(here: Path) -> None:
    result = imgtool(here, "list", "-q", "--limit", "99999999999999999999")
    assert (result.code, result.stdout) == (0, b"a\nb\n")


def test_verbose_says_which_store_and_namespace_are_meant(here: Path) -> None:
    """The first question when an image is not where it is looked for."""
    result = imgtool(here, "-v", "list", "-q", "-n", "k8s.io")
    assert (result.stdout, result.stderr) == (b"c\n", b"imgtool: store 'store', namespace 'k8s.io'\n")


def test_a_command_goes_on_past_a_failure_and_exits_with_the_first(here: Path) -> None:
    result = imgtool(here, "delete", "x", "a", "\0", "b")
    assert (result.code, result.stdout) == (3, b"a\nb\n")
    assert result.stderr.decode().splitlines() == [
        "imgtool: image 'x' not found",
        "imgtool: image name contains NUL",
    ]


@pytest.mark.parametrize("words", [["delete", "--all"], ["update", "--all", "-l", "x=1"], ["info"]])
def test_all_are_not_all_where_a_name_cannot_be_read(here: Path, words: list[str]) -> None:
    """Of a long name only its record tells it; a script must hear that one image is left."""
    with open_store(str(here / "store")) as store:
        store.images("default").create(Image("x" * 300, Descriptor("text/plain", DIGEST, 1)))
        path = Path(store.engine.layout.image("default", "x" * 300))
    path.chmod(0o600)
    path.write_text("schema = ")
    result = imgtool(here, *words)
    assert (result.code, b"~" in result.stderr) == (6, True)
    assert result.stdout


def test_names_come_from_stdin(here: Path) -> None:
    assert imgtool(here, "resolve", "-", stdin=b"a\n\nb\n").stdout == f"{DIGEST}\n{DIGEST}\n".encode()
    assert imgtool(here, "delete", "-0", "-", stdin=b"a\0b").stdout == b"a\0b\0"


def test_a_policy_without_an_end_is_no_policy(here: Path) -> None:
    """It would be read until the memory is full."""
    rule = b"[[rule]]\nkeep-last = 1\n"
    for size, code in ((1 << 20, 0), ((1 << 20) + 1, 2)):
        (here / "keep.toml").write_bytes(data := rule.ljust(size))
        assert imgtool(here, "gc", "--policy", "keep.toml").code == code
        assert imgtool(here, "gc", "--policy", "-", stdin=data).code == code
    done = imgtool(here, "gc", "--policy", "/dev/zero")
    assert (done.code, done.stderr) == (2, b"imgtool: policy '/dev/zero' has more than 1.0 MiB\n")


def test_a_message_cannot_drive_the_terminal(here: Path) -> None:
    assert imgtool(here, "delete", "\x1b[2J\n").stderr == b"imgtool: image '\\x1b[2J\\x0a' not found\n"


def test_an_internal_error_is_one_line_and_a_traceback_only_on_demand(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("imgtool.cli.listing.listed", broken)
    result = imgtool(here, "list")
    assert (result.code, result.stderr.splitlines()[0]) == (
        1,
        b"imgtool: internal error: ZeroDivisionError: division by zero",
    )
    assert b"Traceback" not in result.stderr
    assert b"Traceback" in imgtool(here, "list", "--debug").stderr


@pytest.mark.parametrize("words", [["list"], ["list", "--sort", "size"], ["--help"], ["--version"]])
def test_a_full_stdout_is_exit_9(here: Path, words: list[str]) -> None:
    """Silence would let a script go on with half a list."""
    with open("/dev/full", "wb") as full:
        child = process(here, *words, stdout=full)
        _, err = child.communicate(timeout=60)
    assert (child.returncode, err) == (9, b"imgtool: cannot write to stdout: no space left on device\n")


@pytest.mark.parametrize("words", [["list"], ["list", "--format", "json"], ["--help"]])
def test_a_closed_pipe_is_exit_141_without_a_word(here: Path, words: list[str]) -> None:
    """`imgtool list | head -1` is no failure to talk about."""
    reader, writer = os.pipe()
    os.close(reader)
    child = process(here, *words, stdout=writer)
    os.close(writer)
    _, err = child.communicate(timeout=60)
    assert (child.returncode, err) == (141, b"")


@pytest.mark.parametrize("closed", ["1>&-", "2>&-", "0<&-", "0<&- 1>&- 2>&-"])
def test_closed_descriptors_are_survived(here: Path, closed: str) -> None:
    """A file that is opened next must not become stdout, and what is printed must not end up in it."""
    line = f'exec "{sys.executable}" -m imgtool list {closed}'
    done = subprocess.run(
        ["sh", "-c", line],
        cwd=here,
        env={**WORLD, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == (1 if "1>&-" in closed else 0)
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("words", ["resolve -", "gc --policy -", "ingest --files0-from -"])
def test_a_closed_stdin_cannot_be_read(here: Path, words: str) -> None:
    """Whatever is to be read from it; an empty one would read as "nothing is asked for"."""
    done = subprocess.run(
        ["sh", "-c", f'exec "{sys.executable}" -m imgtool {words} 0<&-'],
        cwd=here,
        env={**WORLD, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (1, b"imgtool: cannot read stdin: it is closed\n")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_with_its_number_and_no_message(here: Path, number: int, code: int) -> None:
    child = process(here, "delete", "-", stdin=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while _is_starting(child.pid):
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.send_signal(number)
    out, err = child.communicate(timeout=60)
    assert (child.returncode, out, err) == (code, b"", b"")


@pytest.mark.parametrize("listening", [True, False])
def test_an_interrupted_command_has_told_what_it_did(here: Path, listening: bool) -> None:
    """Rows wait in a buffer when stdout is no terminal; and its last flush must not fail aloud."""
    script = (
        "import sys, signal, os\n"
        "from imgtool.__main__ import main\n"
        "from imgtool.cli import listing\n"
        "def listed(*_, **__):\n"
        "    yield {'name': 'done'}\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    yield {'name': 'never'}\n"
        "listing.listed = listed\n"
        "sys.argv[1:] = ['list', '--format', 'jsonl']\n"
        "sys.exit(main())\n"
    )
    reader, writer = os.pipe()
    child = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=here,
        env={**WORLD, "PYTHONPATH": str(ROOT)},
        stdout=writer,
        stderr=subprocess.PIPE,
    )
    os.close(writer)
    with os.fdopen(reader, "rb") as stdout:
        if not listening:
            stdout.close()
        _, err = child.communicate(timeout=60)
        assert (child.returncode, err) == (143, b"")
        assert not listening or stdout.read() == b'{"name": "done"}\n'


def _is_starting(pid: int) -> bool:
    """Whether it does not yet wait for its stdin."""
    return Path(f"/proc/{pid}/wchan").read_text() not in ("pipe_read", "anon_pipe_read", "pipe_wait")


@pytest.mark.parametrize("words", [["list"], ["--sort", "name"], ["delete", "--all"]])
def test_no_store_is_made_by_reading_it(tmp_path: Path, words: list[str]) -> None:
    imgtool(tmp_path, *words)
    assert list(tmp_path.iterdir()) == []


def test_every_name_has_a_summary_that_fits_the_help() -> None:
    summaries = {**COMMANDS, **{f"{g} {c}": s for g, table in GROUPS.items() for c, s in table.items()}}
    assert {
        name for name, text in summaries.items() if not text or text.endswith(".") or len(text) > 66
    } == set()
    assert set(ALIASES.values()) | set(GROUPS) <= set(COMMANDS)


def test_a_lock_that_is_not_released_is_exit_7(here: Path) -> None:
    """A frozen process must not freeze all others."""
    import fcntl

    imgtool(here, "label", "a", "x=1")
    with open(here / "store" / "locks" / "ns-default", "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = imgtool(here, "delete", "a", "--lock-timeout", "0.05")
    assert (result.code, result.stdout) == (7, b"")
    assert imgtool(here, "exists", "a").code == 0
