"""Hundreds of archives that mean harm, taken in by a user without rights: each is refused in one clear
line, or kept safely, and nothing outside of the store changes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from . import hostile, hostile_driver
from .hostile import CANARY, Case
from .process import SOURCE, WAIT

NOBODY = 65534
MIB = 1 << 20
RSS = 300 * MIB
SECONDS = 10
LINE = 600  # characters of a message, most of which is a path and two digests
LINES = 22
PROCESSES = 2
ALIVE = "the canary is alive"

CASES = {case.id: case for case in hostile.cases()}
# Each in a process of its own, started like a user's; the others share a driver.
SAMPLE = [
    "T1-blob-at-beside",
    "T2-layer-is-symbolic-link-to-passwd",
    "T3-fifo-3",
    "T4-layer-path",
    "T5-layer-2-to-63",
    "T6-layer",
    "T7-manifest-with-manifests",
    "T8-index.json-deep",
    "T10-zstd-blob",
    "T11-size-2-to-95",
    "T12-index.json",
    "T13-3000-levels",
    "T14-kept-up",
    "T15-member-clear",
]


class Nobody:
    """Processes of a user without rights, in a directory of its own that is thrown away."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.python = self._find_python()

    def workplace(self, name: str) -> Path:
        """A directory that is nobody's, with the canary in it."""
        path = self.base / name
        path.mkdir()
        (path / CANARY).write_text(ALIVE)
        for mine in (path, path / CANARY):
            self._give(mine)
        return path

    def file(self, name: str) -> Path:
        """An empty file that nobody may write."""
        path = self.base / name
        path.touch()
        self._give(path)
        return path

    def start(self, *args: str | Path, python: str | None = None, **more: Any) -> subprocess.Popen[bytes]:
        rights: dict[str, Any] = {}
        if os.getuid() == 0:
            rights = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        world = {"LC_ALL": "C.UTF-8", "TZ": "UTC", "NO_COLOR": "1", "PATH": "/usr/bin:/bin"}
        paths = {"PYTHONPATH": f"{SOURCE}:{sysconfig.get_path('purelib')}", "TMPDIR": str(self.base)}
        return subprocess.Popen(
            [python or self.python, *map(str, args)],
            env={**world, **paths, "HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"},
            cwd="/",
            **{"stdin": subprocess.DEVNULL, **rights, **more},
        )

    def _find_python(self) -> str:
        """A Python like ours that nobody may run: ours may lie in somebody's home."""
        for python in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
            try:
                words = ("-c", "import typer, blake3, imgtool.cli.main")
                if self.start(*words, python=python, stderr=subprocess.DEVNULL).wait(WAIT) == 0:
                    return python
            except OSError:
                continue
        pytest.skip("there is no Python with imgtool's packages that a user without rights may run")

    def _give(self, path: Path) -> None:
        if os.getuid() == 0:
            os.chown(path, NOBODY, NOBODY)


@pytest.fixture(scope="module")
def nobody() -> Iterator[Nobody]:
    base = Path(tempfile.mkdtemp(prefix="imgtool-hostile."))
    try:
        base.chmod(0o1777)
        yield Nobody(base)
    finally:
        shutil.rmtree(base)


@pytest.fixture(scope="module")
def results(nobody: Nobody) -> dict[str, dict[str, Any]]:
    """What came of every archive, by its id."""
    drivers = []
    for number in range(PROCESSES):
        todo: list[dict[str, str]] = []
        for case in list(CASES.values())[number::PROCESSES]:
            path = nobody.base / f"{len(todo)}.{number}"
            path.write_bytes(case.build())
            todo.append({"id": case.id, "path": str(path), "kind": case.kind})
        listed = nobody.base / f"cases.{number}"
        listed.write_text(json.dumps(todo))
        told = nobody.file(f"results.{number}")
        words = (hostile_driver.__file__, nobody.workplace(f"work.{number}"), listed, told)
        drivers.append((nobody.start(*words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL), told))
    found = {}
    for process, told in drivers:
        assert process.wait(600) == 0
        found.update({result["id"]: result for result in json.loads(told.read_bytes())})
    return found


def test_there_are_enough_of_them() -> None:
    """At least 200, and some of each threat that an archive can carry."""
    assert len(CASES) >= 200
    assert {case.threat for case in CASES.values()} == {f"T{n}" for n in range(1, 16) if n != 9}
    assert CASES.keys() >= set(SAMPLE)


@pytest.mark.parametrize("case", [pytest.param(case, id=id) for id, case in CASES.items()])
def test_a_hostile_archive_does_no_harm(case: Case, results: dict[str, dict[str, Any]]) -> None:
    """From a file and from a pipe: the right exit status, bounded time and memory, nothing under a name
    that is not due, a sound store, and the canary lives.
    """
    result = results[case.id]
    for way, found in result["ways"].items():
        said = found["stderr"].encode("latin-1").decode()
        assert found["code"] == case.code, f"{way}: {said}"
        assert found["names"] == sorted(case.kept), way
        assert found["litter"] == [], way
        assert found["cpu"] < SECONDS, way
        assert found["rss"] <= RSS, way
        check_said(case, said)
        check_printable(found["stdout"].encode("latin-1").decode())
    checked = result["checked"]
    assert checked["code"] == 0, checked["stderr"]
    check_printable(checked["stdout"].encode("latin-1").decode())
    assert result["beside"] == {CANARY: ALIVE}


def check_said(case: Case, said: str) -> None:
    """One line that tells what is wrong, at most one more with the way out; nothing that moves a cursor."""
    assert "internal error" not in said
    assert "Traceback" not in said
    check_printable(said)
    lines = said.splitlines()
    assert len(lines) <= LINES
    assert all(len(line) <= LINE for line in lines), said[:1000]
    assert case.says in said
    if case.code:
        assert re.match("imgtool: [^ ]", said)
        assert len(lines) == 1 or (len(lines) == 2 and lines[1].startswith("hint: ")), said


def check_printable(text: str) -> None:
    """No control character but the end of a line."""
    assert all(c.isprintable() for c in text.replace("\n", "")), repr(text[:300])


@pytest.mark.parametrize("id", SAMPLE)
def test_a_process_of_its_own_says_the_same(
    id: str, nobody: Nobody, results: dict[str, dict[str, Any]], request: pytest.FixtureRequest
) -> None:
    """What the driver has seen is what a user sees."""
    case = CASES[id]
    work = nobody.workplace(f"sample-{SAMPLE.index(id)}")
    archive = nobody.base / f"sample-{SAMPLE.index(id)}.tar"
    archive.write_bytes(case.build())
    words = ("-m", "imgtool", "--root", work / "store", "ingest", f"{case.kind}:{archive}")
    with nobody.start(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        out, said = process.communicate(timeout=WAIT)
    assert process.returncode == case.code, said.decode()
    check_said(case, said.decode())
    check_printable(out.decode())
    assert (work / CANARY).read_text() == ALIVE
    assert sorted(os.listdir(work)) in ([CANARY], [CANARY, "store"])


def test_a_dry_run_of_large_documents_needs_no_memory(nobody: Nobody) -> None:
    """A dry run keeps nothing in the store, and must not keep it in memory instead."""
    case = CASES["T13-large-annotations"]
    archive = nobody.base / "large.tar"
    archive.write_bytes(case.build())
    work = nobody.workplace("dry")
    words = ("-m", "imgtool", "--root", work / "store", "ingest", "--dry-run", f"{case.kind}:{archive}")
    process = nobody.start(*words, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    assert usage.ru_maxrss * 1024 <= RSS
    assert os.listdir(work) == [CANARY]
