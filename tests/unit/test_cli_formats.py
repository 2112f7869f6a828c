"""A format that cannot be is refused before anything is changed; what is printed has the fields it should."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from imgtool.digest import Digest
from imgtool.disk import open_store
from tests.fixture_runner import Result, run_here, tree

DIGEST = Digest.of(b"a")


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """An image `a`, a lease `held` on its content, an unfinished write `ref`, empty namespaces `spare` and
    `lost`, and a file `f`.
    """
    (tmp_path / "f").write_bytes(b"a")
    for line in (
        ["ingest", "f", "-t", "a", "--digest-algorithm", "sha256"],
        ["namespace", "create", "spare"],
        ["lease", "create", "--id", "held", "-x", "0"],
        ["lease", "add", "held", "a"],
    ):
        assert run_here(line, tmp_path, b"").code == 0
    with open_store(str(tmp_path / "store")) as store, store.content("default").writer("ref") as writer:
        writer.write(b"half")
    return tmp_path


CHANGING = [
    ["ingest", "f", "-t", "new"],
    ["update", "a", "-l", "k=v"],
    ["delete", "a"],
    ["delete", "--all", "--sync"],
    ["label", "a", "k=v"],
    ["tag", "a", "b"],
    ["namespace", "create", "new"],
    ["namespace", "label", "spare", "k=v"],
    ["namespace", "rm", "spare"],
    ["content", "ingest", "f"],
    ["content", "label", DIGEST, "k=v"],
    ["content", "rm", DIGEST],
    ["content", "abort", "ref"],
    ["lease", "create", "-x", "0"],
    ["lease", "label", "held", "k=v"],
    ["lease", "add", "held", "a"],
    ["lease", "drop", "held", DIGEST],
    ["lease", "rm", "held", "--sync"],
    ["export", "a", "-o", "out.tar"],
    ["gc"],
]
READING = [
    ["list"],
    ["resolve", "a"],
    ["inspect", "a"],
    ["namespace", "list"],
    ["content", "list"],
    ["content", "info", DIGEST],
    ["content", "active"],
    ["lease", "list"],
    ["lease", "resources", "held"],
]
FOR_NUL = {"ingest", "update", "delete", "tag", "export", "gc"}


def imgtool(where: Path, *words: str) -> Result:
    return run_here(list(words), where, b"")


@pytest.mark.parametrize("words", CHANGING, ids=" ".join)
@pytest.mark.parametrize("form", ["yaml", "{", "{name} {nothing}"])
def test_a_format_that_cannot_be_changes_nothing(here: Path, words: list[str], form: str) -> None:
    """Exit 2 says that the command was not understood, so it must not have been done."""
    before = tree(here / "store")
    result = imgtool(here, *words, "--format", form)
    assert (result.code, result.stdout) == (2, b"")
    assert tree(here / "store") == before
    assert not (here / "out.tar").exists()


@pytest.mark.parametrize("words", [w for w in CHANGING if w[0] in FOR_NUL], ids=" ".join)
def test_zero_with_json_changes_nothing(here: Path, words: list[str]) -> None:
    """What cannot be printed must not have happened."""
    before = tree(here / "store")
    assert imgtool(here, *words, "-0", "--format", "json").code == 2
    assert tree(here / "store") == before
    assert not (here / "out.tar").exists()


@pytest.mark.parametrize("words", CHANGING + READING, ids=" ".join)
def test_the_fields_that_a_template_may_have_are_those_of_the_rows(here: Path, words: list[str]) -> None:
    """They are told before there is a row, so they stand beside what makes the rows, and must not drift."""
    hint = imgtool(here, *words, "--format", "{nothing}").stderr.decode().splitlines()[-1]
    rows = [json.loads(line) for line in imgtool(here, *words, "--format", "jsonl").stdout.splitlines()]
    assert rows or words == ["gc"]
    for row in rows:
        assert ", ".join(row) == hint.removeprefix("hint: fields: ")


@pytest.mark.parametrize("words", [["exists", "a"], ["cat", "a"], ["inspect", "--raw", "a"]], ids=" ".join)
def test_also_a_command_without_rows_refuses_a_word_that_is_no_format(here: Path, words: list[str]) -> None:
    """Who gives one has been mistaken about the command."""
    assert imgtool(here, *words, "--format", "yaml").code == 2
