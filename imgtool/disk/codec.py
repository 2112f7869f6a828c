"""Records to bytes and back: TOML with a seal. The only module that imports tomllib and tomli_w.

A record is read from its canonical form by a small parser of our own, because it is a tenth of the
cost of tomllib; any line that is not exactly canonical sends the whole text to tomllib. One form is
written: the keys in the order they are given, labels sorted, and a last line that seals the bytes
before it. See imgtool-store(5).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from imgtool.digest import SHA256, Digest
from imgtool.errors import DataLoss, InvalidArgument

Record = dict[str, Any]

RECORD_MAX = 1 << 20
_SEAL = b"# sha256:"
_SEAL_LENGTH = len(_SEAL) + 64 + 1
_SEALED = re.compile(rb".{%d}[0-9a-f]{64}\n?" % len(_SEAL), re.DOTALL)
_DOTS_MAX = 16
_NESTING_MAX = 16
_TABLES_MAX = 1000

# Characters that a terminal or an editor may act on, and that TOML lets stand raw.
_ESCAPED = "[\x7f-\x9f\u2028\u2029\ufeff\u202a-\u202e\u2066-\u2069]"
# Strings of one line, also those without an end; and the begin of one of many lines, in a group.
_STRINGS = rb'("""|\'\'\').*|"(?:[^"\\]|\\.)*"?|\'[^\']*\'?'
# A line of the canonical form: key and value, the head of a table, or nothing.
_LINES = re.compile(
    r'^(?:(?:([A-Za-z0-9_-]+)|"([^"\\\x00-\x1f\x7f]+)") = (?:"([^"\\\x00-\x1f\x7f]*)"|(0|[1-9][0-9]{0,18}))'
    r"|\[([A-Za-z0-9_-]+)(?:\.([A-Za-z0-9_-]+))?\]|)$",
    re.MULTILINE,
)


def dump(record: Mapping[str, Any], what: str) -> bytes:
    """The canonical, sealed bytes of a record.

    Args:
        record: its keys and values, in order; None values are left out.
        what: the record's name for messages.

    Raises:
        InvalidArgument: the reader would refuse it: too large, or text that is not UTF-8.
    """
    import tomli_w

    try:
        body = re.sub(_ESCAPED, _escape, tomli_w.dumps(record)).encode()
    except UnicodeEncodeError:
        raise InvalidArgument(f"{what} holds text that is not valid UTF-8") from None
    except (TypeError, ValueError):
        raise InvalidArgument(f"{what} holds a value that TOML does not have, such as null") from None
    if _is_deep(body):
        raise InvalidArgument(f"{what} is nested too deep")
    data = body + seal(body)
    if len(data) > RECORD_MAX:
        raise InvalidArgument(f"{what} would have {len(data)} bytes, at most {RECORD_MAX} fit")
    return data


def seal(body: bytes) -> bytes:
    """The line that seals `body`."""
    return _SEAL + Digest.of(body, SHA256).encoded.encode() + b"\n"


def load(data: bytes, path: str) -> Record:
    """The record that `data` holds, its seal compared.

    Raises:
        DataLoss: the seal does not fit, or it is not TOML within imgtool's limits.
    """
    if len(data) > RECORD_MAX:
        raise DataLoss(f"record '{path}' has {len(data)} bytes, at most {RECORD_MAX} are read")
    body = data[: _seal_start(data)]
    if len(body) != len(data) and data[len(body) :] != seal(body):
        raise DataLoss(
            f"record '{path}' does not fit its seal",
            hint="if it was edited on purpose, delete its last line, the seal; else restore it",
        )
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise DataLoss(f"record '{path}' is not valid UTF-8") from None
    record = _canonical(text)
    try:
        return parse(text, f"record '{path}'") if record is None else record
    except InvalidArgument as error:
        raise DataLoss(error.message) from None


def is_sealed(data: bytes) -> bool:
    """Whether the last line is a seal, fitting or not."""
    return _seal_start(data) < len(data)


def _seal_start(data: bytes) -> int:
    """Where the last line begins if it is a seal, else the length. A seal that is damaged at its
    front is known by its digits, one that is cut or damaged behind by its front: it must never pass
    for a comment.
    """
    start = data.rfind(b"\n", 0, len(data) - 1) + 1
    last = data[start : start + _SEAL_LENGTH + 1]
    if last.startswith(_SEAL) or (last and _SEAL.startswith(last)) or _SEALED.fullmatch(last):
        return start
    return len(data)


def _escape(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04X}"


def _canonical(text: str) -> Record | None:
    """What `text` holds if each line is of the simplest form; None if one is not."""
    record: Record = {}
    table = record
    lines = _LINES.findall(text)
    if len(lines) != text.count("\n") + 1:
        return None
    for bare, quoted, string, number, outer_key, inner_key in lines:
        if outer_key:
            outer = record.get(outer_key) if inner_key else record
            last = inner_key or outer_key
            if not isinstance(outer, dict) or last in outer:
                return None
            outer[last] = table = {}
        elif key := bare or quoted:
            if key in table:
                return None
            table[key] = int(number) if number else string
    return record


def parse(text: str, what: str) -> Record:
    """What `text` holds, TOML of any form.

    Args:
        text: without a seal.
        what: what to call it in messages.

    Raises:
        InvalidArgument: it is not TOML within imgtool's limits.
    """
    import tomllib

    if _is_deep(text.encode()):
        raise InvalidArgument(f"{what} is nested too deep")
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        reason = str(error)[:200].lower() if isinstance(error, ValueError) else "nested too deep"
        raise InvalidArgument(f"{what} is not TOML: {reason}") from None


def _is_deep(body: bytes) -> bool:
    """Whether tomllib would take long, or fail: dotted keys are quadratic in it, and nesting recurses.
    A string of many lines could hide them; no record has one.
    """
    if body.count(b"\n[") > _TABLES_MAX:
        return True
    for line in body.split(b"\n"):
        if (
            line.count(b".") > _DOTS_MAX
            or line.count(b"[") + line.count(b"{") > _NESTING_MAX
            or b'"""' in line
            or b"'''" in line
        ):
            bare = re.sub(_STRINGS, rb"\1", line)
            if (
                bare.count(b".") > _DOTS_MAX
                or bare.count(b"[") + bare.count(b"{") > _NESTING_MAX
                or bare.endswith((b'"""', b"'''"))
            ):
                return True
    return False
