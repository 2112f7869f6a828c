"""Rows to stdout: table, JSON, template, plain identifiers. Data only; talk is in `failures`.

What a person reads is escaped: a control character, a direction override or a line break in a name
is shown as the `\\xNN` of its bytes. JSON and `-0` carry exact bytes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from imgtool.errors import ImgtoolError, InvalidArgument, from_oserror

if TYPE_CHECKING:
    from imgtool.cli.context import Context

Row = Mapping[str, Any]
"""A row as in JSON."""

NAMESPACE: Mapping[str, Callable[[Row], str]] = {"NAMESPACE": lambda r: str(r["namespace"])}
"""The first column of a table of several namespaces."""
NEVER = "never"
"""In the place of a time that does not come."""
FORMATS = ("table", "json", "jsonl")
_STDOUT = 1
_BLOCK = 1_000  # lines that are written at once: half the time of each by itself


class Kind(NamedTuple):
    """What rows are about: the plural under which JSON has them, the fields that each of them has, in
    their order, and the one that `-q` and `-0` print.
    """

    noun: str
    fields: tuple[str, ...]
    key: str = "name"

    def also(self, *fields: str) -> Kind:
        """The same with further fields behind."""
        return self._replace(fields=self.fields + fields)


class Output:
    """stdout of one call."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def check(self, kind: Kind | None = None, *, zero: bool = False) -> None:
        """Refuse a format that cannot be. A command that changes something before it calls `rows` asks
        first.

        Args:
            kind, zero: of the rows that are to be printed; without, only the format itself is looked at.

        Raises:
            InvalidArgument: it cannot be, does not go with `zero`, or has a field that the rows have not.
        """
        form = self._context.format
        if zero and self._context.json:
            raise InvalidArgument(f"-0 does not go with --format {form}")
        if form not in FORMATS:
            template = Template(form)
            if kind is not None:
                template.check(kind.fields)

    def shows(self, field: str, *, zero: bool = False) -> bool:
        """Whether rows are printed with `field`, beside the one that `-q` prints: what is costly to find
        out need not be, else.
        """
        form = self._context.format
        if form not in FORMATS:
            return field in Template(form).heads()
        return self._context.json or not (self._context.quiet or zero)

    def rows(
        self,
        kind: Kind,
        rows: Iterable[Row],
        columns: Mapping[str, Callable[[Row], str]],
        *,
        zero: bool = False,
        header: bool = True,
        more: Callable[[], Row] = dict,
    ) -> None:
        """Print `rows` in the format that was asked for. Those that came before an error or a signal are
        printed: what they tell of has happened.

        Args:
            kind: what they are.
            rows: read once, and only if `check` has no objection; printed as they come, except in a
                table with a header.
            columns: the table: heading -> cell.
            zero: end each line with NUL, and escape nothing.
            header: print the headings, and align the cells.
            more: what JSON tells of them together, beside the rows; asked for when all are printed.

        Raises:
            InvalidArgument: as `check` does.
        """
        self.check(kind, zero=zero)
        form, end = self._context.format, "\0" if zero else "\n"
        if form == "json":
            self._json(kind.noun, rows, more)
        elif form == "jsonl":
            for row in rows:
                self.write(json_text(row) + "\n")
        elif form not in FORMATS:
            template = Template(form)
            for row in rows:
                self.write(template.render(row, exact=zero) + end)
        elif self._context.quiet or zero:
            for row in rows:
                text = str(row[kind.key])
                self.write((text if zero else safe(text)) + end)
        elif header:
            self._table(rows, columns)
        else:
            for row in rows:
                self.write(" ".join(_cells(row, columns)).rstrip() + "\n")

    def document(self, noun: str, row: Row, text: Callable[[], str]) -> None:
        """Print one thing: JSON as `{"schema": 1, noun: …}`, a template, or `text()`."""
        if self._context.json:
            self.write(json_text({"schema": 1, noun: row}) + "\n")
        elif self._context.format not in FORMATS:
            template = Template(self._context.format)
            template.check(row)
            self.write(template.render(row) + "\n")
        else:
            self.write(text())

    def write(self, text: str) -> None:
        """Write text as UTF-8.

        Raises:
            ImgtoolError: stdout is closed or full; BrokenPipeError: nobody reads it any more.
        """
        self._write(text.encode("utf-8", "surrogateescape"))

    def stream(self) -> Callable[[bytes], None]:
        """The function that writes one content, part by part. It raises InvalidArgument where stdout is
        a terminal and the part is no plain text, and then writes nothing of it.
        """
        if sys.stdout is None or not sys.stdout.isatty():
            return self._write
        text = PlainText()

        def write(data: bytes) -> None:
            if not text.goes_on(data):
                raise InvalidArgument(
                    "binary content is not written to a terminal", hint="redirect stdout to a file or a pipe"
                )
            self._write(data)

        return write

    def flush(self) -> None:
        """Hand everything to the system.

        Raises:
            ImgtoolError: stdout is full; BrokenPipeError: nobody reads it any more.
        """
        if sys.stdout is not None:
            self._context.clear_line()
            try:
                sys.stdout.flush()
            except OSError as error:
                raise _lost(error) from None

    def _write(self, data: bytes) -> None:
        if sys.stdout is None:
            raise ImgtoolError("cannot write to stdout: it is closed")
        self._context.clear_line()  # the buffer may be full
        try:
            sys.stdout.buffer.write(data)
        except OSError as error:
            raise _lost(error) from None

    def _json(self, noun: str, rows: Iterable[Row], more: Callable[[], Row]) -> None:
        before = opening = f'{{"schema": 1, {json_text(noun)}: [\n'
        further = ""
        try:
            for row in rows:
                self.write(before + json_text(row))
                before = ",\n"
            further = "".join(f", {json_text(key)}: {json_text(value)}" for key, value in more().items())
        finally:
            if before != opening:
                self.write(f"\n]{further}}}\n")
        if before == opening:
            self.write(f"{opening.rstrip()}]{further}}}\n")

    def _table(self, rows: Iterable[Row], columns: Mapping[str, Callable[[Row], str]]) -> None:
        lines = [list(columns)]
        try:
            for row in rows:
                lines.append(_cells(row, columns))
        except BaseException:
            if len(lines) > 1:
                self._aligned(lines)
            raise
        self._aligned(lines)

    def _aligned(self, lines: list[list[str]]) -> None:
        is_ascii = all(all(map(str.isascii, line)) for line in lines)
        size, pad = (len, str.ljust) if is_ascii else (width, _padded)
        *widths, _ = (max(map(size, column)) for column in zip(*lines, strict=True))
        for at in range(0, len(lines), _BLOCK):
            block = ([*map(pad, line, widths), line[-1]] for line in lines[at : at + _BLOCK])
            self.write("".join(f"{' '.join(cells).rstrip()}\n" for cells in block))


