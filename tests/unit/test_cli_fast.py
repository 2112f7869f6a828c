"""The way around Typer does what the way through it does."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import pytest

from imgtool.cli import fast
from imgtool.cli.context import Context
from imgtool.digest import Digest
from imgtool.disk import open_store
from imgtool.model import Descriptor, Image
from tests.fixture_runner import ROOT, WORLD, Result, run_here

Words = list[str]
GLOBAL: list[Words] = [
    [],
    ["-q"],
    ["--quiet"],
    ["-n", "k8s.io"],
    ["--namespace", "a/b"],
    ["--root", ""],
    ["--root", "no"],
]
FORMATS: list[Words] = [[], ["--format", "json"], ["--format", "{name}"], ["--format", "nonsense"]]
WORDS: dict[str, list[Words]] = {
    "list": [[], ["name==a"], ["name==a", "name==b"], ["=="], [""]],
    "ls": [[]],
    "resolve": [[], ["a"], ["a", "x", "b"], ["-"]],
    "exists": [[], ["a"], ["x"], ["-"], ["a", "\0"]],
    "gc": [["--auto"], ["--auto", "word"]],
}


def lines() -> list[Words]:
    """Every option that goes the fast way, before and behind the name, with every kind of word."""
    result = [["--version"]]
    for name, words in WORDS.items():
        own: list[Words] = [[], *([option] for option in fast.COMMANDS.get(name, fast.COMMANDS["list"])[1])]
        for before, option, form, rest in itertools.product(GLOBAL, own, FORMATS, words):
            if not before or rest == words[-1]:
                result.append([*before, name, *option, *form, *rest])
                result.append([name, *rest, *option, *form, *before])
    return result


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("fast")
    with open_store(str(where / "store")) as store:
        for namespace, name in (("default", "a"), ("default", "b\n"), ("k8s.io", "c")):
            target = Descriptor("text/plain", Digest.of(name.encode()), 1)
            store.images(namespace).create(Image(name, target, {"k": "v"}))
    return where


def outcome(result: Result) -> tuple[int, bytes, bytes]:
    return result.code, result.stdout, result.stderr


def test_every_fast_form_says_what_typer_says(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two parsers of one command line must not drift apart."""
    forms = lines()
    assert len(forms) > 300
    quick = [outcome(run_here(words, here, b"a\n")) for words in forms]
    monkeypatch.setattr(fast, "invoke", lambda argv, context: False)
    for words, was in zip(forms, quick, strict=True):
        assert outcome(run_here(words, here, b"a\n")) == was, words


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["list", "--help"],
        ["list", "--"],
        ["list", "--quie"],
        ["list", "--format=json"],
        ["list", "-q0"],
        ["list", "--sort", "size"],
        ["list", "--root"],
        ["-0", "list"],
        ["resolve", "--bytes", "a"],
        ["delete", "a"],
        ["gc"],
        ["gc", "--auto", "--dry-run"],
        ["--version", "-q"],
    ],
)
def test_anything_else_is_left_to_typer(words: list[str]) -> None:
    """Mistakes and `--help` among it: only Typer knows what to say of them."""
    assert fast.invoke(words, Context()) is False


# What costs more than a millisecond to import, or is there for writing.
NEEDLESS = {"typer", "dataclasses", "inspect", "pathlib", "subprocess", "tempfile", "calendar", "random"} | {
    "json",
    "imgtool.filters",
    "imgtool.stores",
    "imgtool.disk.content",
    "imgtool.disk.publish",
    "imgtool.oci.graph",
}


@pytest.mark.parametrize(
    "words", [["list"], ["resolve", "a"], ["exists", "a"], ["gc", "--auto"], ["--version"]]
)
def test_the_fast_way_imports_only_what_it_needs(words: list[str], tmp_path: Path) -> None:
    """Time is lost an import at a time, by people who do not see it."""
    script = (
        "import sys\n"
        "before = set(sys.modules)\n"
        "from imgtool.cli.main import run\n"
        f"run({words!r})\n"
        f"needless = {NEEDLESS!r} & (set(sys.modules) - before)\n"
        "sys.exit(' '.join(needless) or 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**WORLD, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
