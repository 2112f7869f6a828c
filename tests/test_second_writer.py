"""A second program writes stores by imgtool-store(5) alone, and imgtool cannot tell the difference.

`second_writer.py` is run as a process of its own, without imgtool on its path.
"""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgtool.clock import format_time
from imgtool.digest import Digest
from imgtool.disk import codec, log, open_store, records
from imgtool.errors import ImgtoolError
from imgtool.model import ContentInfo, Descriptor, Image, Lease, Platform, References
from imgtool.names import check_name, file_name
from tests import second_writer
from tests.real.process import Imgtool

PROGRAM = Path(second_writer.__file__)
NS = "default"
WAIT = 120

Writer = Callable[..., str]


@pytest.fixture
def store(tmp_path: Path) -> Imgtool:
    """imgtool over a store that does not exist yet."""
    return Imgtool(tmp_path / "store")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"hello\n")
    return path


def argv(store: Imgtool, *args: object) -> list[str]:
    return [sys.executable, "-I", str(PROGRAM), str(store.root), *map(str, args)]


@pytest.fixture
def second(store: Imgtool) -> Writer:
    """The second writer over the same store; returns what it prints."""

    def run(*args: object) -> str:
        done = subprocess.run(argv(store, *args), capture_output=True, text=True, timeout=WAIT)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


def entries(store: Imgtool, ns: str = NS) -> list[dict[str, Any]]:
    """The lines of the log, all of which can be read."""
    found = log.entries(str(store.root / "namespaces" / ns / "log"))
    assert None not in found
    return [entry for entry in found if entry is not None]


def files(store: Imgtool) -> dict[str, str]:
    """The mode of each file and directory that is not fleeting."""
    return {
        str(path.relative_to(store.root)): f"{path.stat().st_mode & 0o7777:04o}"
        for path in store.root.rglob("*")
        if path.relative_to(store.root).parts[0] not in ("tmp", "ingests")
    }


# --- the rules ---------------------------------------------------------------------------------------


