"""A dry run tells what the run would do, its refusals among it."""

from __future__ import annotations

from pathlib import Path

import pytest

from imgtool.digest import Digest
from imgtool.disk import open_store
from imgtool.model import Descriptor, Image, Lease, Namespace
from tests.fixture_runner import Result, run_here, tree

LONG = "k=" + "x" * 4096
TARGET = Descriptor("text/plain", Digest.of(b"a"), 1, {"old": "1"})


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """Images `a` and `b` with different targets; content; a lease `held` that holds something; a namespace
    `lost` that cannot be read.
    """
    with open_store(str(tmp_path / "store")) as store:
        with store.content("default").stage(algorithm="sha256") as writer:
            writer.write(b"a")
            writer.commit()
        for name, target in (("a", TARGET), ("b", Descriptor("text/plain", Digest.of(b"b"), 1))):
            store.images("default").create(Image(name, target, {"k": "v"}))
        store.images("default").create(Image("a2", TARGET))
        store.leases("default").create(Lease("held", {"k": "v"}, {"content": (Digest.of(b"b"),)}))
        for name in ("there", "lost"):
            store.namespaces.create(Namespace(name, {"k": "v"}))
    record = tmp_path / "store" / "namespaces" / "lost" / "namespace.toml"
    record.chmod(0o600)
    record.write_text("schema = ")
    return tmp_path


def told(result: Result) -> tuple[int, bytes, bytes]:
    return result.code, result.stdout, result.stderr


@pytest.mark.parametrize("form", ["table", "json"])
@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["update", "a", "--rename", "a"], 2),
        (["update", "a", "-l", "x=1", "--rename", "a"], 2),
        (["update", "a", "-l", "x=1", "--rename", ""], 2),
        (["update", "a", "--rename", "b"], 4),
        (["update", "a", "--rename", "c"], 0),
        (["update", "a", "-l", LONG], 2),
        (["update", "a", "--annotation", "old="], 0),
        (["update", "a", "--replace-all", "--annotation", "new=1"], 0),
        (["update", "b", "--target", "a", "--annotation", "new=1"], 0),
        (["label", "a", LONG], 2),
        (["label", "a", "k="], 0),
        (["tag", "a", "b"], 4),
        (["tag", "--replace", "a", "b", "c", "a"], 0),
        (["update", "a", "--rename", "a2"], 4),
        (["tag", "a", "c", "\udcff"], 2),
        (["tag", "a", "c", "c"], 0),
        (["update", "none", "--rename", "b"], 0),
        (["namespace", "create", "new", "k=v"], 0),
        (["namespace", "create", "new", LONG], 2),
        (["namespace", "create", "there"], 4),
        (["namespace", "create", "lost"], 6),
        (["namespace", "create", "a/b"], 2),
        (["namespace", "label", "there", "k=w"], 0),
        (["namespace", "label", "new", "k=w"], 0),
        (["namespace", "label", "there", LONG], 2),
        (["namespace", "label", "lost", "k=w"], 6),
        (["content", "label", TARGET.digest, LONG], 2),
        (["content", "label", TARGET.digest, "k=v"], 0),
        (["lease", "create", "--id", "new", "-x", "0", "k=v", "gone="], 0),
        (["lease", "create", "--id", "new", "-x", "0", LONG], 0),
        (["lease", "create", "--id", "new", "k=\udcff"], 2),
        (["lease", "create", "--id", "held"], 4),
        (["lease", "create", "--id", ""], 2),
        (["lease", "label", "held", "k=w"], 0),
        (["lease", "label", "held", "k=\udcff"], 2),
        (["lease", "label", "held", "--replace-all"], 0),
        (["lease", "label", "none", "k=w"], 3),
        (["lease", "add", "held", "a", "b", TARGET.digest], 3),
        (["lease", "add", "held", "a", "--type", "images"], 0),
        (["lease", "add", "held", "a", "--type", "snapshots"], 2),
        (["lease", "add", "none", "a"], 3),
        (["lease", "drop", "held", Digest.of(b"b"), "a"], 3),
        (["lease", "rm", "none", "held"], 3),
        (["lease", "rm", "--all"], 0),
        (["tag", "a", "c", "--lease", "held"], 0),
        (["tag", "a", "c", "--lease", "none"], 3),
        (["update", "b", "--target", "a", "--lease", "held"], 0),
        (["update", "b", "-l", "x=1", "--lease", "held"], 2),
        (["update", "b", "--target", "a", "--lease", "none"], 3),
    ],
)
def test_a_dry_run_says_what_the_run_says_and_changes_nothing(
    here: Path, words: list[str], code: int, form: str
) -> None:
    """A script asks first, and then relies on it, the times of the records among it."""
    words, before = ["--format", form, *words], tree(here / "store")
    dry = told(run_here([*words, "--dry-run"], here, b""))
    assert tree(here / "store") == before
    assert told(run_here(words, here, b"")) == dry
    assert dry[0] == code


