"""Time as integers: nanoseconds since the epoch, UTC, written as RFC 3339.

The only module that asks what time it is. Record times honour SOURCE_DATE_EPOCH, so that a store
can be built reproducibly; expiries follow the wall clock, so that they expire.
"""

from __future__ import annotations

import os
import re
import time
from functools import lru_cache

from imgtool.errors import InvalidArgument

SECOND = 1_000_000_000
HOUR = 3600 * SECOND
DAY = 24 * HOUR

# Times that RFC 3339 can write: years 0001 to 9999.
_MIN_SECONDS = -62135596800
_MAX_SECONDS = 253402300799

_UNITS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "ms": 1_000_000,
    "s": SECOND,
    "m": 60 * SECOND,
    "h": HOUR,
    "d": DAY,
    "w": 7 * DAY,
}
_PART = r"([0-9]{1,20})(?:\.([0-9]{1,20}))?(ns|us|µs|ms|s|m|h|d|w)"

_RFC_3339 = r"(?a)(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.(\d{1,64}))?(?:[Zz]|([+-])(\d\d):(\d\d))"


def wall() -> int:
    """The wall clock, in nanoseconds since the epoch: what expiries are compared with."""
    return time.time_ns()


def now() -> int:
    """The time to write into a record, in nanoseconds: SOURCE_DATE_EPOCH if set, else the wall clock.

    Raises:
        InvalidArgument: SOURCE_DATE_EPOCH is set and is not a whole number of seconds.
    """
    epoch = source_date_epoch()
    return wall() if epoch is None else epoch * SECOND


def source_date_epoch() -> int | None:
    """The seconds of SOURCE_DATE_EPOCH; None if it is not set.

    Raises:
        InvalidArgument: it is not a whole number of seconds.
    """
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    if not epoch:
        return None
    if not (epoch.isascii() and epoch.isdigit() and len(epoch) <= 12 and int(epoch) <= _MAX_SECONDS):
        raise InvalidArgument(f"SOURCE_DATE_EPOCH is '{epoch[:40]}', expected whole seconds since 1970")
    return int(epoch)


@lru_cache
def format_time(ns: int) -> str:
    """RFC 3339 in UTC, always with nine decimals: the one form that records use."""
    seconds, rest = divmod(ns, SECOND)
    t = time.gmtime(seconds)
    day = f"{t.tm_year:04d}-{t.tm_mon:02d}-{t.tm_mday:02d}"
    return f"{day}T{t.tm_hour:02d}:{t.tm_min:02d}:{t.tm_sec:02d}.{rest:09d}Z"


def parse_time(text: str) -> int:
    """Nanoseconds since the epoch of an RFC 3339 time; decimals past the ninth are dropped.

    Raises:
        InvalidArgument: `text` is not RFC 3339 (section 5.6), or no such day or hour exists.
    """
    # What `format_time` writes; many records are of the same second.
    if len(text) == 30 and text[19] == "." and text[29] == "Z" and text.isascii() and text[20:29].isdigit():
        try:
            return _parse_time(text[:19] + "Z") + int(text[20:29])
        except InvalidArgument:
            pass
    return _parse_time(text)


@lru_cache
def _parse_time(text: str) -> int:
    m = re.fullmatch(_RFC_3339, text)
    if m:
        year, month, day, hour, minute, second = map(int, m.groups()[:6])
        offset_h, offset_m = int(m[9] or 0), int(m[10] or 0)
        if (
            year >= 1
            and 1 <= month <= 12
            and 1 <= day <= _days_in(year, month)
            and hour <= 23
            and minute <= 59
            and second <= 59
            and offset_h <= 23
            and offset_m <= 59
        ):
            seconds = _days(year, month, day) * 86400 + hour * 3600 + minute * 60 + second
            seconds -= (offset_h * 3600 + offset_m * 60) * (-1 if m[8] == "-" else 1)
            if _MIN_SECONDS <= seconds <= _MAX_SECONDS:
                return seconds * SECOND + int((m[7] or "").ljust(9, "0")[:9])
    raise InvalidArgument(f"'{text[:64]}' is not an RFC 3339 time")


def parse_duration(text: str) -> int:
    """Nanoseconds in a duration as Go writes them, such as `24h`, `1h30m` or `0.5s`; also with days and
    weeks of whole days: `30d`, `2w`. `0` needs no unit. Fractions of a nanosecond are dropped.

    Raises:
        InvalidArgument: `text` is none, is negative, or longer than 292 years.
    """
    parts = re.findall(_PART, text)
    if text != "0" and not (parts and re.fullmatch(f"(?:{_PART})+", text)):
        raise InvalidArgument(f"'{text[:64]}' is not a duration", hint="such as 90s, 24h, 1h30m or 30d")
    total = 0
    for whole, fraction, unit in parts:
        total += int(whole) * _UNITS[unit] + int(fraction or 0) * _UNITS[unit] // 10 ** len(fraction)
    if total >= 2**63:
        raise InvalidArgument(f"'{text[:64]}' is longer than 292 years")
    return total


# The standard library's `calendar` takes 3 ms to import.
def _days(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01, in the Gregorian calendar."""
    # Years that begin in March, so that the leap day is the last one.
    year, month = (year, month - 3) if month > 2 else (year - 1, month + 9)
    leap_days = year // 4 - year // 100 + year // 400
    return year * 365 + leap_days + (153 * month + 2) // 5 + day - 719469


def _days_in(year: int, month: int) -> int:
    following = (year, month + 1, 1) if month < 12 else (year + 1, 1, 1)
    return _days(*following) - _days(year, month, 1)
