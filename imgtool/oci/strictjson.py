"""The one way from foreign bytes to JSON values.

The limits of FAULTS T8 in one place: what two parsers could read differently is refused, and so is
what costs more to read than a document may cost. All that is ever raised is InvalidArgument.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from imgtool.errors import InvalidArgument

LIMIT = 4 * 1024 * 1024
DEPTH = 64

_NUMBER_MAX = 64  # characters; longer ones cost quadratic time
_INT_MIN = -(2**63)
_INT_MAX = 2**64 - 1


def load(raw: bytes, what: str) -> Any:
    """The value of the JSON document `raw` (RFC 8259).

    Args:
        raw: at most 4 MiB of UTF-8 without byte order mark.
        what: names the document in the message.

    Raises:
        InvalidArgument: not that, or no JSON, or bytes after its end; a key twice in one object;
            deeper than 64; NaN, Infinity or a number that fits neither 64 bits nor a double; a lone
            surrogate.
    """
    if len(raw) > LIMIT:
        raise InvalidArgument(f"{what} has {len(raw)} bytes, at most {LIMIT} are read")
    if raw.startswith(b"\xef\xbb\xbf"):
        raise InvalidArgument(f"{what} begins with a byte order mark")
    try:
        value = json.loads(
            raw.decode(),
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_float,
            parse_constant=_constant,
        )
        _check(value)
    except UnicodeDecodeError as e:
        raise InvalidArgument(f"{what} is not UTF-8: byte 0x{raw[e.start]:02x} at {e.start}") from None
    except json.JSONDecodeError as e:
        found = e.msg[:1].lower() + e.msg[1:]
        raise InvalidArgument(f"{what} is not JSON: {found} at line {e.lineno} column {e.colno}") from None
    except _Refused as e:
        raise InvalidArgument(f"{what} {e}") from None
    except RecursionError:
        raise InvalidArgument(f"{what} is nested deeper than {DEPTH}") from None
    return value


def load_object(raw: bytes, what: str) -> dict[str, Any]:
    """The JSON object `raw`.

    Raises:
        InvalidArgument: as `load`, or it is another kind of value.
    """
    value = load(raw, what)
    if not isinstance(value, dict):
        raise InvalidArgument(f"{what} is {kind(value)}, expected an object")
    return value


def check_keys(document: Mapping[str, Any], known: Iterable[str], what: str) -> None:
    """Refuse a key that is one of `known` but for upper and lower case. Go's decoder takes it for
    that one, and of two the last wins: containerd would read another document than we do.

    Raises:
        InvalidArgument: there is such a key.
    """
    folded = {k.casefold(): k for k in known}
    for key in document:
        meant = folded.get(key.casefold(), key)
        if meant != key:
            raise InvalidArgument(f"{what} has the key {key!a}, which some programs read as '{meant}'")


def kind(value: object) -> str:
    """What JSON calls `value`, with its article, for messages."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return "a string"
        case int() | float():
            return "a number"
        case list():
            return "an array"
        case _:
            return "an object"


class _Refused(Exception):
    """Well-formed, and not to be read; its text follows the document's name."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen = set()
        for key, _ in pairs:
            if key in seen:
                raise _Refused(f"has the key {key[:64]!a} twice in one object")
            seen.add(key)
    return found


def _integer(text: str) -> int:
    if len(text) <= _NUMBER_MAX:
        number = int(text)
        if _INT_MIN <= number <= _INT_MAX:
            return number
    raise _Refused(f"has the number {_short(text)}, which does not fit 64 bits")


def _float(text: str) -> float:
    if len(text) <= _NUMBER_MAX:
        number = float(text)
        if math.isfinite(number):
            return number
    raise _Refused(f"has the number {_short(text)}, which does not fit a double")


def _constant(text: str) -> NoReturn:
    raise _Refused(f"has {text}, which is no JSON number")


def _short(text: str) -> str:
    return text if len(text) <= 24 else f"{text[:24]}… ({len(text)} characters)"


def _check(value: Any) -> None:
    """Refuse what is too deep, and text that has no UTF-8 form."""
    level: list[Any] = [[value]]
    for _ in range(DEPTH + 1):
        below: list[Any] = []
        for container in level:
            if isinstance(container, dict):
                for key in container:
                    _check_text(key)
                items: Iterable[Any] = container.values()
            else:
                items = container
            for item in items:
                if isinstance(item, str):
                    _check_text(item)
                elif isinstance(item, dict | list):
                    below.append(item)
        if not below:
            return
        level = below
    raise _Refused(f"is nested deeper than {DEPTH}")


def _check_text(text: str) -> None:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as e:
            raise _Refused(f"has the lone surrogate \\u{ord(text[e.start]):04x}") from None