def _padded(cell: str, size: int) -> str:
    return cell + " " * (size - width(cell))


def _cells(row: Row, columns: Mapping[str, Callable[[Row], str]]) -> list[str]:
    return [safe(cell(row)) or "-" for cell in columns.values()]


def _lost(error: OSError) -> Exception:
    """What to raise when stdout fails; from here on it is /dev/null, so that the exit of the
    interpreter does not fail once more.
    """
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, _STDOUT)
    os.close(null)
    return error if isinstance(error, BrokenPipeError) else from_oserror(error, "cannot write to stdout")


class Template:
    """`{field}`, `{field.key}`; `{{`, `}}`, `\\t`, `\\n`, `\\\\` as usual. Fields are those of a JSON row.

    Raises:
        InvalidArgument: braces do not pair, or there are none.
    """

    def __init__(self, text: str) -> None:
        if "{" not in text:
            raise InvalidArgument(
                f"unknown format '{text}'",
                hint=f"use {', '.join(FORMATS)} or a template such as '{{name}} {{target.digest}}'",
            )
        self._parts = list(_parse(text))

    def heads(self) -> set[str]:
        """The fields that it shows something of."""
        return {path.partition(".")[0] for _, path in self._parts if path is not None}

    def check(self, fields: Iterable[str]) -> None:
        """
        Raises:
            InvalidArgument: it has one that is not among `fields`.
        """
        known = list(fields)
        for unknown in sorted(self.heads().difference(known)):
            raise InvalidArgument(
                f"unknown field '{unknown}' in the template", hint=f"fields: {', '.join(known)}"
            )

    def render(self, row: Row, *, exact: bool = False) -> str:
        """The line for `row`, escaped unless `exact`."""
        done = []
        for literal, path in self._parts:
            done.append(literal)
            if path is not None:
                text = _field(row, path)
                done.append(text if exact else safe(text))
        return "".join(done)


