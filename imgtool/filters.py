"""containerd's filter language: one parser for images, content, ingests, leases and namespaces.

    filter   = selector *("," selector)             all must hold; an empty filter always holds
    selector = path [("==" | "!=" | "~=") value]    without operator: the field is present
    path     = field *("." field)                   field: [A-Za-z0-9_]+ or "quoted"
    value    = quoted, or anything up to a comma or white space

Grammar, meaning and the text of errors are those of containerd's `pkg/filters`. `!=` holds for an
absent field too. `~=` searches with RE2, and only its value may also be quoted as /…/ or |…|.
Where containerd's error points into the middle of a character, ours shows the whole character.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, NoReturn

from imgtool.errors import InvalidArgument
from imgtool.model import ContentInfo, Image, IngestStatus, Lease, Namespace

Adaptor = Callable[[Sequence[str]], tuple[str, bool]]
"""What a filter asks of a thing: field path -> its value and whether it is present."""


class _Selector(NamedTuple):
    path: tuple[str, ...]
    test: Callable[[str, bool], bool]


class Filter:
    """Made by `compile`."""

    def __init__(self, alternatives: Sequence[Sequence[_Selector]]) -> None:
        self._alternatives = alternatives

    def matches(self, adaptor: Adaptor) -> bool:
        """Whether the thing behind `adaptor` meets one of the filters."""
        return any(all(s.test(*adaptor(s.path)) for s in selectors) for selectors in self._alternatives)


def compile(filters: Sequence[str]) -> Filter:
    """One filter that holds where any of `filters` does; none at all match everything.

    Raises:
        InvalidArgument: one cannot be parsed; the message shows where.
    """
    return Filter([_Parser(text).selectors() for text in filters] or [[]])


def image_fields(image: Image) -> Adaptor:
    """`name`, `target.digest`, `target.mediatype`, `labels.KEY`, `annotations.KEY` (of the target)."""

    def field(path: Sequence[str]) -> tuple[str, bool]:
        match path:
            case ["name", *_]:
                return image.name, bool(image.name)
            case ["target", "digest", *_]:
                return image.target.digest, bool(image.target.digest)
            case ["target", "mediatype", *_]:
                return image.target.media_type, bool(image.target.media_type)
            case ["annotations", *key]:
                return _entry(image.target.annotations, key)
        return _label(image.labels, path)

    return field


def content_fields(info: ContentInfo) -> Adaptor:
    """`digest`, `labels.KEY`. `size` is absent, as in containerd."""
    return _named("digest", info.digest, info.labels)


def ingest_fields(status: IngestStatus) -> Adaptor:
    """`ref`."""
    return _named("ref", status.ref, {})


def lease_fields(lease: Lease) -> Adaptor:
    """`id`, `labels.KEY`."""
    return _named("id", lease.id, lease.labels)


def namespace_fields(namespace: Namespace) -> Adaptor:
    """`name`, `labels.KEY`."""
    return _named("name", namespace.name, namespace.labels)


def _named(field: str, value: str, labels: Mapping[str, str]) -> Adaptor:
    return lambda path: (value, True) if path[0] == field else _label(labels, path)


def _label(labels: Mapping[str, str], path: Sequence[str]) -> tuple[str, bool]:
    return _entry(labels, path[1:]) if path[0] == "labels" else ("", False)


def _entry(mapping: Mapping[str, str], path: Sequence[str]) -> tuple[str, bool]:
    key = ".".join(path)
    return mapping.get(key, ""), key in mapping


# Go's unicode.IsSpace; str.isspace has U+001C to U+001F too.
_SPACE = frozenset("\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000") | {
    chr(c) for c in range(0x2000, 0x200B)
}
_FIELD = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_")
_OPERATOR = frozenset("=!~")
_SEPARATOR = frozenset(",.")
_QUOTE = frozenset('"/|')
_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\"}
_REPLACEMENT = "\ufffd"
_HEX = frozenset("0123456789abcdefABCDEF")
_OCTAL = frozenset("01234567")
# Escape letter -> number of digits.
_NUMERIC = {"x": 2, "u": 4, "U": 8}


class _Parser:
    """Reads one filter. `pos` is the next character to read."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.pos = 0

    def selectors(self) -> list[_Selector]:
        if not self.text:
            return []
        selectors = [self.selector()]
        while c := self.peek():
            if c != ",":
                self.fail(self.pos, f"unexpected input: {_REPLACEMENT if _illegal(c) else c}")
            self.pos += 1
            selectors.append(self.selector())
        return selectors

    def selector(self) -> _Selector:
        path = [self.field()]
        while self.peek() == ".":
            self.pos += 1
            path.append(self.field())
        if self.peek() in ("", ","):
            return _Selector(tuple(path), lambda _, present: present)
        operator = self.operator()
        value = self.value(any_quote=operator == "~=")
        if operator == "==":
            return _Selector(tuple(path), lambda found, present: present and found == value)
        if operator == "!=":
            return _Selector(tuple(path), lambda found, _: found != value)
        search = _search(value)
        return _Selector(tuple(path), lambda found, _: search(found))

    def field(self) -> str:
        start, kind, text = self.token(in_value=False)
        if kind == "quoted":
            return self.unquote(start, text)
        if kind != "field":
            self.fail(start, "expected field or quoted")
        return text

    def operator(self) -> str:
        start, kind, text = self.token(in_value=False)
        if kind != "operator":
            self.fail(start, 'expected an operator ("=="|"!="|"~=")')
        if text not in ("==", "!=", "~="):
            self.fail(start, f'unsupported operator "{text}"')
        return text

    def value(self, any_quote: bool) -> str:
        start, kind, text = self.token(in_value=True)
        if kind == "quoted":
            return self.unquote(start, text, any_quote)
        if kind != "value":
            self.fail(start, "expected value or quoted")
        return text

    def token(self, in_value: bool) -> tuple[int, str, str]:
        """The next token: where it starts, its kind, its text; kind "" is none that could be wanted."""
        while self.peek() in _SPACE:
            self.pos += 1
        start, c, kind = self.pos, self.peek(), ""
        if wrong := _illegal(c):
            self.fail(start, wrong)
        if c in _QUOTE:
            self.skip_quoted()
            kind = "quoted"
        elif c in _OPERATOR:
            self.skip(lambda c: c in _OPERATOR)
            kind = "operator"
        elif c in _SEPARATOR or not c:
            pass
        elif in_value:
            self.pos += 1
            self.skip(_continues_value)
            kind = "value"
        elif c in _FIELD:
            self.skip(lambda c: c in _FIELD)
            kind = "field"
        return start, kind, self.text[start : self.pos]

    def peek(self) -> str:
        """The next character, empty at the end."""
        return self.text[self.pos : self.pos + 1]

    def skip(self, wanted: Callable[[str], bool]) -> None:
        while (c := self.peek()) and wanted(c):
            self.pos += 1

    def skip_quoted(self) -> None:
        start, quote = self.pos, self.peek()
        self.pos += 1
        while (c := self.peek()) != quote:
            if wrong := _illegal(c):
                self.fail(start, wrong)
            if c in ("", "\n"):
                self.fail(start, "quoted literal not terminated")
            self.pos += 1
            if c == "\\":
                self.skip_escape(start, quote)
        self.pos += 1

    def skip_escape(self, start: int, quote: str) -> None:
        c = self.peek()
        if c == quote or c in _ESCAPES:
            self.pos += 1
            return
        if c in _OCTAL:
            digits, count = _OCTAL, 3
        elif c in _NUMERIC:
            digits, count = _HEX, _NUMERIC[c]
            self.pos += 1
        else:
            self.fail(start, _illegal(c) or "illegal escape sequence")
        for _ in range(count):
            if (c := self.peek()) not in digits:
                self.fail(start, _illegal(c) or "illegal numeric escape sequence")
            self.pos += 1

    def unquote(self, start: int, literal: str, any_quote: bool = False) -> str:
        if literal[0] != '"' and not any_quote:
            self.fail(start, "invalid quote encountered")
        try:
            raw = _ESCAPE.sub(_unescape, literal[1:-1].encode())
        except (OverflowError, ValueError):
            self.fail(start, "unquoting failed: quote syntax error")
        # Escapes may spell bytes that are no text; no stored value equals the surrogates that they become.
        return raw.decode(errors="surrogateescape")

    def fail(self, pos: int, reason: str) -> NoReturn:
        c = self.text[pos : pos + 1]
        where = f"{self.text[:pos]} >|{c}|< {self.text[pos + 1 :]}" if c else self.text
        hint = 'a key with other characters than A-Z a-z 0-9 _ needs quotes: labels."example.com/key"'
        raise InvalidArgument(
            f"filters: parse error: [{where}]: {reason}", hint=hint if c and c in "/-" else None
        )


