"""Platforms: the cases of containerd/platforms, with this machine where a case says so."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgtool.errors import InvalidArgument
from imgtool.model import Platform, replace
from imgtool.oci import platforms as p

SHARED = Path(os.environ.get("IMGTOOL_SHARED") or Path(__file__).parents[3] / "shared")
CASES = SHARED / "cases" / "platforms.json"
fuzz = settings(derandomize=bool(os.environ.get("CI")), deadline=1000)


def platform(fields: dict[str, Any]) -> Platform:
    return Platform(
        fields["os"],
        fields["architecture"],
        fields["variant"],
        fields["os.version"],
        tuple(fields["os.features"]),
    )


def here(value: Any) -> Any:
    """`value` with this machine's names in the place of `$HOST_…`."""
    if isinstance(value, str):
        host = p.host()
        variant = host.variant if host.architecture == "arm" else ""
        names = {"$HOST_OS": host.os, "$HOST_ARCH": host.architecture, "$HOST_VARIANT": variant}
        if any(n in value for n in names):
            for name, text in names.items():
                value = value.replace(name, text)
            value = value.removesuffix("/")
        return value
    if isinstance(value, dict):
        return {k: here(v) for k, v in value.items()}
    return value


def formatted(case: dict[str, Any]) -> str:
    return (p.format_all if case["with_osversion"] else p.format)(p.parse(case["input"]))


def ordered(order: p.Order, case: dict[str, Any]) -> list[str]:
    by_platform = {p.parse(text): text for text in case["platforms"]}
    return [by_platform[found] for found in order.sorted(by_platform)]


# What each kind of case asks; the answer is compared with `expected`.
ASK: dict[str, Callable[[dict[str, Any]], Any]] = {
    "parse": lambda c: p.normalize(p.parse(c["input"])),
    "format": formatted,
    "format_all": lambda c: p.format_all(platform(c["platform"])),
    "match": lambda c: p.matches(p.parse(c["input"]), platform(c["candidate"])),
    "only": lambda c: p.only(p.parse(c["input"])).accepts(p.parse(c["candidate"])),
    "only_strict": lambda c: p.only_strict(p.parse(c["input"])).accepts(p.parse(c["candidate"])),
    "only_os": lambda c: p.only_os(p.parse(c["input"])).accepts(p.parse(c["candidate"])),
    "sort_only": lambda c: ordered(p.only(p.parse(c["input"])), c),
    "sort_only_os": lambda c: ordered(p.only_os(p.parse(c["input"])), c),
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
def test_platforms_are_read_as_containerd_reads_them(op: str) -> None:
    """`--platform` must choose what `ctr` would choose, and the list must show it alike."""
    wrong = []
    for case in (c for c in cases() if c["op"] == op):
        expected = here(case.get("expected"))
        if op == "parse" and case["valid"]:
            expected = p.normalize(platform(expected))
        try:
            found = ASK[op](case)
        except InvalidArgument:
            if case["valid"]:
                wrong.append((case, "refused"))
        else:
            if not case["valid"] or found != expected:
                wrong.append((case, found))
    assert not wrong


@pytest.mark.parametrize(
    ("container", "runs"),
    [("10.0.20348", True), ("10.0.26100.1", True), ("10.0.17763", False), ("11.0.26100", False), ("", True)],
)
def test_windows_runs_containers_from_the_long_term_release_before_it(container: str, runs: bool) -> None:
    """Since Server 2022 the kernel's interface is stable; before, builds must be the same."""
    host = p.parse("windows(10.0.26100)/amd64")
    assert p.matches(host, Platform("windows", "amd64", os_version=container)) is runs
    old = p.parse("windows(10.0.17763)/amd64")
    assert p.matches(old, Platform("windows", "amd64", os_version="10.0.17763.9"))
    assert not p.matches(old, Platform("windows", "amd64", os_version="10.0.20348"))


def test_every_windows_has_win32k() -> None:
    """Images have named that feature since before anything matched features."""
    needs = Platform("windows", "amd64", os_features=("win32k",))
    assert p.matches(Platform("windows", "amd64"), needs)
    assert not p.matches(Platform("linux", "amd64"), replace(needs, os="linux"))


def test_an_arm64_variant_that_nobody_knows_takes_nothing() -> None:
    """As in containerd: to run 32-bit programs on it would be a guess."""
    assert not p.only(Platform("linux", "arm64", "v99")).accepts(Platform("linux", "arm", "v7"))


def test_arm64_v9_takes_the_v8_that_it_contains() -> None:
    """v9.2 has all of v8.7 and nothing of v8.8."""
    order = p.only(p.parse("linux/arm64/v9.2"))
    assert order.accepts(p.parse("linux/arm64/v8.7"))
    assert not order.accepts(p.parse("linux/arm64/v8.8"))


@pytest.mark.parametrize(
    "text", ["linux(%zz)", "linux(%ff)", "linux(1+)", "linux\n", "linux/amd64\n", "línux"]
)
def test_what_is_no_specifier_is_refused(text: str) -> None:
    """Bad escapes, a missing feature, a line feed at the end, letters of other scripts."""
    with pytest.raises(InvalidArgument):
        p.parse(text)


@fuzz
@given(st.text(alphabet="linuxarm64/v8(+)%2Bé.*\n", max_size=40))
def test_no_text_does_more_than_be_refused(text: str) -> None:
    """What is read is written and read again as the same."""
    try:
        found = p.parse(text)
    except InvalidArgument:
        return
    assert p.only(found).accepts(found) or found.architecture == "arm64"
    assert p.normalize(p.parse(p.format_all(found))) == p.normalize(found)
