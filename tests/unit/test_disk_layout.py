"""Where everything lies; see imgtool-store(5)."""

from __future__ import annotations

import posixpath

from hypothesis import given
from hypothesis import strategies as st

from imgtool.digest import ALGORITHMS, Digest
from imgtool.disk.layout import Layout, ingest_key, inside, parent

LAYOUT = Layout("/store")
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=400)


def test_every_kind_of_thing_has_its_place() -> None:
    """A second program finds them by the page alone, so a move is a new format."""
    digest = Digest("sha256:" + "ab" + "c" * 62)
    assert LAYOUT.settings == "/store/imgtool.toml"
    assert LAYOUT.object(digest) == "/store/objects/sha256/ab/" + "c" * 62
    assert LAYOUT.namespace_record("ns") == "/store/namespaces/ns/namespace.toml"
    assert LAYOUT.log("ns") == "/store/namespaces/ns/log"
    assert LAYOUT.image("ns", "docker.io/a:b") == "/store/namespaces/ns/images/docker.io%2Fa%3Ab.toml"
    assert LAYOUT.content_record("ns", digest) == f"/store/namespaces/ns/content/sha256/ab/{'c' * 62}.toml"
    assert LAYOUT.lease("ns", ".l") == "/store/namespaces/ns/leases/%2El.toml"
    assert LAYOUT.lock("ns-ns") == "/store/locks/ns-ns"
    assert LAYOUT.tmp == "/store/tmp"


def test_the_key_of_an_ingest_is_the_blake3_of_namespace_and_ref() -> None:
    """`b3sum` tells anybody which directory is whose."""
    assert ingest_key("a", "b") == Digest.of(b"a\0b", "blake3").encoded
    assert LAYOUT.ingest("a", "b") == f"/store/ingests/{ingest_key('a', 'b')}"
    assert ingest_key("ab", "c") != ingest_key("a", "bc")


@given(NAMES)
def test_no_name_leaves_its_directory(name: str) -> None:
    """T14: names come from outside, and `..`, slashes and dots are allowed in them."""
    for path, directory in (
        (LAYOUT.image("ns", name), LAYOUT.images("ns")),
        (LAYOUT.lease("ns", name), LAYOUT.leases("ns")),
        (LAYOUT.ingest("ns", name), LAYOUT.ingests),
    ):
        assert posixpath.normpath(path) == path
        assert parent(path) == directory
        assert len(path.removeprefix(directory)) <= 1 + 255


@given(NAMES, NAMES)
def test_two_names_have_two_files(one: str, other: str) -> None:
    """Else one record would hide the other."""
    assert (LAYOUT.image("ns", one) == LAYOUT.image("ns", other)) == (one == other)
    assert (LAYOUT.ingest("ns", one) == LAYOUT.ingest("ns", other)) == (one == other)


def test_a_name_is_never_a_suffix_away_from_another() -> None:
    """`a` beside `a/b`, `a.toml` and `a.lock`: flat, and each with its own suffix."""
    paths = {LAYOUT.image("ns", name) for name in ("a", "a/b", "a.toml", "a.lock", "a%2Fb", "A", "..", ".")}
    assert len(paths) == 8


def test_every_algorithm_has_its_own_tree() -> None:
    """Equal digits of two algorithms are two objects."""
    digests = [Digest.of(b"x", algorithm) for algorithm in ALGORITHMS]
    assert [LAYOUT.object(d).split("/")[3] for d in digests] == list(ALGORITHMS)


def test_inside_and_parent_are_inverse() -> None:
    """Up to the root of the file system."""
    assert parent(inside("/a/b", "c")) == "/a/b"
    assert parent("/a") == "/"
