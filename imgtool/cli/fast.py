"""The way around Typer for what shells call in loops: importing Typer takes most of a short command's time.

Only exact forms of `list`, `resolve`, `exists` and `--version` go this way, and of `gc --auto` where no
gc is due; whatever else, a mistake or `--help` among it, is left to `imgtool.cli.app`. A test runs every
form both ways and compares.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from imgtool import __version__
from imgtool.cli import listing
from imgtool.cli.table import ALIASES

if TYPE_CHECKING:
    from imgtool.cli.context import Context

# Option -> attribute of Context, anywhere in the line.
GLOBAL_FLAGS = {"-q": "quiet", "--quiet": "quiet"}
GLOBAL_VALUES = {
    "--root": "root_option",
    "-n": "namespace_option",
    "--namespace": "namespace_option",
    "--format": "format",
}
_ZERO = {"-0": "zero", "--zero": "zero"}


def _gc(c: Context, _words: Sequence[str], *, auto: bool = False, zero: bool = False) -> bool:
    """`imgtool gc --auto` where no gc is due; False otherwise."""
    if not auto:
        return False
    from imgtool.cli.gc import GARBAGE
    from imgtool.ops.auto import due

    if due(c.store()):
        return False
    c.out.rows(GARBAGE, (), {}, zero=zero, header=False)
    return True


# Command -> what it calls, which may yet leave it by returning False; and option -> parameter of that,
# behind the command's name.
COMMANDS: dict[str, tuple[Callable[..., bool | None], dict[str, str]]] = {
    "list": (
        listing.show,
        {
            "-A": "all_namespaces",
            "--all-namespaces": "all_namespaces",
            "--no-trunc": "whole",
            "--bytes": "exact",
            **_ZERO,
        },
    ),
    "resolve": (listing.resolve, _ZERO),
    "exists": (listing.exists, _ZERO),
    "gc": (_gc, {"--auto": "auto", **_ZERO}),
}
_WORDLESS = {"gc"}


def invoke(argv: Sequence[str], context: Context) -> bool:
    """Run `argv` if it has one of the exact forms; returns whether it has.

    Raises:
        whatever the command raises.
    """
    if list(argv) == ["--version"]:
        context.out.write(f"imgtool {__version__}\n")
        return True
    command, words, flags, settings = "", list[str](), dict[str, bool](), dict[str, object]()
    rest = iter(argv)
    for word in rest:
        known = COMMANDS[command][1] if command else {}
        if word in GLOBAL_FLAGS:
            settings[GLOBAL_FLAGS[word]] = True
        elif word in GLOBAL_VALUES:
            value = next(rest, None)
            if value is None:
                return False
            settings[GLOBAL_VALUES[word]] = value
        elif word in known:
            flags[known[word]] = True
        elif (len(word) > 1 and word.startswith("-")) or command in _WORDLESS:
            return False
        elif command:
            words.append(word)
        else:
            command = ALIASES.get(word, word)
            if command not in COMMANDS:
                return False
    if not command:
        return False
    for name, setting in settings.items():
        setattr(context, name, setting)
    context.out.check()
    return COMMANDS[command][0](context, words, **flags) is not False