# 1 octal, 2 to 4 hexadecimal, 5 any other: one group each.
_ESCAPE = re.compile(rb"\\(?:([0-7]{3})|x(..)|u(.{4})|U(.{8})|(.))")


def _unescape(m: re.Match[bytes]) -> bytes:
    kind = m.lastindex or 5
    text = m[kind].decode()
    if kind == 5:
        return _ESCAPES.get(text, text).encode()
    value = int(text, 8 if kind == 1 else 16)
    if kind <= 2:
        return bytes([value])
    # As Go, which has no character for half of a surrogate pair.
    return (_REPLACEMENT if 0xD800 <= value <= 0xDFFF else chr(value)).encode()


def _illegal(c: str) -> str:
    """Why containerd's scanner does not accept the character; empty if it does."""
    if c == "\0":
        return "unexpected null"
    # Go decodes bytes that are no UTF-8 to U+FFFD and does not tell the two apart.
    return "rune error" if c == _REPLACEMENT or "\ud800" <= c <= "\udfff" else ""


def _continues_value(c: str) -> bool:
    if c == "," or c in _SPACE or _illegal(c):
        return False
    if c.isascii():
        return c.isprintable()
    import unicodedata

    return unicodedata.category(c)[0] in "LMNPS"


def _search(pattern: str) -> Callable[[str], bool]:
    """Whether RE2 finds `pattern` in a text. One that does not compile is found nowhere, as in containerd."""
    import re2

    # RE2 for C++ also has \C, one byte; Go's does not.
    if r"\C" in re.findall(r"\\Q.*?(?:\\E|\Z)|\\.", pattern, re.DOTALL):
        return lambda text: False
    options = re2.Options()
    options.log_errors = False
    try:
        regexp = re2.compile(pattern, options)
    except (re2.error, UnicodeEncodeError):
        return lambda text: False
    return lambda text: regexp.search(text) is not None
