"""What may be a name, and how it becomes a file name."""

from __future__ import annotations

import os
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from imgtool.errors import InvalidArgument
from imgtool.names import (
    EXPIRE,
    check_labels,
    check_name,
    check_namespace,
    check_ref,
    expiry,
    file_name,
    is_expired,
    name_of_file,
)

fuzz = settings(derandomize=bool(os.environ.get("CI")), deadline=None)
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)


@pytest.mark.parametrize("name", ["a", "A", "0", "default", "k8s.io", "a-b_c.d", "0-0", "a" * 76])
def test_identifiers_are_namespaces(name: str) -> None:
    """containerd's identifiers: alphanumeric runs joined by single separators, 76 bytes at most."""
    assert check_namespace(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "-a",
        "a-",
        "a..b",
        "a._b",
        "a/b",
        "a b",
        "a\n",
        "\na",
        "a\0",
        "é",
        "٣",
        "\u212a",
        "a" * 77,
        "~",
    ],
)
def test_nothing_else_is_a_namespace(name: str) -> None:
    """It is used as a directory's name as it stands; `$` of a regular expression allows a final newline."""
    with pytest.raises(InvalidArgument):
        check_namespace(name)


@pytest.mark.parametrize("name", ["a", "../../etc/passwd", " ", "\n", "é", "\U0010ffff", "-rf", "a" * 32768])
def test_nearly_every_text_is_a_name(name: str) -> None:
    """No reference grammar."""
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", "\0", "a\0b", "\ud800", "a" * 32769, "é" * 16385, None, 5, b"a"])
def test_what_is_empty_or_no_text_or_too_long_is_no_name(name: object) -> None:
    """Limits are in bytes. The message says what it was to be the name of."""
    with pytest.raises(InvalidArgument, match="lease id "):
        check_name(name, "lease id")


def test_a_ref_has_at_most_1024_bytes() -> None:
    """Else it is as free as a name."""
    assert check_ref("é" * 512) == "é" * 512
    for bad in ("é" * 513, "", "a\0", "\udcff", None):
        with pytest.raises(InvalidArgument, match="ref "):
            check_ref(bad)


def test_a_label_has_at_most_4096_bytes_with_its_key() -> None:
    """And nothing else is asked of it, not even a key."""
    check_labels({"k" * 96: "v" * 4000, "": "", "é" * 2048: "", "a b\n": "\x1b"})
    for bad in (
        {"k" * 97: "v" * 4000},
        {"": "é" * 2049},
        {"a": "\0"},
        {"\0": "a"},
        {"a": "\udcff"},
        {"\udcff": ""},
    ):
        with pytest.raises(InvalidArgument):
            check_labels(bad)
    for no_text in ({"a": 5}, {5: "a"}, {"a": None}):
        with pytest.raises(InvalidArgument):
            check_labels(no_text)  # type: ignore[arg-type]  # what JSON may hold


def test_an_empty_namespace_is_said_to_be_missing() -> None:
    """containerd's words; scripts forget a variable more often than they mistype a name."""
    with pytest.raises(InvalidArgument, match="namespace is required"):
        check_namespace("")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("docker.io/library/a:1.2", "docker.io%2Flibrary%2Fa%3A1.2"),
        ("a", "a"),
        (".", "%2E"),
        ("..", "%2E."),
        (".a.", "%2Ea."),
        ("a_b-c", "a_b-c"),
        ("100%", "100%25"),
        ("~a", "%7Ea"),
        ("a b\n", "a%20b%0A"),
        ("é", "%C3%A9"),
        ("a" * 240, "a" * 240),
        ("/" * 80, "%2F" * 80),
    ],
)
def test_a_name_is_escaped_byte_by_byte(name: str, expected: str) -> None:
    """So that `ls` shows the images, and nobody leaves the directory."""
    assert file_name(name) == expected
    assert name_of_file(expected) == name


def test_a_long_name_becomes_a_hash() -> None:
    """File systems allow 255 bytes, with the suffix."""
    assert file_name("a" * 241) == "~497399043185c789c35e0bedacfe4d026eb8092659afd77c9a1c21ae7c6b8341"
    assert file_name("/" * 81) != file_name("/" * 82)
    assert name_of_file(file_name("a" * 241)) is None


@pytest.mark.parametrize(
    "stem",
    [
        "",
        "~",
        "~" + "0" * 64,
        "%",
        "%2",
        "%2f",
        "%zz",
        "a/b",
        "a b",
        "é",
        ".a",
        "%61",
        "%2E%2E",
        "%FF",
        "a" * 241,
    ],
)
def test_no_other_file_is_one_of_ours(stem: str) -> None:
    """Each name has one file, and each file at most one name."""
    assert name_of_file(stem) is None


@fuzz
@given(names)
@example("\U0010ffff" * 20)
def test_a_file_name_is_safe_and_leads_back(name: str) -> None:
    """Whatever a stranger calls an image."""
    stem = file_name(name)
    assert re.fullmatch(r"(?!\.)[A-Za-z0-9._%~-]{1,240}", stem, re.ASCII)
    assert name_of_file(stem) in ({None} if stem[0] == "~" else {name})


@fuzz
@given(names, names)
def test_two_names_never_share_a_file(one: str, two: str) -> None:
    """Else one image would overwrite the other."""
    assert (one == two) == (file_name(one) == file_name(two))


@fuzz
@given(st.text())
def test_every_file_name_is_ours_or_refused(stem: str) -> None:
    """A directory may hold anything."""
    name = name_of_file(stem)
    assert name is None or file_name(name) == stem


@pytest.mark.parametrize(
    ("labels", "end"),
    [({}, None), ({EXPIRE: "1970-01-01T00:00:01Z"}, 1_000_000_000), ({EXPIRE: "tomorrow"}, None)],
)
def test_a_label_says_when_something_expires(labels: dict[str, str], end: int | None) -> None:
    """One that cannot be read says nothing, as for containerd's gc."""
    assert expiry(labels) == end
    assert not is_expired(labels, 1_000_000_000)  # `time.Now().After(end)`
    assert is_expired(labels, 1_000_000_001) == (end is not None)