def test_the_second_writer_knows_nothing_of_imgtool() -> None:
    """It would prove nothing of the page if it did."""
    imported = {
        name.name if isinstance(node, ast.Import) else str(node.module)
        for node in ast.walk(ast.parse(PROGRAM.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in node.names
    }
    own = {name.partition(".")[0] for name in imported} - set(sys.stdlib_module_names)
    assert own == {"blake3"}


NAMES = st.one_of(
    st.text(min_size=1), st.text(min_size=70, max_size=120), st.sampled_from([".", "..", "a/b", "é"])
)


@given(NAMES)
@settings(derandomize=True, max_examples=300)
def test_both_call_the_file_of_a_name_alike(name: str) -> None:
    try:
        check_name(name)
    except ImgtoolError:
        return
    assert second_writer.file_name(name) == file_name(name) + ".toml"


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
VALUE = TEXT.filter(bool)
MAPPING = st.dictionaries(TEXT, VALUE, max_size=4)
TIME = st.integers(0, 253402300799 * 10**9 + 999_999_999)
DIGEST = st.binary(max_size=8).map(Digest.of)
SIZE = st.integers(1, 2**63 - 1)
PLATFORM = st.builds(Platform, VALUE, VALUE, TEXT, TEXT, st.lists(TEXT, max_size=3).map(tuple))
URLS = st.lists(TEXT, max_size=3).map(tuple)
NOTHING: st.SearchStrategy[dict[str, Any]] = st.just({})
TARGET = st.builds(
    Descriptor, VALUE, DIGEST, SIZE, MAPPING, st.none() | PLATFORM, TEXT, URLS, st.none() | TEXT, NOTHING
)
RESOURCES = st.dictionaries(VALUE, st.lists(VALUE, min_size=1, max_size=3).map(tuple), max_size=3)
REFERENCES = st.none() | st.builds(
    References, VALUE, st.dictionaries(DIGEST, TEXT, max_size=3), st.none() | DIGEST, NOTHING
)
RECORD = st.one_of(
    st.builds(Image, VALUE, TARGET, MAPPING, TIME, TIME, NOTHING).map(records.image_to_record),
    st.builds(ContentInfo, DIGEST, SIZE, MAPPING, TIME, TIME, NOTHING, REFERENCES).map(
        records.content_to_record
    ),
    st.builds(Lease, VALUE, MAPPING, RESOURCES, TIME, NOTHING).map(records.lease_to_record),
)


@given(RECORD)
@settings(derandomize=True, max_examples=300, deadline=None)
def test_both_write_a_record_alike(record: dict[str, Any]) -> None:
    """The canonical form, byte by byte."""
    assert second_writer.sealed(record).decode() == codec.dump(record, "record").decode()


def test_both_write_times_alike() -> None:
    assert len(second_writer.now()) == len(format_time(time.time_ns()))


# --- a store that imgtool did not make ----------------------------------------------------------------


def test_imgtool_takes_a_store_of_the_second_writer_for_its_own(
    store: Imgtool, second: Writer, file: Path
) -> None:
    digest = second("put", NS, "docker.io/app:1", file, "env=prod", "team=Ä\u2028", "empty=")
    whole = second("manifest", NS, "n" * 300, "a layer")
    second("put", "k8s.io", ".hidden", file)
    second("lease", NS, "keep", digest)
    second("begin", NS, "upload/1", file)

    assert store.targets() == {"docker.io/app:1": digest, "n" * 300: whole}
    assert store.images()["docker.io/app:1"]["labels"] == {"env": "prod", "team": "Ä\u2028"}
    assert store.images()["n" * 300]["platforms"] == ["linux/amd64"]
    assert store("list", "-q", "-n", "k8s.io") == ".hidden\n"
    assert store("cat", "docker.io/app:1") == "hello\n"
    assert store("fsck") == ""
    assert store("gc", "--dry-run", "-q") == ""


def test_both_lay_out_the_same_files_with_the_same_modes(tmp_path: Path, file: Path) -> None:
    stores = Imgtool(tmp_path / "one"), Imgtool(tmp_path / "two")
    stores[0]("ingest", "--name", "docker.io/app:1", "--digest-algorithm", "sha256", file)
    subprocess.run(argv(stores[1], "put", NS, "docker.io/app:1", file), check=True, timeout=WAIT)
    assert files(stores[0]) == files(stores[1])


def test_imgtool_changes_what_the_second_writer_wrote(store: Imgtool, second: Writer, file: Path) -> None:
    digest = second("put", NS, "app", file, "env=prod")
    second("manifest", NS, "whole", "a layer")
    assert "env=prod" in store("label", "app", "team=web")
    store("update", "app", "--rename", "new")
    store("tag", "new", "third")
    store("content", "label", digest, "x=y")
    store("delete", "new", "third", "whole")
    assert len(store("gc", "-q").splitlines()) == 8
    assert store("fsck") == ""
    assert store.objects() == {}
    assert not [entry for entry in entries(store) if "void" in entry], "imgtool doubts what the log tells"


def test_the_second_writer_changes_what_imgtool_wrote(store: Imgtool, second: Writer, file: Path) -> None:
    store("ingest", "--name", "app", "-l", "env=prod", file)
    store("ingest", "--name", "other", "-n", "k8s.io", file)
    digest = second("put", NS, "app", PROGRAM)
    second("put", "k8s.io", "app", file)
    assert store.targets() == {"app": digest}
    second("delete", NS, "app")
    store("delete", "-n", "k8s.io", "app", "other")
    store("gc")
    second("remove-namespace", "k8s.io")
    assert store("namespace", "list", "-q") == f"{NS}\n"
    assert store("fsck") == ""
    assert not [entry for entry in entries(store) if "void" in entry], "it doubts what imgtool's log tells"


def test_each_tells_the_log_what_the_other_did_not_come_to_do(
    store: Imgtool, second: Writer, file: Path
) -> None:
    """A line whose record was never changed, because its writer was killed."""
    record = {"schema": 1}
    for number, write in enumerate((second, second, lambda *args: store("label", "app", "a=b"))):
        name = f"never-{number}"
        write("put", NS, "app", file)
        with (store.root / "namespaces" / NS / "log").open("ab") as killed:
            op = {"op": "0" * 16, "time": second_writer.now(), "kind": "image", "name": name}
            killed.write(second_writer.line({**op, "old": None, "new": record}))
        if number == 1:
            store("label", "app", f"a={number}")
        else:
            second("put", NS, "app", PROGRAM)
        assert [["image", name]] in [entry.get("void") for entry in entries(store)]
    assert store("fsck") == ""


def test_imgtool_resumes_what_the_second_writer_began(store: Imgtool, second: Writer, file: Path) -> None:
    second("begin", NS, "upload/1", file)
    row = json.loads(store("content", "active", "--format", "jsonl"))
    assert (row["ref"], row["offset"]) == ("upload/1", 6)
    with open_store(str(store.root)) as opened, opened.content(NS).writer("upload/1") as writer:
        assert writer.digest() == Digest.of(b"hello\n")
        writer.write(b"world\n")
        digest = writer.commit().digest
    assert store("cat", digest) == "hello\nworld\n"
    assert store("content", "active", "-q") == ""


# --- at the same time ---------------------------------------------------------------------------------


def test_both_write_at_once_and_nothing_is_lost(store: Imgtool, file: Path) -> None:
    """Two second writers and many imgtool commands, gc and fsck among them, over the same blobs."""
    store("ingest", "--name", "mine", file)
    churns = [subprocess.Popen(argv(store, "churn", ns, 150)) for ns in (NS, "other")]
    turns = 0
    while any(churn.poll() is None for churn in churns):
        store("tag", "mine", f"mine-{turns}")
        store("gc")
        store("list", "-A")
        assert store("fsck") == ""
        turns += 1
    assert [churn.wait() for churn in churns] == [0, 0]
    assert turns > 1
    images = store("list", "-q").splitlines()
    assert {f"kept-{i}" for i in range(150)} <= set(images)
    assert {f"mine-{i}" for i in range(turns)} <= set(images)
    assert not [entry for ns in (NS, "other") for entry in entries(store, ns) if "void" in entry]
    store("gc")
    store.check_collected()


@pytest.mark.parametrize("after", [0.15, 0.25, 0.4])
def test_a_second_writer_that_is_killed_leaves_a_sound_store(
    store: Imgtool, file: Path, after: float
) -> None:
    """Its locks go with it, its litter with the next gc."""
    store("ingest", "--name", "mine", file)
    churn = subprocess.Popen(argv(store, "churn", NS, 1000))
    time.sleep(after)
    os.kill(churn.pid, signal.SIGKILL)
    churn.wait()
    store("tag", "mine", "again")
    assert store("fsck") == ""
    store("gc")
    store.check_collected()