def test_a_refused_new_name_leaves_the_labels_alone(here: Path) -> None:
    """What is known to fail fails before half of it is done."""
    before = tree(here / "store")
    assert run_here(["update", "a", "-l", "x=1", "--rename", "a"], here, b"").code == 2
    assert tree(here / "store") == before


@pytest.mark.parametrize(
    ("words", "annotations"),
    [
        (["--replace-all", "--annotation", "z=3"], {"z": "3"}),
        (["--annotation", "z=3"], {"old": "1", "z": "3"}),
        (["--replace-all", "-l", "z=3", "--target", "a"], {"old": "1"}),
        (["--target", "a", "--annotation", "z=3"], {"old": "1", "z": "3"}),
    ],
)
def test_the_annotations_given_replace_all_only_where_they_are_to(
    here: Path, words: list[str], annotations: dict[str, str]
) -> None:
    """Those of a new target are not lost with the old ones."""
    assert run_here(["update", "a", *words], here, b"").code == 0
    with open_store(str(here / "store")) as store:
        assert store.images("default").get("a").target.annotations == annotations


def test_a_namespace_with_a_record_that_cannot_be_read_is_not_empty(here: Path) -> None:
    """Of a long name only its record tells it, and that one is damaged."""
    with open_store(str(here / "store")) as store:
        store.images("there").create(Image("x" * 300, TARGET))
        path = Path(store.engine.layout.image("there", "x" * 300))
    path.chmod(0o600)
    path.write_text("schema = ")
    dry = told(run_here(["namespace", "rm", "there", "--dry-run"], here, b""))
    assert dry[0] == 5
    assert told(run_here(["namespace", "rm", "there"], here, b"")) == dry


def test_content_whose_record_cannot_be_read_can_be_removed(here: Path) -> None:
    """The run does it, and so the dry run says it."""
    with open_store(str(here / "store")) as store:
        path = Path(store.engine.layout.content_record("default", TARGET.digest))
    path.chmod(0o600)
    path.write_text("schema = ")
    dry = told(run_here(["content", "rm", TARGET.digest, "--dry-run"], here, b""))
    assert dry == (0, f"{TARGET.digest}\n".encode(), b"")
    assert told(run_here(["content", "rm", TARGET.digest], here, b"")) == dry


def test_a_dry_run_refuses_a_store_that_is_not_to_be_written(here: Path) -> None:
    """By this version, as its format says."""
    config = here / "store" / "imgtool.toml"
    config.chmod(0o600)
    config.write_text("[format]\nread = 1\nwrite = 2\n")
    dry = told(run_here(["delete", "a", "--dry-run"], here, b""))
    assert dry[0] == 5
    assert told(run_here(["delete", "a"], here, b"")) == dry


def test_two_sources_with_one_name_are_refused_alike(here: Path) -> None:
    """The second finds what the first has made, or would make."""
    for name in ("x", "y"):
        (here / name).mkdir()
        (here / name / "same").write_bytes(name.encode())
    words = ["ingest", "x/same", "y/same"]
    dry = told(run_here([*words, "--dry-run"], here, b""))
    assert dry[0] == 4
    assert told(run_here(words, here, b"")) == dry


def test_a_name_that_cannot_be_read_does_not_stop_the_other_sources(here: Path) -> None:
    """Neither the run nor the dry run: it is the failure of one source."""
    for name in ("a", "c"):
        (here / name).write_bytes(b"new")
    record = here / "store" / "namespaces" / "default" / "images" / "a.toml"
    record.chmod(0o600)
    record.write_text("schema = ")
    dry = told(run_here(["ingest", "a", "c", "--dry-run"], here, b""))
    assert (dry[0], dry[1].endswith(b" c\n")) == (6, True)
    assert told(run_here(["ingest", "a", "c"], here, b"")) == dry
