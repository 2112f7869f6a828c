"""References: the cases of distribution/reference, and what no text may do."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgtool.errors import InvalidArgument
from imgtool.oci import references as r

SHARED = Path(os.environ.get("IMGTOOL_SHARED") or Path(__file__).parents[3] / "shared")
CASES = SHARED / "cases" / "references.json"
fuzz = settings(derandomize=bool(os.environ.get("CI")), deadline=1000)


def parts(ref: r.Reference) -> dict[str, str]:
    return {"repository": ref.name, "domain": ref.domain, "tag": ref.tag, "digest": ref.digest}


def place(pair: tuple[str, str]) -> dict[str, str]:
    return {"domain": pair[0], "path": pair[1]}


def normal(ref: r.Reference) -> dict[str, str]:
    return {
        "name": ref.name,
        "familiar": r.familiar(ref).name,
        "domain": ref.domain,
        "path": ref.path,
    }


def groups(pattern: Any, case: dict[str, Any]) -> Any:
    """Whether it fits, and the groups where the case states them."""
    m = pattern.fullmatch(case["input"])
    return [m is not None, [g or "" for g in m.groups()] if m and case.get("groups") else None]


# What each kind of case asks; the answer is compared with `expected`.
ASK: dict[str, Callable[[dict[str, Any]], Any]] = {
    "parse": lambda c: parts(r.parse(c["input"])),
    "parse_named_canonical": lambda c: place(r.split(r.parse_canonical(c["input"]).name)),
    "parse_normalized_named": lambda c: r.parse_normalized(c["input"]) and None,
    "normalize": lambda c: normal(r.parse_normalized(c["input"])),
    "normalized_split": lambda c: place(r.split_normalized(c["input"])),
    "split_domain_path": lambda c: place(r.split(c["input"])),
    "join": lambda c: r.join(c["name"], c["tag"], c["digest"]),
    "with_name": lambda c: r.with_name(c["input"]) and None,
    "parse_any": lambda c: r.parse_any(c["input"]),
    "docker_ref": lambda c: str(r.parse_docker(c["input"])),
    "glob_match": lambda c: r.matches(c["pattern"], r.parse_normalized(c["input"])),
    "is_domain": lambda c: r.DOMAIN.fullmatch(c["input"]) is not None,
    "is_full_name": lambda c: groups(r.NAME, c),
    "is_reference": lambda c: groups(r.REFERENCE, c),
    "is_identifier": lambda c: r.IDENTIFIER.fullmatch(c["input"]) is not None,
}


def cases() -> list[dict[str, Any]]:
    if not CASES.exists():
        pytest.skip(f"{CASES} is absent")
    found = json.loads(CASES.read_text())["cases"]
    assert isinstance(found, list)
    return found


def test_every_kind_of_case_is_asked() -> None:
    """A kind that nobody asks would pass unseen."""
    assert {c["op"] for c in cases()} == set(ASK)


@pytest.mark.parametrize("op", sorted(ASK))
def test_references_are_read_as_distribution_reads_them(op: str) -> None:
    """Names in a registry must mean the same to docker, containerd and us."""
    wrong = []
    for case in (c for c in cases() if c["op"] == op):
        expected: Any = case.get("expected")
        if "groups" in case:
            expected = [expected, case["groups"]]
        # The file says it: only a build without sha512 refuses the optional one.
        valid = case["valid"] or case.get("optional", False)
        try:
            found = ASK[op](case)
        except InvalidArgument:
            if valid:
                wrong.append((case, "refused"))
        else:
            if not valid or (not case.get("optional") and found != expected):
                wrong.append((case, found))
    assert not wrong


def test_a_line_feed_does_not_end_a_name_unseen() -> None:
    """`$` of many regular expressions also fits before a last line feed."""
    for text in ("redis\n", "redis:tag\n", "a" * 64 + "\n"):
        with pytest.raises(InvalidArgument):
            r.parse_normalized(text)


def test_unicode_digits_are_no_digits() -> None:
    """`\\d` and `\\w` fit them unless told otherwise."""
    for text in ("redis:٣", "example.com:٨٠/redis", "rédis"):
        with pytest.raises(InvalidArgument):
            r.parse(text)


def test_an_upper_case_repository_is_refused_with_the_way_out() -> None:
    """It is the most common mistake, and the grammar's name would not help."""
    with pytest.raises(InvalidArgument) as caught:
        r.parse("example.com/Redis")
    assert caught.value.hint == "the repository must be in lower case"


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("red?s", "redis", True),
        ("red?s", "red/s", False),
        ("r*", "r/edis", False),
        ("*edis*", "redisedis", True),
        ("[^a-q]edis", "redis", True),
        ("[^r]edis", "redis", False),
        ("[z-a]edis", "redis", False),
        ("[a\\-r]edis", "redis", True),
        ("\\redis", "redis", True),
        ("redis:[0-9]*", "redis:7.2", True),
        ("redis.", "redisx", False),
    ],
)
def test_patterns_are_those_of_go(pattern: str, name: str, fits: bool) -> None:
    """`docker images` patterns: a star stops at a slash, a class may be negated or have escapes."""
    assert r.matches(pattern, r.parse_normalized(name)) is fits


@pytest.mark.parametrize("pattern", ["[", "[]", "[^]", "[a", "[a-]", "[-a]", "a\\", "[]a]"])
def test_a_malformed_pattern_is_an_error_also_where_nothing_fits(pattern: str) -> None:
    """Silence would read as "no such image"."""
    with pytest.raises(InvalidArgument, match="invalid pattern"):
        r.matches(pattern, r.parse_normalized("zzz"))


def test_a_pattern_of_many_stars_is_not_slow() -> None:
    """Backtracking over 30 stars would not end today."""
    ref = r.parse_normalized("example.com/" + "a" * 200)
    started = time.monotonic()
    assert not r.matches("example.com/" + "a*" * 30 + "b", ref)
    assert time.monotonic() - started < 1


@fuzz
@given(st.text(alphabet="aZ0.:/@-_[]\\*?^\n é", max_size=80), st.text(alphabet="aZ.:/-]", max_size=30))
def test_no_text_does_more_than_be_refused(text: str, name: str) -> None:
    """Every reading ends, and ends in a value or InvalidArgument."""
    for read in (r.parse, r.parse_any, r.parse_docker, r.parse_canonical, r.with_name):
        with suppress(InvalidArgument):
            assert str(read(text))
    with suppress(InvalidArgument):
        r.matches(text, r.parse_normalized(name))


@fuzz
@given(st.from_regex(r.REFERENCE, fullmatch=True))
def test_a_reference_that_is_read_is_written_back_the_same(text: str) -> None:
    """Else a name would change on its way through."""
    with suppress(InvalidArgument):  # a digest of an algorithm that imgtool does not have
        assert str(r.parse(text)) == text