def _parse(text: str) -> Iterator[tuple[str, str | None]]:
    """Pairs of literal text and the field behind it."""
    literal, i = "", 0
    while i < len(text):
        c, pair = text[i], text[i : i + 2]
        if pair in ("{{", "}}", "\\\\", "\\t", "\\n"):
            literal += {"{{": "{", "}}": "}", "\\\\": "\\", "\\t": "\t", "\\n": "\n"}[pair]
            i += 2
        elif c == "{":
            end = text.find("}", i)
            if end <= i + 1:
                raise InvalidArgument(f"'{{' at position {i + 1} of the template is not closed by a field")
            yield literal, text[i + 1 : end]
            literal, i = "", end + 1
        elif c == "}":
            raise InvalidArgument(f"'}}' at position {i + 1} of the template closes nothing", hint="write }}")
        else:
            literal += c
            i += 1
    yield literal, None


def _field(row: Row, path: str) -> str:
    head, _, rest = path.partition(".")
    found = row[head]
    while rest:
        if not isinstance(found, Mapping):
            return ""
        if rest in found:
            found, rest = found[rest], ""
        else:
            head, _, rest = rest.partition(".")
            found = found.get(head)
    if found is None:
        return ""
    return found if isinstance(found, str) else json_text(found)


def json_text(thing: Any) -> str:
    """JSON in one line: readable UTF-8, and `\\uNNNN` for what must not reach a terminal."""
    import json

    return _json_safe(json.dumps(thing, ensure_ascii=False))


def json_indented(thing: Any) -> Iterator[str]:
    """JSON for a person, as `json_text`, in small pieces: a tree may have a hundred thousand branches."""
    import json

    yield from map(_json_safe, json.JSONEncoder(ensure_ascii=False, indent=2).iterencode(thing))


def _json_safe(text: str) -> str:
    return text if text.isprintable() else "".join(map(_json_char, text))


def _json_char(c: str) -> str:
    # DEL, C1 controls, separators and lone surrogates are legal in a Python string but not on a terminal.
    # Line feeds stand only between values.
    return c if c.isprintable() or c == "\n" else "".join(f"\\u{unit:04x}" for unit in _utf16(ord(c)))


def _utf16(point: int) -> tuple[int, ...]:
    if point < 0x10000:
        return (point,)
    point -= 0x10000
    return 0xD800 + (point >> 10), 0xDC00 + (point & 0x3FF)


def safe(text: str) -> str:
    """`text` for a terminal: what is not printable becomes the `\\xNN` of its UTF-8 bytes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else "".join(f"\\x{b:02x}" for b in _bytes_of(c)) for c in text)


def _bytes_of(c: str) -> bytes:
    # Python keeps a byte of argv that is no UTF-8 as U+DC80 to U+DCFF.
    return c.encode("utf-8", "surrogateescape" if "\udc80" <= c <= "\udcff" else "surrogatepass")


class PlainText:
    """Bytes that come in parts, and are safe on a terminal as they are; characters may lie across parts."""

    def __init__(self) -> None:
        from codecs import getincrementaldecoder

        self._decoder = getincrementaldecoder("utf-8")()

    def goes_on(self, data: bytes) -> bool:
        """Whether they still are, with `data` behind the parts before."""
        try:
            text = self._decoder.decode(data)
        except UnicodeDecodeError:
            return False
        return all(c.isprintable() or c in "\t\n\r" for c in text)


def width(text: str) -> int:
    """The columns that `text` takes on a terminal."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(c) else 2 if east_asian_width(c) in "WF" else 1 for c in text)


def size_text(size: int, *, exact: bool = False) -> str:
    """A size for a person: IEC units with one decimal, or the bytes."""
    if exact or size < 1024:
        return str(size) if exact else f"{size} B"
    number, units = size / 1024, iter(("KiB", "MiB", "GiB", "TiB", "PiB", "EiB"))
    unit = next(units)
    while number >= 1023.95:
        number, unit = number / 1024, next(units)
    return f"{number:.1f} {unit}"


def short(digest: str, *, whole: bool = False) -> str:
    """A digest for a person: the algorithm and twelve digits."""
    algorithm, colon, encoded = digest.partition(":")
    return digest if whole else f"{algorithm}{colon}{encoded[:12]}"


def labels_text(labels: Mapping[str, str], *, whole: bool = False) -> str:
    """Labels for a person, sorted: `k=v,…`, cut after 40 characters."""
    text = ",".join(f"{k}={v}" for k, v in sorted(labels.items()))
    return text if whole or len(text) <= 40 else text[:39] + "…"
