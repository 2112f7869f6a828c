"""Time as integers, and RFC 3339."""

from __future__ import annotations

import os
import time
from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgtool import clock
from imgtool.errors import InvalidArgument

fuzz = settings(derandomize=bool(os.environ.get("CI")), deadline=None)
FIRST = -62135596800 * clock.SECOND  # 0001-01-01
LAST = 253402300799 * clock.SECOND + 999_999_999


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:00.000000001Z", 1),
        ("1970-01-01t00:00:01z", clock.SECOND),
        ("1969-12-31T23:59:59.5Z", -clock.SECOND // 2),
        ("1970-01-01T00:00:00.1234567899999Z", 123456789),
        ("1970-01-01T01:30:00+01:30", 0),
        ("1969-12-31T23:00:00-01:00", 0),
        ("1970-01-01T00:00:00-00:00", 0),
        ("2024-02-29T12:00:00Z", 1709208000 * clock.SECOND),
        ("0001-01-01T00:00:00Z", FIRST),
        ("9999-12-31T23:59:59.999999999Z", LAST),
    ],
)
def test_rfc_3339_is_read(text: str, ns: int) -> None:
    """Offsets, decimals, and case as section 5.6 has them."""
    assert clock.parse_time(text) == ns


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "1970-01-01",
        "1970-01-01 00:00:00Z",
        "1970-01-01T00:00:00",
        "1970-01-01T00:00Z",
        "1970-1-1T0:0:0Z",
        "1970-13-01T00:00:00Z",
        "1970-00-01T00:00:00Z",
        "1970-01-00T00:00:00Z",
        "2023-02-29T00:00:00Z",
        "1970-01-01T24:00:00Z",
        "1970-01-01T00:60:00Z",
        "1970-01-01T00:00:61Z",
        "1970-01-01T00:00:00.Z",
        "1970-01-01T00:00:00+24:00",
        "1970-01-01T00:00:00+00:60",
        "1970-01-01T00:00:00+0100",
        "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+00:01",
        "9999-12-31T23:59:59-00:01",
        "1970-01-01T00:00:00Z\n",
        " 1970-01-01T00:00:00Z",
        "١٩٧٠-01-01T00:00:00Z",
        "1970-01-01T00:00:00." + "0" * 65 + "Z",
    ],
)
def test_nothing_else_is_a_time(text: str) -> None:
    """Also what cannot be written again: the years 0001 to 9999, in UTC."""
    with pytest.raises(InvalidArgument):
        clock.parse_time(text)


@fuzz
@given(st.integers(FIRST, LAST))
def test_every_time_is_written_in_one_form_and_read_back(ns: int) -> None:
    """Nine decimals, in UTC; the standard library reads the same seconds."""
    text = clock.format_time(ns)
    assert clock.parse_time(text) == ns
    seconds, rest = divmod(ns, clock.SECOND)
    assert text[19:] == f".{rest:09d}Z"
    assert datetime.fromisoformat(text[:19] + "+00:00").timestamp() == seconds


@fuzz
@given(st.text() | st.from_regex(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", fullmatch=True))
def test_any_text_is_a_time_or_an_invalid_argument(text: str) -> None:
    """Labels such as gc.expire are anybody's."""
    try:
        ns = clock.parse_time(text)
    except InvalidArgument:
        return
    assert clock.parse_time(clock.format_time(ns)) == ns


def test_now_is_the_wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless SOURCE_DATE_EPOCH says otherwise; empty says nothing."""
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    before = time.time_ns()
    assert before <= clock.now() <= time.time_ns()
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "")
    assert before <= clock.now() <= time.time_ns()


@pytest.mark.parametrize("epoch", ["0", "1700000000", "253402300799"])
def test_now_is_source_date_epoch_where_it_is_set(monkeypatch: pytest.MonkeyPatch, epoch: str) -> None:
    """Expiries go on by the wall clock."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
    assert clock.now() == int(epoch) * clock.SECOND
    assert clock.parse_time(clock.format_time(clock.now())) == clock.now()
    assert abs(clock.wall() - time.time_ns()) < clock.HOUR


@pytest.mark.parametrize("epoch", ["-1", "1.5", "now", "1e9", " 1", "²", "253402300800", "9" * 13])
def test_another_source_date_epoch_is_refused(monkeypatch: pytest.MonkeyPatch, epoch: str) -> None:
    """Silently taking the wall clock would be a build that is not reproducible."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
    with pytest.raises(InvalidArgument, match="SOURCE_DATE_EPOCH"):
        clock.now()


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("0", 0),
        ("0s", 0),
        ("24h", clock.DAY),
        ("1h30m", 90 * 60 * clock.SECOND),
        ("1.5h", 90 * 60 * clock.SECOND),
        ("0.25s", clock.SECOND // 4),
        ("1ms2us3µs4ns", 1_005_004),
        ("30m1m", 31 * 60 * clock.SECOND),
        ("30d", 30 * clock.DAY),
        ("2w1d", 15 * clock.DAY),
        ("0.9ns", 0),
    ],
)
def test_a_duration_is_written_as_in_go(text: str, ns: int) -> None:
    """`ctr leases create -x` takes these; days and weeks are ours."""
    assert clock.parse_duration(text) == ns


@pytest.mark.parametrize(
    "text",
    ["", "24", "h", "1.h", ".5h", "-1h", "+1h", "1 h", "1h ", "1H", "1h1", "1y", "1h\n", "٣h", "1000000h0"],
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    """A typing error must not make a lease end at once, or never."""
    with pytest.raises(InvalidArgument, match="is not a duration"):
        clock.parse_duration(text)


def test_a_duration_that_no_time_can_hold_is_refused() -> None:
    """As by Go, whose durations end there too."""
    assert clock.parse_duration("15250w") < 2**63
    for text in ("15251w", "9" * 20 + "w"):
        with pytest.raises(InvalidArgument, match="longer than"):
            clock.parse_duration(text)
